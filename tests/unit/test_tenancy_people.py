"""Accounts, logins, sessions and keys on a database of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyotp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tenancy
from tenancy.authentication import Authentication, Proof
from tenancy.authority.issuer import new_key
from tenancy.authority.store import private_pem
from tenancy.broker import Broker
from tenancy.grants import GrantSigner, GrantVerifier
from tenancy.identity.local import Passwords
from tenancy.identity.lockout import wait_after
from tenancy.model import Door, Member, MemberState, Principal, Project, Role, administrator
from tenancy.people import LoggedIn, People
from tenancy.policy import SCOPES, Action, decide, outside_scopes
from tenancy.possession import Possession
from tenancy.reconcile import Reconciler, Settlement
from tenancy.repository import Repository
from tenancy.revocation import Peers, Revoker
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unauthenticated
from wardstream.names import MemberName, ProjectName, member_for

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
PASSWORD = "four words make one"
ICU, LAB = ProjectName("icu"), ProjectName("lab")
ADMIN = administrator()


class Quiet:
    """Broker and processes that agree to everything."""

    names: frozenset[str] = frozenset()

    def tell(self, revocation: object) -> frozenset[str]:
        return frozenset()

    tell_void = tell

    def set_consumer_rate(self, principal: str, bytes_a_second: float | None) -> None:
        pass

    def delete_all_acls(self, principal: str) -> None:
        pass

    def everywhere(self, question: Callable[[tuple[str, int]], Any]) -> list[Any]:
        return [frozenset()]

    def settle(self, project: ProjectName) -> Settlement:
        return Settlement(settled=True, seconds=0.0)


class House:
    """Control's part of logging in."""

    def __init__(self, folder: Path) -> None:
        engine = connect(f"sqlite:///{folder / 'tenancy.sqlite'}")
        migrate(engine, Path(tenancy.__file__).parent / "migrations")
        self.repository, self.clock = Repository(engine), ManualClock(NOW)
        key = new_key()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.verifier = GrantVerifier(public, self.clock)
        quiet = Quiet()
        revoker = Revoker(
            repository=self.repository,
            broker=cast(Broker, quiet),
            peers=cast(Peers, quiet),
            verifier=self.verifier,
            clock=self.clock,
            settle_seconds=1,
            rights=threading.Lock(),
        )
        self.authentication = Authentication(
            repository=self.repository,
            issuer=cast(Any, None),
            signer=GrantSigner(private_pem(key), self.clock),
            verifier=self.verifier,
            intermediates={},
            possession=Possession(secret=b"s" * 32, platform="test", clock=self.clock),
            clock=self.clock,
            link_file=folder / "link",
        )
        self.people = People(
            repository=self.repository,
            authentication=self.authentication,
            reconciler=cast(Reconciler, quiet),
            revoker=revoker,
            secret=b"s" * 32,
            clock=self.clock,
            passwords=Passwords(time_cost=1, memory_kib=64),
        )
        with self.repository.transaction() as found:
            for project in (ICU, LAB):
                found.add_project(Project(project, "", sandboxed=True, created_at=NOW, author=MemberName("olga")))
                found.put_member(Member(project, MemberName("olga"), Role.DATA_OWNER, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW))
        self.totp: dict[str, str] = {}

    def member(self, project: ProjectName, name: str, person: str, role: Role = Role.DATA_SCIENTIST) -> None:
        with self.repository.transaction() as found:
            member = Member(project, MemberName(name), role, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW)
            found.put_member(replace(member, person=person))

    def account(self, name: str, *, admin: bool = False) -> LoggedIn:
        """Make an account and open it."""
        _, link, _ = self.people.add(ADMIN, name, display="", administrator=admin)
        setup = self.people.begin_setup(link, PASSWORD, "here")
        self.totp[name] = setup.secret
        done = self.people.finish_setup(link, self.code(name), "here")
        self.clock.advance(timedelta(seconds=30))
        return done

    def code(self, name: str) -> str:
        return str(pyotp.TOTP(self.totp[name]).at(self.clock.now()))

    def login(self, name: str, *, password: str = PASSWORD, code: str | None = None, project: str | None = None) -> LoggedIn:
        place = ProjectName(project) if project is not None else None
        return self.people.login(name, password, self.code(name) if code is None else code, place, "there")

    def whois(self, session: str) -> Principal:
        return self.authentication.exchange(Proof(session=session), door=Door.OUTSIDE).principal


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_account_is_opened_by_its_owner_and_its_session_acts_as_the_one_membership(house: House) -> None:
    house.member(ICU, "anna", "anna@example.org")
    done = house.account("anna@example.org")
    assert done.principal.name == "icu__anna"
    assert len(done.recovery_codes) == 10
    principal = house.whois(house.login("anna@example.org").session)
    assert (principal.name, principal.person) == ("icu__anna", "anna@example.org")


