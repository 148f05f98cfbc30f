"""Who a request comes from: the caller's own proof goes to control, which answers with a grant of minutes.

The gateway cannot make a grant. At the certificate doors the proof is a token for which the caller signed with its certificate's key. It keeps those it was given until shortly before they expire, or until control
says that the principal was revoked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import Request

from gateway.upstream import Upstream
from tenancy.credentials import SecretKind
from tenancy.grants import GrantVerifier, StaleGrant
from tenancy.model import Door, Principal
from tenancy.routes.people import SOURCE_HEADER
from wardstream.client.proof import fingerprint
from wardstream.errors import Unauthenticated
from wardstream.server import client_certificate

logger = logging.getLogger(__name__)

SESSION_COOKIE = "wardstream_session"
# A grant is taken afresh this long before it ends, so that a request in progress does not outlive it.
_MARGIN_SECONDS = 30.0
_CACHED = 10_000


@dataclass(frozen=True)
class Caller:
    """A verified caller."""

    principal: Principal
    grant: str


@dataclass(frozen=True)
class Doors:
    """The gateway's ports and what each is for."""

    platform: int
    door: int
    outside: int
    inside: int

    def of(self, request: Request) -> Door:
        """Return the door that a request came in by."""
        return Door.INSIDE if self.port(request) == self.inside else Door.OUTSIDE

    def port(self, request: Request) -> int:
        """Return the port that a request came in by."""
        return int(request.scope["server"][1])


class Callers:
    """Turns requests into callers."""

    def __init__(self, control: Upstream, verifier: GrantVerifier, doors: Doors) -> None:
        self._control = control
        self._verifier = verifier
        self._doors = doors
        self._held: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    async def caller(self, request: Request) -> Caller:
        """Return who sent `request`; raises `Unauthenticated` without a valid proof, `Unavailable` when control is away."""
        proof = self._proof(request)
        door = self._doors.of(request)
        key = self._key(proof, door)
        grant, ends = self._held.get(key, ("", 0.0))
        if time.time() > ends:
            grant = await self._fetched(key, proof, door)
        # Verified at each request: a revocation counts at once, whatever is kept here.
        try:
            return Caller(self._verifier.verify(grant), grant)
        except StaleGrant:
            self._held.pop(key, None)
        # Rights have changed since: the same proof is good for a grant that says what is so now.
        grant = await self._fetched(key, proof, door)
        return Caller(self._verifier.verify(grant), grant)

    def session_of(self, request: Request) -> str | None:
        """Return the session that `request` is sent with, or None where something else proves who sent it."""
        return self._proof(request).get("session")

    async def _fetched(self, key: bytes, proof: dict[str, Any], door: Door) -> str:
        answer: Any = await self._control.json("POST", "/internal/v1/grants", json={"proof": proof, "project": None, "door": door.value})
        grant, ends = str(answer["grant"]), datetime.fromisoformat(answer["expires_at"]).timestamp() - _MARGIN_SECONDS
        self._held[key] = (grant, ends)
        while len(self._held) > _CACHED:
            self._held.popitem(last=False)
        return grant

    async def challenge(self, request: Request) -> dict[str, Any]:
        """Return what the caller is to sign with its certificate's key."""
        return await self._possession("/internal/v1/door-challenges", request, {})

    async def door_token(self, request: Request, nonce: str, signature: str) -> dict[str, Any]:
        """Return a token for a signed challenge."""
        return await self._possession("/internal/v1/door-tokens", request, {"nonce": nonce, "signature": signature})

    def require_certificate(self, request: Request) -> None:
        """Raise `Unauthenticated` on a door that asks for no certificate."""
        self._certificate(request)

    async def _possession(self, path: str, request: Request, more: dict[str, str]) -> dict[str, Any]:
        pem = self._certificate(request).public_bytes(Encoding.PEM).decode()
        answer: Any = await self._control.json("POST", path, json={"certificate": pem, "door": self._doors.of(request).value, **more})
        return dict(answer)

    async def open_session(self, *, link: str | None = None, api_key: str | None = None) -> str:
        """Return a session for a one-time link or an API key; raises `Unauthenticated` for a wrong, used or expired one."""
        proof = {"link": link} if link is not None else {"api_key": api_key or ""}
        answer: Any = await self._control.json(
            "POST", "/internal/v1/grants", json={"proof": proof, "project": None, "door": Door.OUTSIDE.value, "open_session": True}
        )
        return str(answer["session"])

    async def log_in(self, name: str, password: str, code: str, project: str | None, source: str) -> str:
        """Return a session for name, password and code; raises `Unauthenticated`, `Conflict`, `LimitExceeded`, `NotFound`."""
        body = {"name": name, "password": password, "code": code, "project": project or None}
        headers = {SOURCE_HEADER: source}
        answer: Any = await self._control.json("POST", "/v1/login/password", json=body, headers=headers)
        return str(answer["session"])

    async def end_session(self, session: str) -> None:
        """End a session; one that is not there has ended."""
        await self._control.json("POST", "/internal/v1/sessions/end", json={"session": session})
        self._held.pop(self._key({"session": session}, Door.OUTSIDE), None)

    def revoke(self, principal: str, generation: int) -> None:
        """Refuse this principal's grants from now on."""
        self._verifier.revoke(principal, generation)

    def void(self, project: str, member: str | None, before: float) -> None:
        """Refuse grants of the project's people, or of one member, that were signed until `before`; callers get new ones."""
        self._verifier.void(project, member, before)

    def _key(self, proof: dict[str, Any], door: Door) -> bytes:
        return hashlib.sha256(repr((sorted(proof.items()), door.value)).encode()).digest()

    def _certificate(self, request: Request) -> x509.Certificate:
        certificate = client_certificate(request) if self._doors.port(request) in (self._doors.outside, self._doors.inside) else None
        if certificate is None:
            raise Unauthenticated("only the doors for client certificates ask for a proof of a certificate's key")
        return certificate

    def _proof(self, request: Request) -> dict[str, Any]:
        shown = _shown(request)
        if self._doors.port(request) in (self._doors.outside, self._doors.inside):
            certificate = self._certificate(request)
            if not shown:
                raise Unauthenticated(
                    "prove the certificate's key: sign a challenge of this door (POST /api/v1/door-challenges) and send the token; "
                    "the SDK does it by itself, and `wardstream credentials door-token` prints one for other clients"
                )
            return {"door_token": {"token": shown, "certificate_sha256": fingerprint(certificate.public_bytes(Encoding.DER))}}
        if shown:
            # A session that `wardstream login` keeps in a file comes as a key does.
            return {"session" if shown.startswith(f"{SecretKind.SESSION}_") else "api_key": shown}
        if session := request.cookies.get(SESSION_COOKIE):
            return {"session": session}
        raise Unauthenticated("log in: an API key as `Authorization: Bearer <key>`, or as the password of basic authentication")


def _shown(request: Request) -> str:
    """Return the bearer token, or the password of basic authentication; nothing where neither is shown."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value
    return _password(value) if kind.lower() == "basic" else ""


def _password(value: str) -> str:
    """Return the password of basic authentication: stock registry clients can send a key only so (RFC 7617)."""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("the basic authentication header is not base64 of user:key") from error
