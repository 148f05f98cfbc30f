"""From a proof to a principal: keys, certificates, sessions and one-time links; and how each of them is obtained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tenancy.audit import AuditEvent, Detail, Outcome
from tenancy.authority.issuer import IssuedCertificate, Issuer
from tenancy.authority.profile import ACTING, DEVICE, EXECUTION, OWNER, SERVICE, Profile
from tenancy.credentials import Holder, Secret, SecretKind, StoredCertificate, StoredSecret, new_secret, parse_secret
from tenancy.grants import EXECUTION_GRANT_LIFETIME, GrantSigner, GrantVerifier
from tenancy.model import MATERIALISER, Door, Member, MemberState, Principal, PrincipalKind, Project, Role, administrator, principal_for
from tenancy.policy import Action, decide, outside_scopes, require
from tenancy.possession import Challenge, DoorToken, Possession, ShownToken
from tenancy.repository import Repository, Transaction
from wardstream.clock import Clock
from wardstream.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from wardstream.names import MemberName, ProjectName

logger = logging.getLogger(__name__)

ENROLMENT_LIFETIME = timedelta(hours=24)
# NIST SP 800-63B section 4.3.3: at the third level 12 hours, and 15 minutes without use.
SESSION_LIFETIME = timedelta(hours=12)
SESSION_IDLE = timedelta(minutes=15)

_LONGEST_CERTIFICATE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Proof:
    """What a caller shows; exactly one is set."""

    api_key: str | None = None
    door_token: ShownToken | None = None
    session: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Granted:
    """A signed grant, whom it names, and the session that was opened with it, if one was."""

    grant: str
    principal: Principal
    expires_at: datetime
    session: str | None


@dataclass(frozen=True)
class Enrolled:
    """A certificate (leaf and intermediate, PEM) with the root that its holder trusts."""

    certificate: str
    root: str
    principal: str
    expires_at: datetime


class Authentication:
    """Knows callers by their proofs, and issues what they prove themselves with."""

    def __init__(
        self,
        *,
        repository: Repository,
        issuer: Issuer,
        signer: GrantSigner,
        verifier: GrantVerifier,
        intermediates: Mapping[Door, x509.Certificate],
        possession: Possession,
        clock: Clock,
        link_file: Path,
    ) -> None:
        self._repository = repository
        self._issuer = issuer
        self._signer = signer
        self._verifier = verifier
        self._intermediates = intermediates
        self._possession = possession
        self._clock = clock
        self._link_file = link_file

    # Proofs

    def exchange(self, proof: Proof, *, door: Door, project: ProjectName | None = None, open_session: bool = False) -> Granted:
        """Return a grant for whoever shows `proof` at `door`, with a session where one is asked for or a link was used.

        A certificate is no proof, its key is: see `challenge`. Keys, sessions and links come from outside. Raises
        `Unauthenticated` for anything that proves nobody, and for a key of another project than `project`.
        """
        now = self._clock.now()
        session: str | None = None
        with self._repository.transaction() as tenancy:
            if proof.door_token is not None:
                principal = self._by_door_token(tenancy, proof.door_token, door)
            else:
                shown = self._by_secret(tenancy, proof, door, now)
                principal = self._principal(tenancy, shown.holder, door)
                if shown.person is not None:
                    principal = replace(principal, person=shown.person)
                if shown.scopes is not None:
                    principal = replace(principal, without=principal.without | outside_scopes(shown.scopes))
                if proof.link is not None or (open_session and proof.api_key is not None):
                    if shown.scopes is not None:
                        raise Denied("a key with scopes opens no session: use it as it is")
                    opened = new_secret(SecretKind.SESSION)
                    tenancy.credentials.add_session(opened, shown.holder, now + SESSION_LIFETIME, at=now, person=shown.person)
                    session = opened.text
                    tenancy.audit(_event(principal, "session.open", principal.name, by="link" if proof.link is not None else "key"), now)
            if project is not None and principal.project not in (None, project):
                raise Unauthenticated(f"this proof is not for project {project}: use the key that was made for it")
        if proof.link is not None:
            self._link_file.unlink(missing_ok=True)
        grant, expires_at = self._signer.sign(principal)
        return Granted(grant, principal, expires_at, session)

    def challenge(self, certificate: str, door: Door) -> Challenge:
        """Return what the holder of `certificate` (PEM) is to sign; raises `Unauthenticated` for one that opens no door or another."""
        with self._repository.transaction() as tenancy:
            return self._possession.challenge(self._shown(tenancy, certificate, door), door)

    def door_token(self, certificate: str, door: Door, nonce: str, signature: str) -> DoorToken:
        """Return a token for whoever signed `nonce` with the certificate's key; raises `Unauthenticated`."""
        with self._repository.transaction() as tenancy:
            return self._possession.token(self._shown(tenancy, certificate, door), door, nonce, signature)

    def end_session(self, session: str) -> None:
        """End a session; one that is not there has ended."""
        secret = parse_secret(session, SecretKind.SESSION)
        if secret is None:
            return
        with self._repository.transaction() as tenancy:
            stored = tenancy.credentials.session(secret.id)
            if stored is not None and secret.proves(stored.secret_hash):
                tenancy.credentials.end_session(secret.id)

    def _by_secret(self, tenancy: Transaction, proof: Proof, door: Door, now: datetime) -> StoredSecret:
        if door is Door.INSIDE:
            raise Unauthenticated("the inside door is for programs, which show the certificate of their execution")
        credentials = tenancy.credentials
        if proof.api_key is not None:
            secret = parse_secret(proof.api_key, SecretKind.API_KEY)
            invalid = "the API key is not valid: ask a data owner for a new token"
            shown = _proven(secret, credentials.api_key(secret.id) if secret else None, now, invalid)
            if shown.person is not None and shown.holder.project is None:
                owner = tenancy.accounts.person(shown.person)
                if owner is None or owner.disabled or not owner.administrator:
                    raise Unauthenticated(invalid)
            return shown
        if proof.session is not None:
            secret = parse_secret(proof.session, SecretKind.SESSION)
            over = "the session is over: log in again"
            shown = _proven(secret, credentials.session(secret.id) if secret else None, now, over)
            if secret is None or (shown.seen_at is not None and now - shown.seen_at > SESSION_IDLE):
                raise Unauthenticated(over)
            if shown.person is not None:
                person = tenancy.accounts.person(shown.person)
                if person is None or person.disabled or (shown.holder.project is None and not person.administrator):
                    raise Unauthenticated(over)
            credentials.see_session(secret.id, now)
            return shown
        if proof.link is not None:
            secret = parse_secret(proof.link, SecretKind.LOGIN_LINK)
            spent = "this link was used already or is too old: log in with an API key, or restart the platform for a new link"
            shown = _proven(secret, credentials.login_link(secret.id) if secret else None, now, spent)
            if secret is None or not credentials.use_login_link(secret.id, now):
                raise Unauthenticated(spent)
            return shown
        raise Unauthenticated("no proof was shown: an API key, a certificate, a session or a link")

    def _shown(self, tenancy: Transaction, pem: str, door: Door) -> x509.Certificate:
        """Return the certificate, which proves nothing by itself; raises `Unauthenticated` where it is none of this door's."""
        refused = Unauthenticated("the certificate is not one of this platform's for this door, or has expired")
        if len(pem) > _LONGEST_CERTIFICATE_BYTES:
            raise refused
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            certificate.verify_directly_issued_by(self._intermediates[door])
        except (ValueError, TypeError, InvalidSignature) as error:
            raise refused from error
        if not certificate.not_valid_before_utc <= self._clock.now() <= certificate.not_valid_after_utc:
            raise refused
        self._holder_of(tenancy, certificate.serial_number, refused)
        return certificate

    def _by_door_token(self, tenancy: Transaction, shown: ShownToken, door: Door) -> Principal:
        refused = Unauthenticated("the certificate has ended: enrol again")
        serial = self._possession.serial(shown, door)
        principal = self._principal(tenancy, self._holder_of(tenancy, serial, refused), door)
        return replace(principal, serial=format(serial, "x"))

    def _holder_of(self, tenancy: Transaction, serial: int, refused: Unauthenticated) -> Holder:
        stored = tenancy.credentials.certificate(serial)
        # A certificate in which the gateway acts for somebody opens the broker for minutes, and no door of ours.
        if stored is None or stored.revoked_at is not None or stored.profile == ACTING.name or stored.expires_at < self._clock.now():
            raise refused
        return stored.holder

    def principal_of(self, tenancy: Transaction, holder: Holder) -> Principal:
        """Return whom a credential of `holder` stands for at the outside door; raises `Unauthenticated` where that has ended."""
        return self._principal(tenancy, holder, Door.OUTSIDE)

    def _principal(self, tenancy: Transaction, holder: Holder, door: Door) -> Principal:
        if holder.project is None or holder.member is None:
            return administrator(door)
        project, member = tenancy.project(holder.project), tenancy.member(holder.project, holder.member)
        if project is None or member is None or member.state is not MemberState.ACTIVE or member.generation != holder.generation:
            raise Unauthenticated("this proof belongs to a membership that has ended: ask a data owner for a new token")
        self._require_open(tenancy, member)
        return principal_for(member, project, door, shared=tenancy.shares.opened_to(project.name, self._clock.now()))

    def _require_open(self, tenancy: Transaction, member: Member) -> None:
        if member.person is not None:
            person = tenancy.accounts.person(member.person)
            if person is not None and person.disabled:
                raise Unauthenticated("the account of this member is closed: ask an administrator")

    # Enrolment

    def enrol_certificate(self, token: str, csr: str) -> Enrolled:
        """Return a certificate of the outside intermediate for the bearer of `token`, which is used up by it.

        Devices and owners get one, and everybody of an open project. A request that cannot be answered leaves the
        token good. Raises `Unauthenticated` for a token that is unknown, used or too old.
        """
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            project, member = self._enrolling(tenancy, token, now)
            if member.role is Role.SERVICE:
                raise Denied("a service gets its certificates from the worker that runs it")
            _require_outside(project, member)
            issued = self._issue_outside(tenancy, csr, member, now, "certificate.issue")
        return self._enrolled(member, issued)

    def renew_certificate(self, principal: Principal, csr: str) -> Enrolled:
        """Return another certificate for the bearer of one that is good, as itself; the one that it has goes on until it ends.

        Raises `Denied` for whoever came with anything else than a certificate of the outside intermediate.
        """
        require(decide(principal, Action.CERTIFICATE_RENEW, project=principal.project))
        if principal.serial is None or principal.door is not Door.OUTSIDE or principal.project is None or principal.member is None:
            raise Denied("a certificate is renewed with the certificate itself, at the door for client certificates")
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            project, member = _active(tenancy, principal.project, principal.member)
            if member.generation != principal.generation:
                raise Unauthenticated(f"{principal.name} has ended: enrol with a new token")
            _require_outside(project, member)
            issued = self._issue_outside(tenancy, csr, member, now, "certificate.renew")
        return self._enrolled(member, issued)

    def certificates(self, principal: Principal, project: ProjectName) -> list[StoredCertificate]:
        """Return the project's certificates that have not expired, the newest first; for its owners."""
        require(decide(principal, Action.CERTIFICATE_LIST, project=project), f"project {project}")
        with self._repository.transaction() as tenancy:
            if principal.member is not None:
                _, member = _active(tenancy, project, principal.member)
                if (member.generation, member.role) != (principal.generation, principal.role):
                    raise Unauthenticated("rights have changed since this grant was signed: ask again")
            return tenancy.credentials.certificates(project)

    def _issue_outside(self, tenancy: Transaction, csr: str, member: Member, now: datetime, action: str) -> IssuedCertificate:
        profile = DEVICE if member.role is Role.DEVICE else OWNER
        issued = self._issue(tenancy, csr, profile, member, now)
        tenancy.audit(_event_of(member, action, profile=profile.name, serial=format(issued.serial, "x")), now)
        return issued

    def enrol_api_key(self, token: str) -> tuple[str, str]:
        """Return an API key and its principal for the bearer of `token`, which is used up by it; the key is shown this once."""
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            _, member = self._enrolling(tenancy, token, now)
            if not member.role.person:
                raise Denied(f"a {member.role} proves itself by certificate: send a certificate signing request instead")
            key = new_secret(SecretKind.API_KEY)
            tenancy.credentials.add_api_key(key, _holder(member), now)
            tenancy.audit(_event_of(member, "api-key.issue", key=key.id), now)
        return key.text, member.principal_name

    def new_enrolment_token(self, tenancy: Transaction, member: Member) -> tuple[str | None, datetime]:
        """Return a one-time token for `member` and when it ends; services enrol through their worker and get None."""
        now = self._clock.now()
        ends = now + ENROLMENT_LIFETIME
        if member.role is Role.SERVICE:
            return None, ends
        token = new_secret(SecretKind.ENROLMENT)
        tenancy.credentials.add_enrolment_token(token, _holder(member), ends)
        return token.text, ends

    def _enrolling(self, tenancy: Transaction, text: str, now: datetime) -> tuple[Project, Member]:
        """Return whom the token is for, and mark it used; undone with the transaction where the rest fails."""
        token = parse_secret(text, SecretKind.ENROLMENT)
        stored = tenancy.credentials.enrolment_token(token.id) if token is not None else None
        if token is None or stored is None or not token.proves(stored.secret_hash):
            raise Unauthenticated("the enrolment token is not valid: ask a data owner for a new one")
        if stored.ended_at is not None:
            raise Unauthenticated("the enrolment token was used already: ask a data owner for a new one")
        if stored.expires_at is None or now >= stored.expires_at:
            raise Unauthenticated(f"the enrolment token ended at {stored.expires_at:%Y-%m-%d %H:%M} UTC: ask a data owner for a new one")
        if not tenancy.credentials.use_enrolment_token(token.id, now):
            raise Unauthenticated("the enrolment token was used already: ask a data owner for a new one")
        holder = stored.holder
        if holder.project is None or holder.member is None:
            raise Unauthenticated("the enrolment token is not valid: ask a data owner for a new one")
        project, member = _active(tenancy, holder.project, holder.member)
        if member.generation != holder.generation:
            raise Unauthenticated("the enrolment token belongs to an earlier membership: ask a data owner for a new one")
        self._require_open(tenancy, member)
        return project, member

    # Certificates inside

    def acting_certificate(self, principal: Principal, csr: str, lifetime_seconds: int) -> Enrolled:
        """Return an inside certificate in the caller's own name, with which the gateway writes for it for minutes."""
        if principal.kind is not PrincipalKind.MEMBER or principal.project is None or principal.member is None:
            raise Denied(f"{principal.name} is no member of a project and writes no records")
        if not 1 <= lifetime_seconds <= ACTING.longest.total_seconds():
            raise Invalid(f"lifetime_seconds must be from 1 to {int(ACTING.longest.total_seconds())}, got {lifetime_seconds}")
        return self._inside(principal.project, principal.member, principal.generation, csr, ACTING, timedelta(seconds=lifetime_seconds))

    def service_certificate(self, project: ProjectName, member: MemberName, csr: str, days: int) -> Enrolled:
        """Return an inside certificate of a service, for the worker that runs it."""
        if not 1 <= days <= SERVICE.longest.days:
            raise Invalid(f"days must be from 1 to {SERVICE.longest.days}, got {days}")
        return self._inside(project, member, None, csr, SERVICE, timedelta(days=days))

    def execution_certificate(self, grant: str, csr: str) -> Enrolled:
        """Return an inside certificate for one execution of a program, in the name that its grant was made for."""
        principal = self._verifier.verify(grant)
        if principal.execution is None or principal.project is None or principal.member is None:
            raise Denied("this grant is not an execution's")
        return self._inside(principal.project, principal.member, principal.generation, csr, EXECUTION, None)

    def execution_grant(
        self, principal: Principal, project: ProjectName, execution: str, run_as: MemberName | None
    ) -> tuple[str, datetime]:
        """Return a grant for one execution: in the caller's own name, or in that of a service of the project.

        A data scientist runs as a service that only reads: what it writes would be results that people may not change.
        """
        if not 1 <= len(execution) <= 64 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in execution):
            raise Invalid("an execution's id has 1 to 64 letters, digits, '-' or '_'")
        require(decide(principal, Action.PROGRAM_RUN, project=project), f"project {project}")
        if principal.member is None:
            raise Denied("only a member of the project runs programs in it")
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            found, own = _active(tenancy, project, principal.member)
            member = own
            if run_as is not None:
                service = tenancy.member(project, run_as)
                if service is None or service.state is not MemberState.ACTIVE or service.role is not Role.SERVICE:
                    raise NotFound(f"service {run_as} of project {project} is not there")
                if service.name == MATERIALISER:
                    raise Denied(f"{MATERIALISER} is the platform's own service: run as another, or as yourself")
                if service.writes and own.role is not Role.DATA_OWNER:
                    raise Denied(f"{run_as} writes datasets: only a data owner runs a program in its name")
                member = service
            tenancy.audit(_event(principal, "execution.grant", member.principal_name, execution=execution), now)
            shared = tenancy.shares.opened_to(project, now)
        return self._signer.sign(principal_for(member, found, Door.INSIDE, shared=shared, execution=execution), EXECUTION_GRANT_LIFETIME)

    def _inside(
        self, project: ProjectName, name: MemberName, generation: int | None, csr: str, profile: Profile, lifetime: timedelta | None
    ) -> Enrolled:
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            _, member = _active(tenancy, project, name)
            if generation is not None and generation != member.generation:
                raise Unauthenticated(f"{name} has another membership of {project} by now: log in again")
            if profile is SERVICE and member.role is not Role.SERVICE:
                raise Conflict(f"{name} of project {project} is a {member.role}, not a service")
            issued = self._issue(tenancy, csr, profile, member, now, lifetime)
            # The gateway's own certificates are of minutes and many; their serials are kept, without an entry for each.
            if profile is not ACTING:
                tenancy.audit(_event_of(member, "certificate.issue", profile=profile.name, serial=format(issued.serial, "x")), now)
        return self._enrolled(member, issued)

    def _issue(
        self, tenancy: Transaction, csr: str, profile: Profile, member: Member, now: datetime, lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        issued = self._issuer.issue(
            csr, profile, principal=member.principal_name, project=member.project, member=member.name, now=now, lifetime=lifetime
        )
        tenancy.credentials.add_certificate(StoredCertificate(issued.serial, _holder(member), profile.name, now, issued.not_after))
        return issued

    def _enrolled(self, member: Member, issued: IssuedCertificate) -> Enrolled:
        return Enrolled(issued.chain, self._issuer.root, member.principal_name, issued.not_after)


def _proven(secret: Secret | None, stored: StoredSecret | None, now: datetime, refusal: str) -> StoredSecret:
    """Return what is kept of the secret, if this is it; one answer for unknown, wrong, ended and expired ones, since a guess shall learn nothing."""
    if secret is None or stored is None or not secret.proves(stored.secret_hash) or stored.ended_at is not None:
        raise Unauthenticated(refusal)
    if stored.expires_at is not None and now >= stored.expires_at:
        raise Unauthenticated(refusal)
    return stored


def _require_outside(project: Project, member: Member) -> None:
    if project.sandboxed and member.role in (Role.DATA_SCIENTIST, Role.OBSERVER, Role.RESTRICTED):
        raise Denied(
            f"project {project.name} is sandboxed: a {member.role} holds no certificate outside the platform. "
            "Use this token for an API key (`wardstream credentials api-key <token>`), and run programs inside (`wardstream program run`)"
        )


def _active(tenancy: Transaction, project: ProjectName, name: MemberName) -> tuple[Project, Member]:
    found, member = tenancy.project(project), tenancy.member(project, name)
    if found is None or member is None or member.state is not MemberState.ACTIVE:
        raise NotFound(f"member {name} of project {project} is not there")
    return found, member


def _holder(member: Member) -> Holder:
    return Holder(member.project, member.name, member.generation)


def _event(principal: Principal, action: str, subject: str, **details: Detail) -> AuditEvent:
    return AuditEvent(principal.name, principal.project, action, subject, Outcome.ALLOWED, details)


def _event_of(member: Member, action: str, **details: Detail) -> AuditEvent:
    return AuditEvent(member.principal_name, member.project, action, member.principal_name, Outcome.ALLOWED, details)
