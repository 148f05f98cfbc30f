"""People: accounts, logging in, one's own sessions and keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, cast

from fastapi import Depends, Request
from pydantic import BaseModel, Field

from tenancy.accounts import Person
from tenancy.credentials import KeyState, SessionState
from tenancy.people import LoggedIn as Opened
from tenancy.people import People
from tenancy.routes.context import Body, Caller, public
from wardstream.names import parse_project
from wardstream.server import peer_name

SOURCE_HEADER = "x-wardstream-source"


def _people(request: Request) -> People:
    return cast(People, request.app.state.people)


def source(request: Request) -> str:
    """Return where a login comes from, as the gateway says; nobody else can."""
    peer = peer_name(request)
    told = request.headers.get(SOURCE_HEADER, "") if peer == "ws-gateway" else ""
    return told[:60] or peer


PeopleService = Annotated[People, Depends(_people)]
Source = Annotated[str, Depends(source)]

# Values


class PersonState(BaseModel):
    """An account."""

    name: str
    display: str
    source: str
    administrator: bool
    disabled: bool
    created_at: datetime
    ready: bool
    """Whether its owner has chosen password and second factor, or logs in elsewhere."""
    locked_until: datetime | None


class AddPerson(Body):
    """An account to be made."""

    name: str
    display: str = ""
    administrator: bool = False


class PersonAdded(BaseModel):
    """A new account, and the one-time link by which its owner opens it."""

    person: PersonState
    link: str
    expires_at: datetime


class LinkState(BaseModel):
    """A one-time link for an account."""

    link: str
    expires_at: datetime


class PersonClosed(Body):
    """Whether the account is to be closed."""

    disabled: bool


class Login(Body):
    """Name, password and the code of the authenticator, or a recovery code; the project where there are several."""

    name: str = Field(max_length=64)
    password: str = Field(max_length=200)
    code: str = Field(max_length=64)
    project: str | None = None


class BeginSetup(Body):
    """A one-time link, and the password that its bearer chooses."""

    link: str = Field(max_length=200)
    password: str = Field(max_length=200)


class SetupBegun(BaseModel):
    """What an authenticator app takes in; its first code opens the account."""

    totp_uri: str
    totp_secret: str


class FinishSetup(Body):
    """A one-time link, and the first code of the authenticator."""

    link: str = Field(max_length=200)
    code: str = Field(max_length=6)


class SessionOpened(BaseModel):
    """A session, to be sent as bearer or cookie, and whom it acts as; recovery codes are shown once."""

    session: str
    principal: str
    project: str | None
    role: str | None
    expires_at: datetime
    recovery_codes: list[str]


class SessionShown(BaseModel):
    """One of the caller's sessions."""

    id: str
    opened_at: datetime | None
    seen_at: datetime | None
    expires_at: datetime
    source: str | None


class MembershipShown(BaseModel):
    """A membership of the account that is logged in."""

    project: str
    member: str
    role: str


class ChangePassword(Body):
    """The old password with a code, and the new one."""

    old: str = Field(max_length=200)
    new: str = Field(max_length=200)
    code: str = Field(max_length=64)


class CreateKey(Body):
    """An API key to be made: without scopes it opens all that the caller may do, without days it stays until it is revoked."""

    label: str
    scopes: list[str] | None = Field(default=None, max_length=10)
    days: float | None = None


class KeyShown(BaseModel):
    """One of the caller's keys; never the key itself."""

    id: str
    label: str | None
    scopes: list[str] | None
    created_at: datetime
    expires_at: datetime | None


class KeyCreated(BaseModel):
    """A new key, shown this once."""

    api_key: str
    key: KeyShown


# Logging in: what is sent is the proof


@public.post("/login/password", name="login", summary="Open a session with password and code")
def login(body: Login, people: PeopleService, where: Source) -> SessionOpened:
    """One answer for all that can be wrong. After five false tries the account waits, ever longer."""
    project = parse_project(body.project) if body.project is not None else None
    return _opened(people.login(body.name, body.password, body.code, project, where))


@public.post("/login/setup", name="begin-set-up", summary="Choose a password with a one-time link")
def begin_setup(body: BeginSetup, people: PeopleService, where: Source) -> SetupBegun:
    """Nothing counts before the first code has come."""
    made = people.begin_setup(body.link, body.password, where)
    return SetupBegun(totp_uri=made.uri, totp_secret=made.secret)


