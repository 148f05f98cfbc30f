"""Enrolment, grants, sessions, and certificates in somebody's name."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

from fastapi import Request
from pydantic import BaseModel

from tenancy.authentication import Enrolled, Proof
from tenancy.grants import EXECUTION_GRANT_LIFETIME
from tenancy.model import Door
from tenancy.possession import ShownToken
from tenancy.routes.context import Body, Caller, Credentials, Service, internal, platform, public, require_peer
from wardstream.clock import Clock
from wardstream.errors import Invalid
from wardstream.names import parse_member, parse_project, principal_of

# Values


class EnrolCertificate(Body):
    """A one-time token and a certificate signing request (PEM, P-256)."""

    token: str
    csr: str


class EnrolKey(Body):
    """A one-time token."""

    token: str


class Certificate(BaseModel):
    """A certificate with its issuer (PEM), and the root to trust."""

    certificate: str
    root: str
    principal: str
    expires_at: datetime


class ApiKey(BaseModel):
    """An API key, shown this once."""

    api_key: str
    principal: str


class ActingCertificate(Body):
    """A request for a certificate in the caller's own name."""

    csr: str
    lifetime_seconds: int = 600


class ExecutionGrantBody(Body):
    """An execution, and the service it runs as; None is the caller."""

    execution: str
    run_as: str | None = None


class ExecutionGrant(BaseModel):
    """A grant for one execution."""

    grant: str
    expires_at: datetime


class ShownTokenBody(Body):
    """A token of a door, and the certificate of the connection that it came by."""

    token: str
    certificate_sha256: str


class ProofBody(Body):
    """What a caller showed at a door; exactly one is set."""

    api_key: str | None = None
    door_token: ShownTokenBody | None = None
    session: str | None = None
    link: str | None = None


class GrantRequest(Body):
    """A proof, and the door at which it was shown."""

    proof: ProofBody
    door: Door = Door.OUTSIDE
    project: str | None = None
    open_session: bool = False


class ChallengeRequest(Body):
    """The certificate of a connection (PEM), and the door that it was made to."""

    certificate: str
    door: Door


class ChallengeAnswer(BaseModel):
    """What is to be signed."""

    nonce: str
    platform: str
    door: str
    expires_at: datetime


class DoorTokenRequest(ChallengeRequest):
    """A challenge that was signed with the certificate's key."""

    nonce: str
    signature: str


class DoorTokenAnswer(BaseModel):
    """A token for connections with this certificate."""

    token: str
    expires_at: datetime
    lifetime_seconds: float


class GrantAnswer(BaseModel):
    """A signed grant and whom it names."""

    grant: str
    principal: str
    kind: str
    project: str | None
    member: str | None
    role: str | None
    generation: int
    sandboxed: bool
    expires_at: datetime
    session: str | None


class SessionBody(Body):
    """A session to be ended."""

    session: str


class ServiceCertificate(Body):
    """A request for a service's certificate."""

    csr: str
    days: int = 7


class ExecutionCertificate(Body):
    """An execution's grant and its certificate signing request."""

    grant: str
    csr: str


class VoidState(BaseModel):
    """Grants of a project's people, or of one member, that are void when they were signed until `before` (seconds since 1970)."""

    project: str
    member: str | None
    before: float


class RevocationState(BaseModel):
    """A principal whose grants up to `generation` are void."""

    principal: str
    generation: int
    revoked_at: datetime


class Recent(BaseModel):
    """What a process forgot."""

    revocations: list[RevocationState]
    voids: list[VoidState]


# Enrolment: the token is the proof


@public.post("/enrolments/certificate", name="enrol-certificate", summary="Exchange a one-time token for a certificate")
def enrol_certificate(body: EnrolCertificate, credentials: Credentials) -> Certificate:
    """For devices and data owners. The private key stays where the request was made; only its key counts in the request."""
    return _certificate(credentials.enrol_certificate(body.token, body.csr))


@public.post("/enrolments/api-key", name="enrol-api-key", summary="Exchange a one-time token for an API key")
def enrol_api_key(body: EnrolKey, credentials: Credentials) -> ApiKey:
    """For people."""
    key, principal = credentials.enrol_api_key(body.token)
    return ApiKey(api_key=key, principal=principal)


# Certificates of members


class RenewCertificate(Body):
    """A certificate signing request, of the same key or of a new one."""

    csr: str


class CertificateState(BaseModel):
    """A certificate that was issued; the key is nobody's but its holder's."""

    serial: str
    member: str
    principal: str
    profile: str
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@public.post("/account/certificate", name="renew-certificate", summary="Renew the certificate that the caller shows")
def renew_certificate(body: RenewCertificate, principal: Caller, credentials: Credentials) -> Certificate:
    """At the door for client certificates; the one that is shown goes on until it ends."""
    return _certificate(credentials.renew_certificate(principal, body.csr))


@public.get("/projects/{project}/certificates", name="list-certificates", summary="Certificates of a project's members")
def list_certificates(project: str, principal: Caller, credentials: Credentials) -> list[CertificateState]:
    """Data owners only: those that have not expired, the newest first."""
    return [
        CertificateState(
            serial=format(each.serial, "x"),
            member=each.holder.member or "",
            principal=principal_of(parse_project(project), each.holder.member, each.holder.generation) if each.holder.member else "",
            profile=each.profile,
            issued_at=each.issued_at,
            expires_at=each.expires_at,
            revoked_at=each.revoked_at,
        )
        for each in credentials.certificates(principal, parse_project(project))
    ]