def test_with_several_memberships_the_project_is_chosen_and_no_session_has_two(house: House) -> None:
    house.member(ICU, "anna", "anna")
    house.account("anna")
    house.member(LAB, "ann", "anna")
    with pytest.raises(Conflict, match="icu, lab"):
        house.login("anna")
    house.clock.advance(timedelta(seconds=30))
    principal = house.whois(house.login("anna", project="lab").session)
    assert (principal.project, principal.member) == (LAB, "ann")
    house.clock.advance(timedelta(seconds=30))
    with pytest.raises(NotFound):
        house.login("anna", project="other")


def test_administrator_is_named_and_reads_nothing(house: House) -> None:
    house.account("root", admin=True)
    principal = house.whois(house.login("root").session)
    assert (principal.name, principal.person) == ("administrator", "root")
    assert not decide(principal, Action.ROW_READ, project=ICU).allowed


WRONG: list[dict[str, Any]] = [
    {"password": "not the password"},
    {"password": ""},
    {"password": "x" * 5000},
    {"code": "000000"},
    {"code": ""},
    {"code": "12345"},
    {"code": "\u0661\u0662\u0663\u0664\u0665\u0666"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: f"{next(iter(each))}-{len(str(next(iter(each.values()))))}")
def test_one_answer_for_whatever_is_wrong(house: House, wrong: dict[str, Any]) -> None:
    house.account("root", admin=True)
    with pytest.raises(Unauthenticated) as refused:
        house.login("root", **wrong)
    with pytest.raises(Unauthenticated) as unknown:
        house.people.login("nobody", PASSWORD, "123456", None, "there")
    assert refused.value.message == unknown.value.message


def test_a_code_counts_once(house: House) -> None:
    house.account("root", admin=True)
    code = house.code("root")
    house.login("root", code=code)
    with pytest.raises(Unauthenticated):
        house.login("root", code=code)


def test_the_code_before_and_after_are_taken_and_older_ones_are_not(house: House) -> None:
    house.account("root", admin=True)
    house.clock.advance(timedelta(minutes=5))
    totp = pyotp.TOTP(house.totp["root"])
    with pytest.raises(Unauthenticated):
        house.login("root", code=totp.at(house.clock.now() - timedelta(seconds=61)))
    house.login("root", code=totp.at(house.clock.now() - timedelta(seconds=30)))
    house.login("root", code=totp.at(house.clock.now() + timedelta(seconds=30)))


def test_recovery_code_stands_in_once(house: House) -> None:
    codes = house.account("root", admin=True).recovery_codes
    house.login("root", code=codes[0])
    with pytest.raises(Unauthenticated):
        house.login("root", code=codes[0])
    house.login("root", code=codes[1].upper())


def test_false_logins_lock_the_account_ever_longer_and_the_right_one_waits_too(house: House) -> None:
    house.account("root", admin=True)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            house.login("root", password="wrong password")
    with pytest.raises(Unauthenticated):
        house.login("root")
    house.clock.advance(timedelta(seconds=31))
    house.login("root")


def test_waits_grow_and_end_at_an_hour() -> None:
    waits = [wait_after(failures) for failures in range(40)]
    assert waits[4] == timedelta(0)
    assert waits[5] == timedelta(seconds=30)
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)


def test_a_place_that_guesses_for_many_names_is_held_up(house: House) -> None:
    house.account("root", admin=True)
    for number in range(30):
        with pytest.raises(Unauthenticated):
            house.people.login(f"user-{number}", PASSWORD, "123456", None, "there")
    with pytest.raises(LimitExceeded):
        house.login("root")
    house.people.login("root", PASSWORD, house.code("root"), None, "elsewhere")


def test_session_ends_after_twelve_hours_and_after_a_quarter_of_an_hour_without_use(house: House) -> None:
    house.account("root", admin=True)
    session = house.login("root").session
    for _ in range(11):
        house.clock.advance(timedelta(minutes=14))
        house.whois(session)
    house.clock.advance(timedelta(minutes=16))
    with pytest.raises(Unauthenticated, match="over"):
        house.whois(session)
    again = house.login("root").session
    for _ in range(100):
        house.clock.advance(timedelta(minutes=10))
        try:
            house.whois(again)
        except Unauthenticated:
            break
    else:
        raise AssertionError("a session lives for ever")


def test_sessions_are_listed_and_ended_by_their_owner_alone(house: House) -> None:
    house.account("root", admin=True)
    house.account("eve", admin=True)
    session = house.login("root").session
    root, eve = house.whois(session), house.whois(house.login("eve").session)
    listed = house.people.sessions(root)
    assert len(listed) == 2
    with pytest.raises(NotFound):
        house.people.end_session(eve, listed[-1].id)
    house.people.end_session(root, listed[-1].id)
    with pytest.raises(Unauthenticated):
        house.whois(session)


