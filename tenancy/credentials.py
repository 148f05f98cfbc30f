"""Keys, tokens, links, sessions and certificates in the database. Secrets are kept as hashes only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from tenancy import tables
from wardstream.names import MemberName, ProjectName

_TOKEN = re.compile(r"(ws[kels])_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


# Profiles of the inside intermediate, by name: `authority.profile` is not known here.
_INSIDE = ("service", "execution", "acting")


class SecretKind(StrEnum):
    """What a secret text is for; its first letters, so that one found lying around can be told."""

    API_KEY = "wsk"
    ENROLMENT = "wse"
    LOGIN_LINK = "wsl"
    SESSION = "wss"


@dataclass(frozen=True)
class Secret:
    """A secret text `<kind>_<id>_<256 random bits>`: the id finds its row, the rest proves it."""

    kind: SecretKind
    id: str
    proof: str

    @property
    def text(self) -> str:
        """What its bearer keeps; shown once."""
        return f"{self.kind}_{self.id}_{self.proof}"

    @property
    def hash(self) -> str:
        """What is kept here. The proof is random, so one round of SHA-256 leaves nothing to guess."""
        return hashlib.sha256(self.proof.encode()).hexdigest()

    def proves(self, secret_hash: str) -> bool:
        """Return whether this is the secret whose hash was kept."""
        return hmac.compare_digest(self.hash, secret_hash)


def new_secret(kind: SecretKind) -> Secret:
    """Return a fresh random secret."""
    return Secret(kind, secrets.token_hex(6), secrets.token_urlsafe(32))


def parse_secret(text: str, kind: SecretKind) -> Secret | None:
    """Return `text` as a secret of `kind`, or None where it cannot be one."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None or match[1] != kind.value:
        return None
    return Secret(kind, match[2], match[3])


@dataclass(frozen=True)
class Holder:
    """Whose a credential is: a member of one project, or, with neither, the administrator's."""

    project: ProjectName | None
    member: MemberName | None
    generation: int


ADMINISTRATOR = Holder(None, None, 1)


@dataclass(frozen=True)
class StoredSecret:
    """What is kept of a secret."""

    holder: Holder
    secret_hash: str
    expires_at: datetime | None
    ended_at: datetime | None
    """When it was used up or revoked."""
    person: str | None = None
    scopes: frozenset[str] | None = None
    """Of an API key: None stands for everything that its holder may do."""
    seen_at: datetime | None = None
    """Of a session: when it was last used, to some minutes."""


@dataclass(frozen=True)
class KeyState:
    """An API key as its owner sees it."""

    id: str
    label: str | None
    scopes: frozenset[str] | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class SessionState:
    """A session as its owner sees it."""

    id: str
    opened_at: datetime | None
    seen_at: datetime | None
    expires_at: datetime
    source: str | None


@dataclass(frozen=True)
class StoredCertificate:
    """What is kept of a certificate that was issued."""

    serial: int
    holder: Holder
    profile: str
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