# On behalf of a caller, for processes only: each would carry a person at the outside door past the sandbox


@platform.post("/certificates/acting", name="acting-certificate")
def acting_certificate(request: Request, body: ActingCertificate, principal: Caller, credentials: Credentials) -> Certificate:
    """An inside certificate in the caller's name, for the gateway that writes for it."""
    require_peer(request, "ws-gateway")
    return _certificate(credentials.acting_certificate(principal, body.csr, body.lifetime_seconds))


@platform.post("/projects/{project}/execution-grants", name="execution-grant")
def execution_grant(
    request: Request, project: str, body: ExecutionGrantBody, principal: Caller, credentials: Credentials
) -> ExecutionGrant:
    """A grant for one execution of a program, for the process that queues it."""
    require_peer(request, "ws-stream-worker")
    run_as = parse_member(body.run_as) if body.run_as is not None else None
    grant, expires_at = credentials.execution_grant(principal, parse_project(project), body.execution, run_as)
    return ExecutionGrant(grant=grant, expires_at=expires_at)


# Between processes


@internal.post("/grants", name="grant")
def grant(request: Request, body: GrantRequest, credentials: Credentials) -> GrantAnswer:
    """Exchange a caller's own proof for a grant; the gateway cannot make one."""
    require_peer(request, "ws-gateway")
    if sum(value is not None for value in body.proof.model_dump().values()) != 1:
        raise Invalid("a proof is exactly one of api_key, door_token, session and link")
    shown = body.proof.door_token
    granted = credentials.exchange(
        Proof(
            api_key=body.proof.api_key,
            door_token=ShownToken(shown.token, shown.certificate_sha256) if shown is not None else None,
            session=body.proof.session,
            link=body.proof.link,
        ),
        door=body.door,
        project=parse_project(body.project) if body.project is not None else None,
        open_session=body.open_session,
    )
    principal = granted.principal
    return GrantAnswer(
        grant=granted.grant,
        principal=principal.name,
        kind=principal.kind,
        project=principal.project,
        member=principal.member,
        role=principal.role,
        generation=principal.generation,
        sandboxed=principal.sandboxed,
        expires_at=granted.expires_at,
        session=granted.session,
    )


@internal.post("/door-challenges", name="door-challenge")
def door_challenge(request: Request, body: ChallengeRequest, credentials: Credentials) -> ChallengeAnswer:
    """What the caller of a certificate door is to sign; it says nothing of whom the certificate names."""
    require_peer(request, "ws-gateway")
    made = credentials.challenge(body.certificate, body.door)
    return ChallengeAnswer(nonce=made.nonce, platform=made.platform, door=made.door, expires_at=made.expires_at)


@internal.post("/door-tokens", name="door-token")
def door_token(request: Request, body: DoorTokenRequest, credentials: Credentials) -> DoorTokenAnswer:
    """Exchange a signed challenge for a token; the gateway, which has no caller's key, cannot make one."""
    require_peer(request, "ws-gateway")
    made = credentials.door_token(body.certificate, body.door, body.nonce, body.signature)
    clock = cast(Clock, request.app.state.clock)
    return DoorTokenAnswer(token=made.token, expires_at=made.expires_at, lifetime_seconds=(made.expires_at - clock.now()).total_seconds())


@internal.post("/sessions/end", name="end-session", status_code=204)
def end_session(request: Request, body: SessionBody, credentials: Credentials) -> None:
    """End a session; repeating it does no harm."""
    require_peer(request, "ws-gateway")
    credentials.end_session(body.session)


@internal.post("/services/{project}/{member}/certificate", name="service-certificate")
def service_certificate(request: Request, project: str, member: str, body: ServiceCertificate, credentials: Credentials) -> Certificate:
    """An inside certificate for a service that the stream-worker runs."""
    require_peer(request, "ws-stream-worker")
    return _certificate(credentials.service_certificate(parse_project(project), parse_member(member), body.csr, body.days))


@internal.post("/executions/certificate", name="execution-certificate")
def execution_certificate(request: Request, body: ExecutionCertificate, credentials: Credentials) -> Certificate:
    """An inside certificate for one execution, against the grant that was made for it."""
    require_peer(request, "ws-program-worker")
    return _certificate(credentials.execution_certificate(body.grant, body.csr))


@internal.get("/revocations", name="recent-revocations")
def recent_revocations(request: Request, service: Service) -> Recent:
    """What ended within the life of the longest grant: a process that starts asks once, since it forgot."""
    # Those that keep grants which they did not ask for themselves.
    require_peer(request, "ws-query", "ws-stream-worker")
    clock = cast(Clock, request.app.state.clock)
    since = clock.now() - EXECUTION_GRANT_LIFETIME - timedelta(minutes=1)
    return Recent(
        revocations=[
            RevocationState(principal=found.principal, generation=found.generation, revoked_at=found.revoked_at)
            for found in service.recent_revocations(since)
        ],
        voids=[
            # One that nobody was told of yet is told to everybody in a moment; until then it counts from now.
            VoidState(project=found.project, member=found.member, before=(found.before or clock.now()).timestamp())
            for found in service.recent_voids(since)
        ],
    )


def _certificate(enrolled: Enrolled) -> Certificate:
    return Certificate(certificate=enrolled.certificate, root=enrolled.root, principal=enrolled.principal, expires_at=enrolled.expires_at)
