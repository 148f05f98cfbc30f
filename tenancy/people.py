"""People's accounts: made by an administrator, opened by a password and a code, a passkey, a directory or an identity provider.

A session acts as exactly one principal: an administrator, or one membership of the person. Whoever has several logs in to each.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tenancy.accounts import Person, PersonLink, Source
from tenancy.audit import AuditEvent, Detail, Outcome
from tenancy.authentication import SESSION_LIFETIME, Authentication
from tenancy.authority.secrets import totp_key
from tenancy.credentials import Holder, KeyState, Secret, SecretKind, SessionState, new_secret, parse_secret
from tenancy.identity.local import (
    Passwords,
    matching,
    new_recovery_codes,
    new_totp_secret,
    recovery_hash,
    seal,
    totp_step,
    totp_uri,
    unseal,
)
from tenancy.identity.lockout import Sources, wait_after
from tenancy.model import Member, Principal, PrincipalKind
from tenancy.policy import SCOPES, Action, decide, require
from tenancy.reconcile import Reconciler
from tenancy.repository import Repository, Transaction
from tenancy.revocation import Revoker
from tenancy.use_cases import UseCases, event_of
from wardstream.clock import Clock
from wardstream.errors import Conflict, Invalid, LimitExceeded, NotFound, Unauthenticated
from wardstream.names import PersonName, ProjectName, parse_person

logger = logging.getLogger(__name__)

LINK_LIFETIME = timedelta(hours=24)
_LONGEST_NAME = 100
_MOST_KEYS, _LONGEST_KEY_DAYS, _LONGEST_LABEL = 50, 366, 60
# One sentence for all that can be wrong: a guess shall learn neither whether the account exists nor which part was right.
_WRONG = "name, password or code is wrong, or there were too many false ones and you have to wait"
_SPENT = "this link was used already or is too old: ask an administrator for another"


@dataclass(frozen=True)
class TotpSetup:
    """What an authenticator app takes in; the account is open when its first code has come."""

    uri: str
    secret: str


@dataclass(frozen=True)
class LoggedIn:
    """A session and whom it acts as; `recovery_codes` are shown once, when the second factor was made."""

    session: str
    principal: Principal
    expires_at: datetime
    recovery_codes: tuple[str, ...] = ()


class People(UseCases):
    """The use cases of accounts, sessions and keys."""

    def __init__(
        self,
        *,
        repository: Repository,
        authentication: Authentication,
        reconciler: Reconciler,
        revoker: Revoker,
        secret: bytes,
        clock: Clock,
        passwords: Passwords | None = None,
    ) -> None:
        super().__init__(repository=repository, reconciler=reconciler, revoker=revoker, clock=clock)
        self._authentication = authentication
        self._key = totp_key(secret)
        self._sources = Sources()
        self._passwords = passwords or Passwords()

    # Accounts, for administrators

    def people(self, principal: Principal) -> list[Person]:
        """Return all accounts by name."""
        require(decide(principal, Action.PERSON_MANAGE))
        with self._repository.transaction() as tenancy:
            return tenancy.accounts.people()

    def add(self, principal: Principal, name: str, *, display: str, administrator: bool) -> tuple[Person, str, datetime]:
        """Make an account and return it with a one-time link, by which its owner chooses password and second factor."""
        now = self._clock.now()
        if len(display) > _LONGEST_NAME:
            raise Invalid(f"a display name has at most {_LONGEST_NAME} characters, got {len(display)}")
        with self._changing(principal, Action.PERSON_MANAGE, f"person {name[:64]}", None) as tenancy:
            require(decide(principal, Action.PERSON_MANAGE))
            known = parse_person(name)
            if tenancy.accounts.person(known) is not None:
                raise Conflict(f"there is an account {known} already")
            person = Person(known, display or known, Source.LOCAL, administrator, disabled=False, created_at=now)
            tenancy.accounts.add(person)
            link, ends = self._new_link(tenancy, known, now)
            tenancy.audit(event_of(principal, "person.add", None, known, administrator=administrator), now)
        return person, link, ends

    def reset(self, principal: Principal, name: str) -> tuple[str, datetime]:
        """Return a one-time link by which a person chooses password and second factor anew; those before, and all sessions, end.

        The administrator learns neither the old password nor the new one.
        """
        now = self._clock.now()
        with self._changing(principal, Action.PERSON_MANAGE, f"person {name[:64]}", None) as tenancy:
            require(decide(principal, Action.PERSON_MANAGE))
            person = self._local(tenancy, name)
            tenancy.accounts.put(replace(person, password_hash=None, totp_sealed=None, failures=0, locked_until=None))
            tenancy.accounts.put_recovery_codes(person.name, [])
            for passkey in tenancy.accounts.passkeys(person.name):
                tenancy.accounts.remove_passkey(person.name, passkey.id)
            tenancy.credentials.end_sessions_of(person.name)
            link, ends = self._new_link(tenancy, parse_person(person.name), now)
            tenancy.audit(event_of(principal, "person.reset", None, person.name), now)
        return link, ends

    def set_disabled(self, principal: Principal, name: str, *, disabled: bool) -> Person:
        """Close an account or open it again. Closing ends its sessions, keys and certificates, in every project.

        Its memberships stay, each as another principal that nobody holds anything of until the account is opened again.
        Raises `Conflict` for the last administrator.
        """
        now = self._clock.now()
        going = []
        with self._changing(principal, Action.PERSON_MANAGE, f"person {name[:64]}", None) as tenancy:
            require(decide(principal, Action.PERSON_MANAGE))
            person = self._known(tenancy, name)
            if disabled and person.administrator and not person.disabled and tenancy.accounts.administrators() == 1:
                raise Conflict(f"{person.name} is the last administrator: make another one first")
            person = replace(person, disabled=disabled, failures=0, locked_until=None)
            tenancy.accounts.put(person)
            if disabled:
                tenancy.credentials.end_sessions_of(person.name)
                tenancy.credentials.revoke_keys_of(person.name, now)
                going = [self._next_generation(tenancy, member, now) for member in tenancy.members_of(person.name)]
            tenancy.audit(event_of(principal, "person.disable" if disabled else "person.enable", None, person.name), now)
        self._carry_out(going)
        self._settle_all(each.project for each in going)
        return person

    # Choosing password and second factor

    def begin_setup(self, link: str, password: str, source: str) -> TotpSetup:
        """Take a password for the bearer of a one-time link, and return what an authenticator app needs.

        Nothing counts before the first code has come; until then it may be begun again.
        """
        now = self._clock.now()
        self._require_free(source, now)
        totp = new_totp_secret()
        with self._repository.transaction() as tenancy:
            found = self._open_link(tenancy, link, now)
            if found is not None:
                kept = self._passwords.hash(password, found.person)
                tenancy.accounts.choose(found.id, kept, seal(totp, self._key, found.person))
        if found is None:
            self._sources.failed(source, now.timestamp())
            raise Unauthenticated(_SPENT)
        return TotpSetup(totp_uri(totp, found.person), totp)

    def finish_setup(self, link: str, code: str, source: str) -> LoggedIn:
        """Open the account with the first code of its authenticator, and log in; the link is used up.

        Returns the recovery codes, this once. The session is an administrator's, or that of the person's one membership.
        """
        now = self._clock.now()
        self._require_free(source, now)
        codes = new_recovery_codes()
        with self._repository.transaction() as tenancy:
            found = self._open_link(tenancy, link, now)
            if found is None or found.totp_sealed is None:
                raise Unauthenticated(_SPENT)
            step = totp_step(unseal(found.totp_sealed, self._key, found.person), code, now.timestamp(), None)
            person = tenancy.accounts.person(found.person)
            if step is None or person is None:
                self._sources.failed(source, now.timestamp())
                raise Unauthenticated("the code is wrong: is the clock of the device with the authenticator right?")
            if not tenancy.accounts.use_link(found.id, now):
                raise Unauthenticated(_SPENT)
            person = replace(person, password_hash=found.password_hash, totp_sealed=found.totp_sealed, totp_step=step)
            tenancy.accounts.put(replace(person, failures=0, locked_until=None))
            tenancy.accounts.put_recovery_codes(person.name, [recovery_hash(each) for each in codes])
            tenancy.audit(_by(person, "person.set-up"), now)
            done = self._opened(tenancy, person, None, source, now, optional=True)
        return replace(done, recovery_codes=tuple(codes))

    # Logging in

    def login(self, name: str, password: str, code: str, project: ProjectName | None, source: str) -> LoggedIn:
        """Open a session for the right name, password and code: six digits of the authenticator, or a recovery code.

        Takes as long for an account that does not exist. After five false tries in a row the account waits, ever longer; so
        does the place they came from. Raises `Conflict` naming the projects where the person has several and named none.
        """
        now = self._clock.now()
        self._require_free(source, now)
        with self._repository.transaction() as tenancy:
            person = tenancy.accounts.person(name) if len(name) <= 64 else None
            kept = person.password_hash if person is not None and person.source is Source.LOCAL else None
        # Outside of the transaction: it takes a tenth of a second, and nobody else shall wait for it.
        fits = self._passwords.fits(password, kept)
        done: LoggedIn | None = None
        with self._repository.transaction() as tenancy:
            person = tenancy.accounts.person(name) if kept is not None else None
            locked = person is not None and person.locked_until is not None and person.locked_until > now
            right = fits and person is not None and not person.disabled and not locked and person.password_hash == kept
            # A code counts only with the password, so that guessing costs both.
            second = self._second_factor(tenancy, person, code, now) if right and person is not None else None
            if person is not None and second is None:
                self._count_failure(tenancy, person, locked, now)
            if second is not None:
                done = self._opened(tenancy, second, project, source, now)
        if done is None:
            self._sources.failed(source, now.timestamp())
            logger.info("a login was refused", extra={"source": source})
            raise Unauthenticated(_WRONG)
        return done

    def open_for(self, person: Person, project: ProjectName | None, source: str) -> LoggedIn:
        """Open a session for somebody whom a passkey, directory or provider has proved."""
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            found = tenancy.accounts.person(person.name)
            if found is None or found.disabled:
                raise Unauthenticated(_WRONG)
            return self._opened(tenancy, found, project, source, now)

    def _second_factor(self, tenancy: Transaction, person: Person, code: str, now: datetime) -> Person | None:
        """Return the person with the code used up, or None for a wrong one."""
        if person.totp_sealed is None:
            return None
        step = totp_step(unseal(person.totp_sealed, self._key, person.name), code.strip(), now.timestamp(), person.totp_step)
        if step is not None:
            done = replace(person, totp_step=step, failures=0, locked_until=None)
        else:
            found = matching(code, tenancy.accounts.recovery_codes(person.name))
            if found is None or not tenancy.accounts.use_recovery_code(person.name, found):
                return None
            tenancy.audit(_by(person, "person.recovery-code", left=len(tenancy.accounts.recovery_codes(person.name))), now)
            done = replace(person, failures=0, locked_until=None)
        tenancy.accounts.put(done)
        return done

    def _count_failure(self, tenancy: Transaction, person: Person, locked: bool, now: datetime) -> None:
        # Tries while it is locked do not lengthen the wait: else anybody could lock somebody out for ever.
        failures = person.failures if locked else person.failures + 1
        wait = wait_after(failures)
        until = person.locked_until if locked else (now + wait if wait else None)
        tenancy.accounts.put(replace(person, failures=failures, locked_until=until))
        if wait and not locked:
            event = AuditEvent("ws-control", None, "person.locked", person.name, Outcome.REFUSED, {"seconds": int(wait.total_seconds())})
            tenancy.audit(event, now)

    def _opened(
        self, tenancy: Transaction, person: Person, project: ProjectName | None, source: str, now: datetime, *, optional: bool = False
    ) -> LoggedIn:
        holder = self._holder(tenancy, person, project, optional=optional)
        session = new_secret(SecretKind.SESSION)
        ends = now + SESSION_LIFETIME
        tenancy.credentials.add_session(session, holder, ends, at=now, person=person.name, source=source)
        principal = replace(self._authentication.principal_of(tenancy, holder), person=person.name)
        tenancy.audit(event_of(principal, "session.open", principal.project, principal.name, source=source), now)
        return LoggedIn(session.text, principal, ends)

    def _holder(self, tenancy: Transaction, person: Person, project: ProjectName | None, *, optional: bool) -> Holder:
        members = tenancy.members_of(person.name)
        if project is None and person.administrator:
            return Holder(None, None, 1)
        chosen = [member for member in members if project is None or member.project == project]
        if len(chosen) == 1:
            return _holder_of(chosen[0])
        if not members:
            raise Unauthenticated(f"{person.name} is a member of no project yet: ask a data owner to add you with this account")
        if project is not None:
            raise NotFound(f"project {project} is not there")
        if optional:
            return _holder_of(members[0])
        raise Conflict(f"choose the project to log in to: {', '.join(member.project for member in members)}")

    # One's own sessions and keys

    def memberships(self, principal: Principal) -> list[Member]:
        """Return the memberships of the account that is logged in."""
        self._own(principal)
        if principal.person is None:
            return []
        with self._repository.transaction() as tenancy:
            return tenancy.members_of(principal.person)

    def sessions(self, principal: Principal) -> list[SessionState]:
        """Return the caller's sessions."""
        self._own(principal)
        with self._repository.transaction() as tenancy:
            return tenancy.credentials.sessions(_holder(principal), principal.person, self._clock.now())

    def end_session(self, principal: Principal, session_id: str) -> None:
        """End one of the caller's sessions; raises `NotFound` for any other."""
        self._own(principal)
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            known = {each.id for each in tenancy.credentials.sessions(_holder(principal), principal.person, now)}
            if session_id not in known:
                raise NotFound(f"session {session_id[:16]} is not there")
            tenancy.credentials.end_session(session_id)
            void = self._void(tenancy, principal.project, principal.member) if principal.project is not None else None
            tenancy.audit(event_of(principal, "session.end", principal.project, principal.name, session=session_id), now)
        if void is not None:
            # What the session's last grant still opens ends too, at once.
            self._make_void(void)

    def change_password(self, principal: Principal, old: str, new: str, code: str) -> None:
        """Change one's own password; every session ends. Raises `Unauthenticated` for a wrong old one or code."""
        self._own(principal)
        if principal.person is None:
            raise Invalid("this is no account with a password: log in with one")
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            person = self._local(tenancy, principal.person)
            right = self._passwords.fits(old, person.password_hash)
            second = self._second_factor(tenancy, person, code, now) if right else None
            if second is None:
                self._count_failure(tenancy, person, False, now)
            else:
                tenancy.accounts.put(replace(second, password_hash=self._passwords.hash(new, person.name)))
                tenancy.credentials.end_sessions_of(person.name)
                tenancy.audit(event_of(principal, "person.password", principal.project, person.name), now)
        if second is None:
            raise Unauthenticated(_WRONG)

    def keys(self, principal: Principal) -> list[KeyState]:
        """Return the caller's API keys that still open something."""
        self._own(principal)
        with self._repository.transaction() as tenancy:
            return tenancy.credentials.api_keys(_holder(principal), principal.person, self._clock.now())

    def create_key(self, principal: Principal, *, label: str, scopes: Collection[str] | None, days: float | None) -> tuple[str, KeyState]:
        """Return a new API key in the caller's name, shown this once. A key with scopes makes none with more."""
        self._own(principal)
        now = self._clock.now()
        if not 1 <= len(label) <= _LONGEST_LABEL:
            raise Invalid(f"a label has 1 to {_LONGEST_LABEL} characters, got {len(label)}: say where the key is used")
        if unknown := sorted(set(scopes or ()) - set(SCOPES)):
            raise Invalid(f"{unknown[0][:40]!a} is not a scope: scopes are {', '.join(SCOPES)}, or none for all that you may do")
        if scopes is not None and not scopes:
            raise Invalid("name at least one scope, or leave scopes out for a key to all that you may do")
        if days is not None and not 0 < days <= _LONGEST_KEY_DAYS:
            raise Invalid(f"a key lives for more than 0 and at most {_LONGEST_KEY_DAYS} days, got {days:g}")
        kept = KeyState("", label, frozenset(scopes) if scopes is not None else None, now, now + timedelta(days=days) if days else None)
        key = new_secret(SecretKind.API_KEY)
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            holder = _holder(principal)
            if len(tenancy.credentials.api_keys(holder, principal.person, now)) >= _MOST_KEYS:
                raise LimitExceeded(f"at most {_MOST_KEYS} keys at a time: revoke one first")
            tenancy.credentials.add_api_key(
                key, holder, now, label=label, scopes=kept.scopes, expires_at=kept.expires_at, person=principal.person
            )
            told: list[str] | None = sorted(kept.scopes) if kept.scopes is not None else None
            tenancy.audit(event_of(principal, "api-key.issue", principal.project, principal.name, key=key.id, scopes=told), now)
        return key.text, replace(kept, id=key.id)

    def revoke_key(self, principal: Principal, key_id: str) -> None:
        """Make one of the caller's keys worthless, at once; raises `NotFound` for any other."""
        self._own(principal)
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            known = {each.id for each in tenancy.credentials.api_keys(_holder(principal), principal.person, now)}
            if key_id not in known:
                raise NotFound(f"key {key_id[:16]} is not there")
            tenancy.credentials.revoke_api_key(key_id, now)
            void = self._void(tenancy, principal.project, principal.member) if principal.project is not None else None
            tenancy.audit(event_of(principal, "api-key.revoke", principal.project, principal.name, key=key_id), now)
        if void is not None:
            self._make_void(void)

    # Parts

    def _own(self, principal: Principal) -> None:
        require(decide(principal, Action.ACCOUNT_MANAGE, project=principal.project))

    def _require_free(self, source: str, now: datetime) -> None:
        if self._sources.blocked(source, now.timestamp()):
            raise LimitExceeded("too many false logins came from where you are: try again in ten minutes")

    def _known(self, tenancy: Transaction, name: str) -> Person:
        person = tenancy.accounts.person(name)
        if person is None:
            raise NotFound(f"there is no account {name[:64]!a}")
        return person

    def _local(self, tenancy: Transaction, name: str) -> Person:
        person = self._known(tenancy, name)
        if person.source is not Source.LOCAL:
            raise Conflict(f"{person.name} logs in by {person.source}: its password is not kept here")
        return person

    def _new_link(self, tenancy: Transaction, person: PersonName, now: datetime) -> tuple[str, datetime]:
        link: Secret = new_secret(SecretKind.LOGIN_LINK)
        ends = now + LINK_LIFETIME
        tenancy.accounts.add_link(link, person, ends)
        return link.text, ends

    def _open_link(self, tenancy: Transaction, text: str, now: datetime) -> PersonLink | None:
        secret = parse_secret(text, SecretKind.LOGIN_LINK)
        found = tenancy.accounts.link(secret.id) if secret is not None else None
        if secret is None or found is None or not secret.proves(found.secret_hash) or found.used_at is not None or now >= found.expires_at:
            return None
        return found


def _by(person: Person, action: str, **details: Detail) -> AuditEvent:
    return AuditEvent(person.name, None, action, person.name, Outcome.ALLOWED, details)


def _holder_of(member: Member) -> Holder:
    return Holder(member.project, member.name, member.generation)


def _holder(principal: Principal) -> Holder:
    if principal.kind is PrincipalKind.ADMINISTRATOR:
        return Holder(None, None, 1)
    return Holder(principal.project, principal.member, principal.generation)
