"""Proof that a caller holds the key of its certificate: challenges, and the tokens that signing one gives.

Challenges are kept by nobody: control seals what they are for into the nonce, and remembers those that were used until they are
too old. Its sealing key is of this run, so that a restart ends every challenge and none is good twice.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from tenancy.model import Door
from wardstream.client.proof import fingerprint, message
from wardstream.clock import Clock
from wardstream.errors import Unauthenticated

CHALLENGE_LIFETIME = timedelta(seconds=60)
TOKEN_LIFETIME = timedelta(minutes=10)

_ALGORITHM = "HS256"
_CHALLENGE, _TOKEN = "wardstream-challenge", "wardstream-door-token"
_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Challenge:
    """What a caller is asked to sign, with the platform and the door that it is for."""

    nonce: str
    platform: str
    door: Door
    expires_at: datetime


@dataclass(frozen=True)
class DoorToken:
    """A proof that counts for minutes, on connections with one certificate."""

    token: str
    expires_at: datetime


@dataclass(frozen=True)
class ShownToken:
    """A token as it came in at a door, and the certificate (SHA-256 in hex) of the connection that it came by."""

    token: str
    certificate_sha256: str


class Possession:
    """Asks for signatures and remembers what they proved. Thread-safe.

    `secret` is control's own and signs tokens; `platform` names the root that callers trust. Whether a certificate is one of
    this platform's, unrevoked and for that door, is for the caller of these to know.
    """

    def __init__(self, *, secret: bytes, platform: str, clock: Clock) -> None:
        self._challenges = OctKey.import_key(secrets.token_bytes(32))
        self._tokens = OctKey.import_key(hmac.digest(secret, b"door-tokens", "sha256"))
        self._platform = platform
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}

    def challenge(self, certificate: x509.Certificate, door: Door) -> Challenge:
        """Return a nonce that is good once, for a minute, for this certificate at this door."""
        ends = self._clock.now() + CHALLENGE_LIFETIME
        nonce = _sealed(self._challenges, _CHALLENGE, _digest(certificate), door, ends, id=secrets.token_hex(16))
        return Challenge(nonce, self._platform, door, ends)

    def token(self, certificate: x509.Certificate, door: Door, nonce: str, signature: str) -> DoorToken:
        """Return a token for whoever signed `nonce` (base64 of an ECDSA signature over SHA-256) with the certificate's key.

        Raises `Unauthenticated` for a nonce that is not of this run, too old, used, or for another certificate or door, and
        for a signature that is not of this key.
        """
        refused = Unauthenticated(
            "the proof is not good: sign a fresh challenge of this door with the key of the certificate that you show"
        )
        claims = _opened(self._challenges, _CHALLENGE, nonce, self._clock.now(), refused)
        if claims["certificate"] != _digest(certificate) or claims["door"] != door.value:
            raise refused
        key = certificate.public_key()
        try:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise refused
            signed = base64.b64decode(signature, validate=True)
            key.verify(signed, message(self._platform, door.value, nonce), ec.ECDSA(hashes.SHA256()))
        except (binascii.Error, ValueError, InvalidSignature) as error:
            raise refused from error
        # Only what was signed well is kept, so that nobody without a key can fill this.
        self._use(str(claims["id"]), float(claims["exp"]), refused)
        ends = min(self._clock.now() + TOKEN_LIFETIME, certificate.not_valid_after_utc)
        serial = format(certificate.serial_number, "x")
        return DoorToken(_sealed(self._tokens, _TOKEN, _digest(certificate), door, ends, serial=serial), ends)

    def serial(self, shown: ShownToken, door: Door) -> int:
        """Return the serial of the certificate whose key the token proves; raises `Unauthenticated` for one that proves nothing here."""
        refused = Unauthenticated("the door's token is not valid, or has ended: sign another challenge (POST /api/v1/door-challenges)")
        claims = _opened(self._tokens, _TOKEN, shown.token, self._clock.now(), refused)
        if not hmac.compare_digest(str(claims["certificate"]), shown.certificate_sha256.lower()) or claims["door"] != door.value:
            raise refused
        return int(str(claims["serial"]), 16)

    def _use(self, id: str, ends: float, refused: Unauthenticated) -> None:
        now = self._clock.now().timestamp()
        with self._lock:
            self._used = {each: until for each, until in self._used.items() if until > now}
            if id in self._used:
                raise refused
            self._used[id] = ends + 1


def _digest(certificate: x509.Certificate) -> str:
    return fingerprint(certificate.public_bytes(Encoding.DER))


def _sealed(key: OctKey, kind: str, certificate: str, door: Door, ends: datetime, **more: str) -> str:
    claims = {"certificate": certificate, "door": door.value, "exp": ends.astimezone(UTC).timestamp(), **more}
    return jws.serialize_compact({"alg": _ALGORITHM, "typ": kind}, orjson.dumps(claims), key)


def _opened(key: OctKey, kind: str, text: str, now: datetime, refused: Unauthenticated) -> Mapping[str, Any]:
    if len(text) > _LONGEST_TEXT:
        raise refused
    try:
        signed = jws.deserialize_compact(text.encode("ascii"), key, algorithms=[_ALGORITHM])
        claims: dict[str, Any] = orjson.loads(signed.payload)
        if signed.headers().get("typ") != kind or now.timestamp() >= float(claims["exp"]):
            raise refused
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise refused from error
    return claims