class Credentials:
    """The credentials' part of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_api_key(
        self,
        secret: Secret,
        holder: Holder,
        at: datetime,
        *,
        label: str | None = None,
        scopes: frozenset[str] | None = None,
        expires_at: datetime | None = None,
        person: str | None = None,
    ) -> None:
        """Keep a key."""
        values = {"label": label, "scopes": sorted(scopes) if scopes is not None else None, "expires_at": expires_at, "person": person}
        self._connection.execute(
            insert(tables.api_keys).values(id=secret.id, secret_hash=secret.hash, created_at=at, **vars(holder), **values)
        )

    def api_keys(self, holder: Holder, person: str | None, now: datetime) -> list[KeyState]:
        """Return the keys of a member, or of an administrator, that still open something; the oldest first."""
        table = tables.api_keys
        query = select(table).where(
            table.c.project.is_not_distinct_from(holder.project),
            table.c.member.is_not_distinct_from(holder.member),
            table.c.revoked_at.is_(None),
        )
        if holder.project is None:
            query = query.where(table.c.person == person)
        return [
            KeyState(row.id, row.label, frozenset(row.scopes) if row.scopes is not None else None, row.created_at, row.expires_at)
            for row in self._connection.execute(query.order_by(table.c.created_at))
            if row.expires_at is None or row.expires_at > now
        ]

    def revoke_api_key(self, key_id: str, at: datetime) -> None:
        """Make one key worthless."""
        table = tables.api_keys
        self._connection.execute(update(table).where(table.c.id == key_id, table.c.revoked_at.is_(None)).values(revoked_at=at))

    def api_key(self, key_id: str) -> StoredSecret | None:
        """Return the key, also a revoked one, or None."""
        row = self._connection.execute(select(tables.api_keys).where(tables.api_keys.c.id == key_id)).one_or_none()
        if row is None:
            return None
        scopes = frozenset(row.scopes) if row.scopes is not None else None
        return StoredSecret(_holder(row), row.secret_hash, row.expires_at, row.revoked_at, person=row.person, scopes=scopes)

    def revoke_administrator_keys(self, at: datetime) -> None:
        """Make every administrator's key worthless, and end the sessions that were opened with one or by link."""
        table = tables.api_keys
        self._connection.execute(update(table).where(table.c.project.is_(None), table.c.revoked_at.is_(None)).values(revoked_at=at))
        self._connection.execute(delete(tables.sessions).where(tables.sessions.c.project.is_(None)))

    def add_enrolment_token(self, secret: Secret, holder: Holder, expires_at: datetime) -> None:
        """Keep a one-time token."""
        self._connection.execute(
            insert(tables.enrolment_tokens).values(id=secret.id, secret_hash=secret.hash, expires_at=expires_at, **vars(holder))
        )

    def enrolment_token(self, token_id: str) -> StoredSecret | None:
        """Return the token, also a used one, or None."""
        return self._one_time(tables.enrolment_tokens, token_id)

    def use_enrolment_token(self, token_id: str, at: datetime) -> bool:
        """Mark the token used; False where somebody else was first."""
        return self._use(tables.enrolment_tokens, token_id, at)

    def add_login_link(self, secret: Secret, expires_at: datetime) -> None:
        """Keep a one-time link of the administrator's."""
        self._connection.execute(insert(tables.login_links).values(id=secret.id, secret_hash=secret.hash, expires_at=expires_at))

    def login_link(self, link_id: str) -> StoredSecret | None:
        """Return the link, also a used one, or None."""
        row = self._connection.execute(select(tables.login_links).where(tables.login_links.c.id == link_id)).one_or_none()
        return None if row is None else StoredSecret(ADMINISTRATOR, row.secret_hash, row.expires_at, row.used_at)

    def use_login_link(self, link_id: str, at: datetime) -> bool:
        """Mark the link used; False where somebody else was first."""
        return self._use(tables.login_links, link_id, at)

    def add_session(
        self, secret: Secret, holder: Holder, expires_at: datetime, *, at: datetime, person: str | None = None, source: str | None = None
    ) -> None:
        """Keep a session; `source` is where it was opened from, for its owner to recognise."""
        values = {"person": person, "opened_at": at, "seen_at": at, "source": source}
        self._connection.execute(
            insert(tables.sessions).values(id=secret.id, secret_hash=secret.hash, expires_at=expires_at, **vars(holder), **values)
        )

    def see_session(self, session_id: str, at: datetime) -> None:
        """Note that a session is in use."""
        table = tables.sessions
        self._connection.execute(update(table).where(table.c.id == session_id).values(seen_at=at))

    def sessions(self, holder: Holder, person: str | None, now: datetime) -> list[SessionState]:
        """Return the sessions of an account, or, without one, of a membership; the oldest first."""
        table = tables.sessions
        mine = (
            table.c.person == person
            if person is not None
            else (table.c.project.is_not_distinct_from(holder.project) & table.c.member.is_not_distinct_from(holder.member))
        )
        query = select(table).where(mine, table.c.expires_at > now).order_by(table.c.opened_at)
        return [SessionState(row.id, row.opened_at, row.seen_at, row.expires_at, row.source) for row in self._connection.execute(query)]

    def end_sessions_of(self, person: str, *, but: str | None = None) -> None:
        """End every session of an account, but perhaps one."""
        table = tables.sessions
        self._connection.execute(delete(table).where(table.c.person == person, table.c.id.is_distinct_from(but)))

    def people_with_sessions(self, now: datetime) -> frozenset[str]:
        """Return the accounts that are logged in."""
        table = tables.sessions
        query = select(table.c.person).where(table.c.person.is_not(None), table.c.expires_at > now).distinct()
        return frozenset(str(row.person) for row in self._connection.execute(query))

    def revoke_keys_of(self, person: str, at: datetime) -> None:
        """Make every key worthless that the account made as an administrator."""
        table = tables.api_keys
        self._connection.execute(update(table).where(table.c.person == person, table.c.revoked_at.is_(None)).values(revoked_at=at))

    def session(self, session_id: str) -> StoredSecret | None:
        """Return the session, also an expired one, or None."""
        row = self._connection.execute(select(tables.sessions).where(tables.sessions.c.id == session_id)).one_or_none()
        if row is None:
            return None
        return StoredSecret(_holder(row), row.secret_hash, row.expires_at, None, person=row.person, seen_at=row.seen_at)

    def end_session(self, session_id: str) -> None:
        """Forget a session."""
        self._connection.execute(delete(tables.sessions).where(tables.sessions.c.id == session_id))

    def add_certificate(self, certificate: StoredCertificate) -> None:
        """Keep that a certificate was issued."""
        self._connection.execute(
            insert(tables.certificates).values(
                serial=_serial(certificate.serial),
                profile=certificate.profile,
                issued_at=certificate.issued_at,
                expires_at=certificate.expires_at,
                **vars(certificate.holder),
            )
        )

    def certificate(self, serial: int) -> StoredCertificate | None:
        """Return the certificate, also a revoked or expired one, or None where control never issued it."""
        table = tables.certificates
        row = self._connection.execute(select(table).where(table.c.serial == _serial(serial))).one_or_none()
        if row is None:
            return None
        return StoredCertificate(serial, _holder(row), row.profile, row.issued_at, row.expires_at, row.revoked_at)

    def holders_at(self, now: datetime) -> frozenset[Holder]:
        """Return the generations of members that hold a certificate which has not expired, revoked or not."""
        table = tables.certificates
        query = select(table.c.project, table.c.member, table.c.generation).where(table.c.expires_at >= now).distinct()
        return frozenset(
            Holder(ProjectName(row.project), MemberName(row.member), row.generation) for row in self._connection.execute(query)
        )

    def outside_holders(self, project: ProjectName, now: datetime) -> frozenset[tuple[MemberName, int]]:
        """Return members of the project, with their generation, who hold a certificate that is good outside the platform."""
        table = tables.certificates
        query = select(table.c.member, table.c.generation).where(
            table.c.project == project, table.c.profile.not_in(_INSIDE), table.c.revoked_at.is_(None), table.c.expires_at > now
        )
        return frozenset((MemberName(row.member), row.generation) for row in self._connection.execute(query))

    def certificates(self, project: ProjectName) -> list[StoredCertificate]:
        """Return the project's certificates that have not expired, revoked ones too, the newest first."""
        table = tables.certificates
        rows = self._connection.execute(select(table).where(table.c.project == project).order_by(table.c.issued_at.desc()))
        return [
            StoredCertificate(int(row.serial, 16), _holder(row), row.profile, row.issued_at, row.expires_at, row.revoked_at) for row in rows
        ]

    def expiring(self, before: datetime) -> int:
        """Return how many members hold no certificate outside that is good after `before`, of those who hold one now."""
        table = tables.certificates
        newest = (
            select(func.max(table.c.expires_at).label("ends"))
            .where(table.c.profile.not_in(_INSIDE), table.c.revoked_at.is_(None))
            .group_by(table.c.project, table.c.member, table.c.generation)
            .subquery()
        )
        return int(self._connection.execute(select(func.count()).where(newest.c.ends < before)).scalar_one())

    def revoke_all(self, holder: Holder, at: datetime) -> None:
        """End every key, token, session and certificate of a member, of this generation and of those before."""
        keys, certificates = tables.api_keys, tables.certificates
        for table in (keys, certificates):
            self._connection.execute(
                update(table)
                .where(table.c.project == holder.project, table.c.member == holder.member, table.c.revoked_at.is_(None))
                .values(revoked_at=at)
            )
        for gone in (tables.enrolment_tokens, tables.sessions):
            self._connection.execute(delete(gone).where(gone.c.project == holder.project, gone.c.member == holder.member))

    def forget_expired(self, now: datetime) -> None:
        """Drop sessions, tokens and certificates whose time is over. Used tokens stay until then, so that they can be told."""
        for table in (tables.sessions, tables.enrolment_tokens, tables.login_links, tables.certificates):
            self._connection.execute(delete(table).where(table.c.expires_at < now))

    def _one_time(self, table: Table, secret_id: str) -> StoredSecret | None:
        row = self._connection.execute(select(table).where(table.c.id == secret_id)).one_or_none()
        return None if row is None else StoredSecret(_holder(row), row.secret_hash, row.expires_at, row.used_at)

    def _use(self, table: Table, secret_id: str, at: datetime) -> bool:
        query = update(table).where(table.c.id == secret_id, table.c.used_at.is_(None)).values(used_at=at)
        return self._connection.execute(query).rowcount == 1


def _holder(row: object) -> Holder:
    project, member, generation = (getattr(row, name) for name in ("project", "member", "generation"))
    return Holder(ProjectName(project) if project is not None else None, MemberName(member) if member is not None else None, generation)


def _serial(serial: int) -> str:
    # Random serials have up to 160 bits, more than a database's integers.
    return format(serial, "x")
