"""Proof of a client certificate's key at the doors that ask for one.

A certificate is public and TLS ends at the door: so that nobody behind it can take a caller's name who saw the certificate alone,
the caller signs a nonce of control's with the certificate's key and gets a token of minutes, which counts on connections
with that certificate only.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from wardstream.errors import Invalid, Unauthenticated, error_from

CHALLENGE_PATH = "/api/v1/door-challenges"
TOKEN_PATH = "/api/v1/door-tokens"  # noqa: S105  # an address

_MESSAGE = "wardstream door proof 1"
# A token is replaced this long before it ends, so that a request under way does not outlive it.
_MARGIN_SECONDS = 60.0

Flow = Generator[httpx.Request, httpx.Response, str]


def message(platform: str, door: str, nonce: str) -> bytes:
    """Return what is signed (ECDSA P-256, SHA-256): four lines that are good for one door of one platform, once."""
    return "\n".join((_MESSAGE, platform, door, nonce)).encode("ascii")


def platform_of(root: x509.Certificate) -> str:
    """Return the name of the platform that has this root: SHA-256 of the certificate, in hex."""
    return fingerprint(root.public_bytes(Encoding.DER))


def fingerprint(der: bytes) -> str:
    """Return SHA-256 of a certificate (DER), in hex."""
    return hashlib.sha256(der).hexdigest()


class DoorProof(httpx.Auth):
    """Gets a token when one is needed, and another before it ends or when the door does not know it any more; thread-safe.

    `key_file` is read at each proof, so that a renewed key counts. Raises `Unauthenticated` where the platform does not take the
    certificate, or is another than the one whose root lies in `ca_file`; `Invalid` for a key that cannot sign.
    """

    def __init__(self, *, ca_file: Path, key_file: Path) -> None:
        self._ca_file = ca_file
        self._key_file = key_file
        self._lock = threading.Lock()
        self._held = ("", 0.0)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`. A request that the door refuses for want of a proof had no effect, and is sent once more."""
        token = self._current()
        known = token is not None
        if token is None:
            token = yield from self._prove(request.url)
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401 and known:
            self._forget(token)
            request.headers["Authorization"] = f"Bearer {(yield from self._prove(request.url))}"
            yield request

    def token(self, client: httpx.Client, url: str) -> str:
        """Return a token that is good for another minute at least, for a client that cannot sign; `client` shows the certificate."""
        if held := self._current():
            return held
        flow = self._prove(httpx.URL(url))
        request = next(flow)
        try:
            while True:
                request = flow.send(client.send(request, auth=None))
        except StopIteration as done:
            return str(done.value)

    def _current(self) -> str | None:
        with self._lock:
            token, ends = self._held
        return token if time.monotonic() < ends else None

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._held[0] == token:
                self._held = ("", 0.0)

    def _prove(self, url: httpx.URL) -> Flow:
        asked_at = time.monotonic()
        challenge = _value((yield _post(url, CHALLENGE_PATH, {})))
        signature = self._signed(str(challenge["platform"]), str(challenge["door"]), str(challenge["nonce"]))
        answer = _value((yield _post(url, TOKEN_PATH, {"nonce": challenge["nonce"], "signature": signature})))
        token = str(answer["token"])
        with self._lock:
            # By its life, not by its end: this machine's clock may be wrong.
            self._held = (token, asked_at + float(answer["lifetime_seconds"]) - _MARGIN_SECONDS)
        return token

    def _signed(self, platform: str, door: str, nonce: str) -> str:
        try:
            roots = x509.load_pem_x509_certificates(self._ca_file.read_bytes())
            key = load_pem_private_key(self._key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise Invalid(
                f"{self._ca_file} and {self._key_file} must be the root certificate and an unencrypted key as PEM files"
            ) from error
        if platform not in {platform_of(root) for root in roots}:
            raise Unauthenticated(f"the platform that asks for a proof is not the one whose root certificate lies in {self._ca_file}")
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Invalid(f"{self._key_file} holds no P-256 key, as certificates of this platform have")
        return base64.b64encode(key.sign(message(platform, door, nonce), ec.ECDSA(hashes.SHA256()))).decode("ascii")


def _post(url: httpx.URL, path: str, body: dict[str, Any]) -> httpx.Request:
    address = httpx.URL(scheme=url.scheme, host=url.host, port=url.port, path=path)
    return httpx.Request("POST", address, content=orjson.dumps(body), headers={"Content-Type": "application/json"})


def _value(response: httpx.Response) -> dict[str, Any]:
    content = response.read()
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        found = None
    body: dict[str, Any] = found if isinstance(found, dict) else {}
    if response.status_code >= 400 or not body:
        raise error_from(response.status_code, body.get("code"), str(body.get("message", "")))
    return body