@public.post("/login/setup/finish", name="finish-set-up", summary="Open an account with its authenticator's first code")
def finish_setup(body: FinishSetup, people: PeopleService, where: Source) -> SessionOpened:
    """The link is used up; the recovery codes are shown this once."""
    return _opened(people.finish_setup(body.link, body.code, where))


# Accounts


@public.get("/people", name="list-people", summary="Accounts")
def list_people(principal: Caller, people: PeopleService) -> list[PersonState]:
    """Administrators only."""
    return [_person(person) for person in people.people(principal)]


@public.post("/people", name="add-person", summary="Make an account", status_code=201)
def add_person(body: AddPerson, principal: Caller, people: PeopleService) -> PersonAdded:
    """Administrators only. Give the link to its owner over a way that you trust."""
    person, link, ends = people.add(principal, body.name, display=body.display, administrator=body.administrator)
    return PersonAdded(person=_person(person), link=link, expires_at=ends)


@public.patch("/people/{person}", name="close-person", summary="Close an account or open it again")
def close_person(person: str, body: PersonClosed, principal: Caller, people: PeopleService) -> PersonState:
    """Administrators only. Closing ends sessions, keys and certificates in every project."""
    return _person(people.set_disabled(principal, person, disabled=body.disabled))


@public.post("/people/{person}/reset", name="reset-person", summary="Let a person choose password and second factor anew")
def reset_person(person: str, principal: Caller, people: PeopleService) -> LinkState:
    """Administrators only; the old ones and all sessions end."""
    link, ends = people.reset(principal, person)
    return LinkState(link=link, expires_at=ends)


# One's own


@public.get("/account/memberships", name="list-memberships", summary="Memberships of the account that is logged in")
def list_memberships(principal: Caller, people: PeopleService) -> list[MembershipShown]:
    """Each wants a login of its own."""
    return [MembershipShown(project=one.project, member=one.name, role=one.role) for one in people.memberships(principal)]


@public.get("/account/sessions", name="list-sessions", summary="The caller's sessions")
def list_sessions(principal: Caller, people: PeopleService) -> list[SessionShown]:
    """The oldest first."""
    return [_session(each) for each in people.sessions(principal)]


@public.delete("/account/sessions/{session}", name="end-own-session", summary="End one of the caller's sessions", status_code=204)
def end_own_session(session: str, principal: Caller, people: PeopleService) -> None:
    """At once, also what it still has open."""
    people.end_session(principal, session)


@public.post("/account/password", name="change-password", summary="Change the caller's password", status_code=204)
def change_password(body: ChangePassword, principal: Caller, people: PeopleService) -> None:
    """Every session ends, this one too."""
    people.change_password(principal, body.old, body.new, body.code)


@public.get("/account/keys", name="list-keys", summary="The caller's API keys")
def list_keys(principal: Caller, people: PeopleService) -> list[KeyShown]:
    """The oldest first."""
    return [_key(each) for each in people.keys(principal)]


@public.post("/account/keys", name="create-key", summary="Make an API key", status_code=201)
def create_key(body: CreateKey, principal: Caller, people: PeopleService) -> KeyCreated:
    """It is shown this once."""
    text, kept = people.create_key(principal, label=body.label, scopes=body.scopes, days=body.days)
    return KeyCreated(api_key=text, key=_key(kept))


@public.delete("/account/keys/{key}", name="revoke-key", summary="Make an API key worthless", status_code=204)
def revoke_key(key: str, principal: Caller, people: PeopleService) -> None:
    """At once."""
    people.revoke_key(principal, key)


# Encoding


def _person(person: Person) -> PersonState:
    return PersonState(
        name=person.name,
        display=person.display,
        source=person.source,
        administrator=person.administrator,
        disabled=person.disabled,
        created_at=person.created_at,
        ready=person.source != "local" or person.totp_sealed is not None,
        locked_until=person.locked_until,
    )


def _opened(opened: Opened) -> SessionOpened:
    principal = opened.principal
    return SessionOpened(
        session=opened.session,
        principal=principal.name,
        project=principal.project,
        role=principal.role,
        expires_at=opened.expires_at,
        recovery_codes=list(opened.recovery_codes),
    )


def _session(session: SessionState) -> SessionShown:
    return SessionShown(**vars(session))


def _key(key: KeyState) -> KeyShown:
    return KeyShown(**{**vars(key), "scopes": sorted(key.scopes) if key.scopes is not None else None})
