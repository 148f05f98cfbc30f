"""Signed grants: control says once who a caller is, every process can check it without asking back.

A grant is a compact JWS (ES256) and lives for minutes. It is no secret to hand around: the processes that take it are
reached with platform certificates only. A revocation drops grants before they expire; see `GrantVerifier.revoke`.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from tenancy.model import Columns, DatasetPermission, Door, Principal, PrincipalKind, Role, SharedIn
from wardstream.clock import Clock, SystemClock
from wardstream.errors import Unauthenticated, Unavailable, WardstreamError
from wardstream.names import parse_any_dataset, parse_member, parse_project, split_principal

GRANT_LIFETIME = timedelta(minutes=5)
EXECUTION_GRANT_LIFETIME = timedelta(hours=1)

_ISSUER = "ws-control"
_ALGORITHM = "ES256"
# Clocks of hosts differ a little; a grant that is "not yet" valid by more than this is refused.
_LEEWAY = timedelta(seconds=30)
_CACHED = 4096


class GrantSigner:
    """Signs grants with control's key."""

    def __init__(self, private_key_pem: str | bytes, clock: Clock) -> None:
        self._key = ECKey.import_key(private_key_pem)
        self._clock = clock

    def sign(self, principal: Principal, lifetime: timedelta = GRANT_LIFETIME) -> tuple[str, datetime]:
        """Return a grant for `principal` and when it ends: after `lifetime`, or with the first of the shares that it names."""
        now = self._clock.now()
        ends = min([now + lifetime, *(share.expires_at for share in principal.shared if share.expires_at is not None)])
        claims = {
            "iss": _ISSUER,
            "sub": principal.name,
            "jti": secrets.token_hex(8),
            # With fractions (RFC 7519 section 2 allows them): a grant signed just before rights changed is told from one signed after.
            "iat": now.timestamp(),
            "exp": int(ends.timestamp()),
            **_claims(principal),
        }
        return jws.serialize_compact({"alg": _ALGORITHM, "typ": "JWT"}, orjson.dumps(claims), self._key), ends


class StaleGrant(Unauthenticated):
    """The bearer may well be who it says: another grant will do."""


@dataclass(frozen=True)
class _Verified:
    principal: Principal
    ends: float
    signed_at: float


class GrantVerifier:
    """Turns grants back into principals. Thread-safe."""

    def __init__(self, public_key_pem: str | bytes, clock: Clock | None = None) -> None:
        self._key = ECKey.import_key(public_key_pem)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._revoked: dict[tuple[str, str], int] = {}
        self._void: dict[tuple[str, str | None], float] = {}

    def verify(self, token: str) -> Principal:
        """Return whom control gave `token` to.

        Raises `Unauthenticated` for a token that control did not sign, that has expired, or whose bearer was removed.
        """
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock.now().timestamp()
        with self._lock:
            known = self._verified.get(digest)
        if known is None:
            known = self._check(token, now)
            with self._lock:
                self._verified[digest] = known
                while len(self._verified) > _CACHED:
                    self._verified.popitem(last=False)
        principal = known.principal
        if now >= known.ends:
            raise StaleGrant("the grant has expired: ask for a new one")
        if principal.project is not None and principal.member is not None:
            with self._lock:
                revoked = self._revoked.get((principal.project, principal.member), 0)
                void = max(self._void.get((principal.project, who), 0.0) for who in (principal.member, None))
            if principal.generation <= revoked:
                raise Unauthenticated(f"{principal.name} is no longer a member of {principal.project}")
            # An execution's grant says in whose name, and nothing is decided by what else it says.
            if known.signed_at <= void and principal.execution is None:
                raise StaleGrant("rights have changed since this grant was signed: ask for a new one")
        return principal

    def void(self, project: str, member: str | None, before: float) -> None:
        """Refuse grants of the project's members, or of one, that were signed until `before` (seconds since 1970).

        For rights that changed while the principal stayed. Kept in memory only, like what `revoke` is told.
        """
        with self._lock:
            self._void[project, member] = max(before, self._void.get((project, member), 0.0))

    def revoke(self, principal: str, generation: int) -> None:
        """Refuse every grant of this member up to `generation` from now on; `principal` may carry any generation.

        Kept in memory only: after a restart the grants given before are good again until they expire, so whoever
        keeps a verifier asks control for recent revocations when it starts.
        """
        project, member, _ = split_principal(principal)
        with self._lock:
            key = (project, member)
            self._revoked[key] = max(generation, self._revoked.get(key, 0))

    def _check(self, token: str, now: float) -> _Verified:
        try:
            signed = jws.deserialize_compact(token.encode(), self._key, algorithms=[_ALGORITHM])
            claims: dict[str, Any] = orjson.loads(signed.payload)
            if claims["iss"] != _ISSUER or claims["iat"] > now + _LEEWAY.total_seconds():
                raise Unauthenticated("the grant is not one of this platform's")
            return _Verified(_principal(claims), float(claims["exp"]), float(claims["iat"]))
        except (JoseError, ValueError, KeyError, TypeError, WardstreamError) as error:
            raise Unauthenticated("the grant is not one of this platform's") from error


