"""People's accounts in the database: the part of one transaction that is about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from tenancy import tables
from tenancy.credentials import Secret


class Source(StrEnum):
    """Who says that a person is who they say."""

    LOCAL = "local"
    LDAP = "ldap"
    OIDC = "oidc"


@dataclass(frozen=True)
class Person:
    """An account: somebody who logs in, as an administrator or to the memberships that name it."""

    name: str
    display: str
    source: Source
    administrator: bool
    disabled: bool
    created_at: datetime
    password_hash: str | None = None
    totp_sealed: str | None = None
    totp_step: int | None = None
    """The last step whose code was used."""
    external_id: str | None = None
    """What a directory or identity provider calls it, for good."""
    failures: int = 0
    locked_until: datetime | None = None


@dataclass(frozen=True)
class PersonLink:
    """A one-time link with which a person chooses password and second factor; what was chosen waits for its first code."""

    id: str
    secret_hash: str
    person: str
    expires_at: datetime
    used_at: datetime | None
    password_hash: str | None
    totp_sealed: str | None


@dataclass(frozen=True)
class Passkey:
    """A credential of WebAuthn."""

    id: str
    person: str
    public_key: str
    sign_count: int
    label: str
    created_at: datetime
    last_used_at: datetime | None


class Accounts:
    """The accounts' part of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def people(self) -> list[Person]:
        """Return all people by name."""
        return [_person(row) for row in self._connection.execute(select(tables.people).order_by(tables.people.c.name))]

    def person(self, name: str) -> Person | None:
        """Return the person, a disabled one too, or None."""
        row = self._connection.execute(select(tables.people).where(tables.people.c.name == name)).one_or_none()
        return None if row is None else _person(row)

    def by_external_id(self, source: Source, external_id: str) -> Person | None:
        """Return the person whom a directory or provider calls so, or None."""
        table = tables.people
        query = select(table).where(table.c.source == source.value, table.c.external_id == external_id)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _person(row)

    def add(self, person: Person) -> None:
        """Keep a new person."""
        self._connection.execute(insert(tables.people).values(**_values(person)))

    def put(self, person: Person) -> None:
        """Keep what `person` is now."""
        self._connection.execute(update(tables.people).where(tables.people.c.name == person.name).values(**_values(person)))

    def administrators(self) -> int:
        """Return how many people may still log in as administrators."""
        table = tables.people
        query = select(func.count()).where(table.c.administrator.is_(True), table.c.disabled.is_(False))
        return int(self._connection.execute(query).scalar_one())

    # Links

    def add_link(self, secret: Secret, person: str, expires_at: datetime) -> None:
        """Keep a one-time link; those before it are worthless."""
        table = tables.person_links
        self._connection.execute(delete(table).where(table.c.person == person))
        self._connection.execute(insert(table).values(id=secret.id, secret_hash=secret.hash, person=person, expires_at=expires_at))

    def link(self, link_id: str) -> PersonLink | None:
        """Return the link, a used one too, or None."""
        row = self._connection.execute(select(tables.person_links).where(tables.person_links.c.id == link_id)).one_or_none()
        return None if row is None else PersonLink(**row._mapping)

    def choose(self, link_id: str, password_hash: str, totp_sealed: str) -> None:
        """Keep with the link what its bearer chose."""
        table = tables.person_links
        self._connection.execute(update(table).where(table.c.id == link_id).values(password_hash=password_hash, totp_sealed=totp_sealed))

    def use_link(self, link_id: str, at: datetime) -> bool:
        """Mark the link used; False where somebody else was first."""
        table = tables.person_links
        return (
            self._connection.execute(update(table).where(table.c.id == link_id, table.c.used_at.is_(None)).values(used_at=at)).rowcount == 1
        )

    # Recovery codes

    def put_recovery_codes(self, person: str, hashes: list[str]) -> None:
        """Keep new codes in place of those before."""
        table = tables.recovery_codes
        self._connection.execute(delete(table).where(table.c.person == person))
        if hashes:
            self._connection.execute(insert(table), [{"person": person, "code_hash": each} for each in hashes])

    def recovery_codes(self, person: str) -> list[str]:
        """Return the hashes of the codes that were not used."""
        table = tables.recovery_codes
        return [row.code_hash for row in self._connection.execute(select(table).where(table.c.person == person))]

    def use_recovery_code(self, person: str, code_hash: str) -> bool:
        """Forget a code; False where it was used already."""
        table = tables.recovery_codes
        return self._connection.execute(delete(table).where(table.c.person == person, table.c.code_hash == code_hash)).rowcount == 1

    # Passkeys

    def passkeys(self, person: str) -> list[Passkey]:
        """Return the person's passkeys, the oldest first."""
        table = tables.passkeys
        query = select(table).where(table.c.person == person).order_by(table.c.created_at)
        return [Passkey(**row._mapping) for row in self._connection.execute(query)]

    def passkey(self, credential_id: str) -> Passkey | None:
        """Return one passkey, or None."""
        row = self._connection.execute(select(tables.passkeys).where(tables.passkeys.c.id == credential_id)).one_or_none()
        return None if row is None else Passkey(**row._mapping)

    def add_passkey(self, passkey: Passkey) -> None:
        """Keep a new passkey."""
        self._connection.execute(insert(tables.passkeys).values(**vars(passkey)))

    def use_passkey(self, credential_id: str, sign_count: int, at: datetime) -> None:
        """Keep how often it has signed."""
        table = tables.passkeys
        self._connection.execute(update(table).where(table.c.id == credential_id).values(sign_count=sign_count, last_used_at=at))

    def remove_passkey(self, person: str, credential_id: str) -> bool:
        """Forget a passkey; False where there is none of this id."""
        table = tables.passkeys
        return self._connection.execute(delete(table).where(table.c.person == person, table.c.id == credential_id)).rowcount == 1


def _values(person: Person) -> dict[str, object]:
    return {**vars(person), "source": person.source.value}


def _person(row: Row[tuple[object, ...]]) -> Person:
    return Person(**{**row._mapping, "source": Source(row.source)})