def test_closed_account_has_nothing_in_any_project(house: House) -> None:
    house.account("root", admin=True)
    house.member(ICU, "anna", "anna")
    session = house.account("anna").session
    principal = house.whois(session)
    key, _ = house.people.create_key(principal, label="notebook", scopes=None, days=None)
    house.people.set_disabled(ADMIN, "anna", disabled=True)
    for proof in (Proof(session=session), Proof(api_key=key)):
        with pytest.raises(Unauthenticated):
            house.authentication.exchange(proof, door=Door.OUTSIDE)
    with pytest.raises(Unauthenticated):
        house.login("anna")
    house.people.set_disabled(ADMIN, "anna", disabled=False)
    house.clock.advance(timedelta(seconds=30))
    assert house.whois(house.login("anna").session).name == "icu__anna__g2"
    with pytest.raises(Conflict, match="last administrator"):
        house.people.set_disabled(ADMIN, "root", disabled=True)


def test_reset_ends_what_was_and_its_link_opens_once(house: House) -> None:
    session = house.account("root", admin=True).session
    link, _ = house.people.reset(ADMIN, "root")
    with pytest.raises(Unauthenticated):
        house.whois(session)
    with pytest.raises(Unauthenticated):
        house.login("root")
    house.totp["root"] = house.people.begin_setup(link, "another good password", "here").secret
    with pytest.raises(Unauthenticated, match="code"):
        house.people.finish_setup(link, "000000", "here")
    house.people.finish_setup(link, house.code("root"), "here")
    with pytest.raises(Unauthenticated):
        house.people.finish_setup(link, house.code("root"), "here")
    house.clock.advance(timedelta(seconds=30))
    assert house.login("root", password="another good password").principal.person == "root"


@pytest.mark.parametrize("password", ["short", "x" * 300, "aaaaaaaaaaaaaaaa", "root-root-root-root"])
def test_password_that_is_easy_to_guess_is_refused_before_anything_is_kept(house: House, password: str) -> None:
    _, link, _ = house.people.add(ADMIN, "root", display="", administrator=True)
    with pytest.raises(Invalid, match="password"):
        house.people.begin_setup(link, password, "here")
    assert house.people.begin_setup(link, PASSWORD, "here").secret


def test_changing_the_password_ends_every_session(house: House) -> None:
    session = house.account("root", admin=True).session
    root = house.whois(session)
    with pytest.raises(Unauthenticated):
        house.people.change_password(root, "wrong password", "another good password", house.code("root"))
    house.people.change_password(root, PASSWORD, "another good password", house.code("root"))
    with pytest.raises(Unauthenticated):
        house.whois(session)


def test_key_with_scopes_opens_less_ends_in_time_and_makes_no_session(house: House) -> None:
    house.member(ICU, "anna", "anna", Role.DATA_OWNER)
    principal = house.whois(house.account("anna").session)
    key, kept = house.people.create_key(principal, label="dashboard", scopes=["read"], days=1)
    reader = house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE).principal
    assert decide(reader, Action.ROW_READ, project=ICU).allowed
    for action in (Action.MEMBER_ADD, Action.RECORD_WRITE, Action.ACCOUNT_MANAGE):
        assert not decide(reader, action, project=ICU).allowed
    with pytest.raises(Denied):
        house.people.create_key(reader, label="more", scopes=None, days=None)
    with pytest.raises(Denied, match="scopes"):
        house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE, open_session=True)
    assert [each.id for each in house.people.keys(principal)] == [kept.id]
    house.clock.advance(timedelta(days=1, seconds=1))
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE)


def test_revoked_key_opens_nothing(house: House) -> None:
    house.account("root", admin=True)
    root = house.whois(house.login("root").session)
    key, kept = house.people.create_key(root, label="automation", scopes=None, days=None)
    assert house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE).principal.person == "root"
    house.people.revoke_key(root, kept.id)
    with pytest.raises(Unauthenticated):
        house.authentication.exchange(Proof(api_key=key), door=Door.OUTSIDE)


def test_every_scope_leaves_out_what_changes_rights() -> None:
    for scope in SCOPES:
        left = outside_scopes(frozenset({scope}))
        assert {Action.MEMBER_ADD, Action.SHARE_OFFER, Action.PROJECT_CLOSE, Action.PERSON_MANAGE, Action.ACCOUNT_MANAGE} <= left


@pytest.mark.parametrize(
    ("person", "member"),
    [
        ("anna.karlsson@hospital.se", "anna-karlsson"),
        ("o'neill", "o-neill"),
        ("Åsa Öberg", "asa-oberg"),
        ("1337", "m-1337"),
        ("__", "m"),
        ("a" * 60, "a" * 24),
        ("*)(uid=*", "uid"),
    ],
)
def test_account_name_that_does_not_fit_becomes_a_member_name(person: str, member: str) -> None:
    assert member_for(person) == member
