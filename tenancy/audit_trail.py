"""Reading, checking and exporting the audit: use cases over every chain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tenancy.checkpoints import Auditor, Chains
from tenancy.model import MemberState, Principal, PrincipalKind
from tenancy.policy import Action, decide, require
from tenancy.repository import Repository
from wardstream.audit_export import FORMAT, RIGHTS, heads_of, statement
from wardstream.chain import ChainCheck, check, hidden
from wardstream.errors import Invalid, NotFound, Unauthenticated, Unavailable
from wardstream.names import ProjectName

_MOST_CHECKPOINTS = 1000


@dataclass(frozen=True)
class TrailCheck:
    """What checking every chain found; `away` are chains that could not be read."""

    chains: Mapping[str, ChainCheck]
    away: tuple[str, ...]
    checkpoints: int
    checkpoints_intact: bool

    @property
    def intact(self) -> bool:
        """Whether nothing is broken of what could be read; see `away` for what could not."""
        return self.checkpoints_intact and all(each.intact for each in self.chains.values())


class AuditTrail:
    """The whole audit, for administrators; a project's part, for its owners."""

    def __init__(self, *, repository: Repository, chains: Chains, auditor: Auditor, key: Ed25519PrivateKey) -> None:
        self._repository = repository
        self._chains = chains
        self._auditor = auditor
        self._private_key = key
        self._public_key = key.public_key()

    def entries(
        self,
        principal: Principal,
        project: ProjectName | None,
        filters: Mapping[str, str | int | None],
        *,
        limit: int,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the newest entries of all chains that fit, oldest first, at most `limit`; each says its chain and its place.

        With `before`, a place, those that come before it: the page before.

        Changes of rights and the broker's decisions are in it some seconds after they were made.
        """
        asked = self._project(principal, project)
        self._auditor.copy_rights()
        wanted = {**filters, "project": asked if asked is not None else filters.get("project"), "limit": limit}
        place = _place(before) if before is not None else None
        found = []
        for name in self._chains.names:
            # The chains before the named one have entries of the same moment on earlier pages, those after it on later ones.
            bound = {"upto": place[0], "below": place[2] if name == place[1] else None if name < place[1] else 0} if place else {}
            found += [{"chain": name, **entry} for entry in self._chains.search(name, {**wanted, **bound})]
        found.sort(key=lambda entry: (str(entry["at"]), str(entry["chain"]), int(entry["n"])))
        return [{**entry, "place": f"{entry['at']}|{entry['chain']}|{entry['n']}"} for entry in found[-limit:]]

    def verify(self, principal: Principal) -> TrailCheck:
        """Check every chain against itself and against the signed checkpoints; tells where one is broken, never what it holds."""
        self._project(principal, principal.project)
        lines = list(self._auditor.checkpoints())[-_MOST_CHECKPOINTS:]
        heads, intact = heads_of(lines, self._public_key)
        with self._repository.transaction() as tenancy:
            # The rights chain itself is checked where it lies; here, that it is still the one that was signed.
            intact = intact and all(tenancy.audit_hash(head.number) == head.seal for head in heads.get(RIGHTS, ())[-1:])
        found: dict[str, ChainCheck] = {}
        away: list[str] = []
        for name in self._chains.names:
            try:
                found[name] = check(self._chains.lines(name), heads.get(name, ()))
            except Unavailable:
                away.append(name)
        gone = heads.keys() - {RIGHTS} - set(self._chains.names)
        return TrailCheck(found, tuple(sorted({*away, *gone})), len(lines), intact)

    def export(self, principal: Principal, project: ProjectName | None) -> Iterator[bytes]:
        """Yield lines of an export that can be checked without this platform: all entries, or a project's.

        Of what is not the project's there are commitments only. Raises `Unavailable` while a chain cannot be read.
        """
        asked = self._project(principal, project)
        self._auditor.copy_rights()
        self._auditor.count_decisions()
        self._auditor.checkpoint()
        checkpoints = list(self._auditor.checkpoints())
        return self._exported(asked, checkpoints)

    @property
    def public_key(self) -> str:
        """The key (PEM) that checkpoints are signed with."""
        return self._public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def _exported(self, project: ProjectName | None, checkpoints: list[bytes]) -> Iterator[bytes]:
        digest, count = hashlib.sha256(), 0
        for line in self._lines(project, checkpoints):
            digest.update(line)
            count += 1
            yield line
        yield statement(self._private_key, project, self._chains.names, count, digest.hexdigest())

    def _lines(self, project: ProjectName | None, checkpoints: list[bytes]) -> Iterator[bytes]:
        yield orjson.dumps({"format": FORMAT, "project": project, "public_key": self.public_key, "chains": self._chains.names}) + b"\n"
        for name in self._chains.names:
            yield orjson.dumps({"chain": name}) + b"\n"
            for line in self._chains.lines(name):
                yield line if project is None or orjson.loads(line[:-66]).get("project") == project else hidden(line)
        yield orjson.dumps({"checkpoints": len(checkpoints)}) + b"\n"
        for line in checkpoints:
            yield line + b"\n"

    def _project(self, principal: Principal, project: ProjectName | None) -> ProjectName | None:
        """Return whose entries may be read: one project's, or, for an administrator, everybody's."""
        asked = project if project is not None or principal.kind is PrincipalKind.ADMINISTRATOR else principal.project
        thing = f"project {asked}" if asked is not None else "this"
        require(decide(principal, Action.AUDIT_READ, project=asked), thing)
        with self._repository.transaction() as tenancy:
            if asked is not None and tenancy.project(asked) is None:
                raise NotFound(f"project {asked} is not there")
            if principal.project is not None and principal.member is not None:
                member = tenancy.member(principal.project, principal.member)
                if member is None or member.state is not MemberState.ACTIVE or member.generation != principal.generation:
                    raise Unauthenticated(f"{principal.name} is no longer a member of {principal.project}")
        return asked


def _place(text: str) -> tuple[str, str, int]:
    at, chain, number = (*text.split("|"), "", "")[:3]
    if not (at and chain and number.isascii() and number.isdigit()):
        raise Invalid(f"{text[:80]!a} is not an entry's place: give the `place` of the first entry that you have")
    return at, chain, int(number)