@dataclass(frozen=True)
class Recent:
    """What happened to grants that may still be unexpired: principals with their generation, and what became void."""

    revoked: Sequence[tuple[str, int]]
    voids: Sequence[tuple[str, str | None, float]]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Recent:
        """Return what control's route says."""
        return cls(
            [(each["principal"], int(each["generation"])) for each in document["revocations"]],
            [(each["project"], each["member"], float(each["before"])) for each in document["voids"]],
        )


class CautiousVerifier(GrantVerifier):
    """Accepts no grant before it knows who was removed lately: grants outlive a restart of this process, its memory does not."""

    def __init__(self, public_key_pem: bytes, clock: Clock, recent: Callable[[], Recent]) -> None:
        super().__init__(public_key_pem, clock)
        self._recent = recent
        self._caught_up = False

    def verify(self, token: str) -> Principal:
        """See `GrantVerifier`; raises `Unavailable` while control does not say who was removed."""
        if waiting := self.ready():
            raise Unavailable(waiting)
        return super().verify(token)

    def ready(self) -> str | None:
        """Return nothing once the revocations within the life of a grant are known, else what is missing."""
        if not self._caught_up:
            try:
                recent = self._recent()
                for principal, generation in recent.revoked:
                    self.revoke(principal, generation)
                for project, member, before in recent.voids:
                    self.void(project, member, before)
            except WardstreamError as error:
                return f"control does not say who was removed lately: {error.message}"
            self._caught_up = True
        return None


def _claims(principal: Principal) -> dict[str, Any]:
    return {
        "kind": principal.kind.value,
        "project": principal.project,
        "member": principal.member,
        "role": principal.role.value if principal.role else None,
        "generation": principal.generation,
        "door": principal.door.value,
        "sandboxed": principal.sandboxed,
        "reads": sorted(principal.reads),
        "writes": sorted(principal.writes),
        "platform": principal.platform,
        "execution": principal.execution,
        "columns": sorted([part.dataset, *sorted(part.names)] for part in principal.columns),
        "without": sorted(principal.without),
        "shared": [
            {
                "project": share.project,
                "dataset": share.dataset,
                "mode": share.mode.value,
                "columns": sorted(share.columns) if share.columns is not None else None,
                "sandboxed": share.sandboxed,
            }
            for share in sorted(principal.shared, key=lambda one: (one.project, one.dataset))
        ],
        "person": principal.person,
        "serial": principal.serial,
    }


def _principal(claims: dict[str, Any]) -> Principal:
    principal = Principal(
        kind=PrincipalKind(claims["kind"]),
        project=parse_project(claims["project"]) if claims["project"] is not None else None,
        member=parse_member(claims["member"]) if claims["member"] is not None else None,
        role=Role(claims["role"]) if claims["role"] is not None else None,
        generation=int(claims["generation"]),
        door=Door(claims["door"]),
        sandboxed=bool(claims["sandboxed"]),
        reads=frozenset(parse_any_dataset(name) for name in claims["reads"]),
        writes=frozenset(parse_any_dataset(name) for name in claims["writes"]),
        platform=claims["platform"],
        execution=claims["execution"],
        columns=frozenset(Columns(parse_any_dataset(name), frozenset(columns)) for name, *columns in claims["columns"]),
        without=frozenset(claims["without"]),
        shared=frozenset(
            SharedIn(
                parse_project(share["project"]),
                parse_any_dataset(share["dataset"]),
                DatasetPermission(share["mode"]),
                frozenset(share["columns"]) if share["columns"] is not None else None,
                bool(share["sandboxed"]),
            )
            for share in claims["shared"]
        ),
        person=claims["person"],
        serial=claims["serial"],
    )
    if claims["sub"] != principal.name:
        raise ValueError("subject and claims differ")
    return principal
