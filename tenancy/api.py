"""Control over HTTP: `public` is what the gateway passes on, `platform` and `internal` are for the platform's processes.

Another process that takes grants sets `app.state.verifier` (a `GrantVerifier`) and depends on `caller`.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from tenancy.audit import AuditEntry
from tenancy.authentication import Authentication, Enrolled, Proof
from tenancy.grants import EXECUTION_GRANT_LIFETIME, GrantVerifier
from tenancy.model import DatasetKind, DatasetPermission, Door, InternalTopic, Member, Principal, Project, Role
from tenancy.redis_users import StoreAccess
from tenancy.service import DatasetState as State
from tenancy.service import MemberAdded as Added
from tenancy.service import TenancyService
from wardstream.clock import Clock
from wardstream.errors import Conflict, Denied, Invalid, Unauthenticated
from wardstream.names import DatasetName, parse_any_dataset, parse_dataset, parse_group, parse_member, parse_project, split_group_dataset
from wardstream.server import peer_name

public = APIRouter(prefix="/v1")
# Under the same prefix, and not in what the gateway passes on: a person at the outside door must not reach these.
platform = APIRouter(prefix="/v1", include_in_schema=False)
internal = APIRouter(prefix="/internal/v1", include_in_schema=False)

_PEERS = frozenset({"ws-gateway", "ws-query", "ws-stream-worker", "ws-program-worker"})


# Dependencies


def caller(request: Request) -> Principal:
    """Return whom the request's grant names; raises `Unauthenticated` without a good one."""
    return cast(GrantVerifier, request.app.state.verifier).verify(bearer(request))


def bearer(request: Request) -> str:
    """Return the request's grant as it came; raises `Unauthenticated` where there is none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("a grant is missing: Authorization: Bearer <grant>")
    return token


def require_peer(request: Request, *names: str) -> str:
    """Return the calling process' name; raises `Denied` where it is none of `names`."""
    peer = peer_name(request)
    if peer not in names:
        raise Denied(f"{peer} may not ask for this")
    return peer


def _service(request: Request) -> TenancyService:
    return cast(TenancyService, request.app.state.service)


def _authentication(request: Request) -> Authentication:
    return cast(Authentication, request.app.state.authentication)


Caller = Annotated[Principal, Depends(caller)]
Service = Annotated[TenancyService, Depends(_service)]
Credentials = Annotated[Authentication, Depends(_authentication)]


# Values


class _Body(BaseModel):
    """What is sent: unknown fields are refused, so that a misspelt one is not silently left out."""

    model_config = ConfigDict(extra="forbid")


class ProjectState(BaseModel):
    """A project."""

    name: str
    description: str
    sandboxed: bool
    created_at: datetime


class CreateProject(_Body):
    """A project to be made, with the name of its first data owner."""

    name: str
    owner: str
    description: str = ""
    sandboxed: bool = True


class ProjectCreated(BaseModel):
    """A new project; `owner_token` enrols its first data owner, once."""

    project: ProjectState
    owner_token: str
    expires_at: datetime
    settled: bool


class MemberState(BaseModel):
    """A member; a removed one is kept with its state."""

    project: str
    name: str
    role: str
    principal: str
    generation: int
    state: str
    reads: list[str]
    writes: list[str]
    created_at: datetime


class AddMember(_Body):
    """A member to be added; `reads` and `writes` name datasets, for devices and services only."""

    name: str
    role: str
    reads: list[str] = Field(default_factory=list, max_length=1000)
    writes: list[str] = Field(default_factory=list, max_length=1000)


class MemberAdded(BaseModel):
    """A member and its one-time token; a service has none, its worker gets its certificates."""

    member: MemberState
    enrolment_token: str | None
    expires_at: datetime
    settled: bool


class MemberRemoved(BaseModel):
    """Whether every broker and process shows it, and how long that took."""

    settled: bool
    seconds: float


class DatasetState(BaseModel):
    """A dataset; `topic_id` is empty until the broker has made its topic."""

    name: str
    kind: str
    permission: str
    topic: str
    dead_letter_topic: str
    partitions: int
    config: dict[str, str]
    topic_id: str | None
    created_by: str
    processors: list[str]


class CreateDataset(_Body):
    """A dataset to be made; a feature group's is named <group>_<version>."""

    name: str
    kind: DatasetKind = DatasetKind.TOPIC
    partitions: int = 1
    config: dict[str, str] = Field(default_factory=dict)
    permission: DatasetPermission = DatasetPermission.EDITABLE_BY_OWNERS


class AlterDataset(_Body):
    """What is to change; `config` replaces the whole of it."""

    partitions: int | None = None
    config: dict[str, str] | None = None
    permission: DatasetPermission | None = None


class DatasetDeleted(BaseModel):
    """Whether nothing of it is left at any broker, and how long that took."""

    settled: bool
    seconds: float


class InternalTopicBody(_Body):
    """A topic of a processor's own, named ws.<project>.<processor>.<...>."""

    name: str
    partitions: int = 1
    config: dict[str, str] = Field(default_factory=dict)


class PutService(_Body):
    """What a service reads and writes, and its own topics."""

    reads: list[str] = Field(default_factory=list, max_length=1000)
    writes: list[str] = Field(default_factory=list, max_length=1000)
    internals: list[InternalTopicBody] = Field(default_factory=list, max_length=100)


class EnrolCertificate(_Body):
    """A one-time token and a certificate signing request (PEM, P-256)."""

    token: str
    csr: str


class EnrolKey(_Body):
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


class AuditEntryState(BaseModel):
    """One entry of the audit of rights."""

    sequence: int
    at: str
    principal: str
    project: str | None
    action: str
    subject: str
    outcome: str
    details: str
    previous_hash: str
    hash: str


class AuditVerification(BaseModel):
    """Whether the chain is as it was written; `broken_at` is the first entry that is not."""

    entries: int
    intact: bool
    broken_at: int | None


class ActingCertificate(_Body):
    """A request for a certificate in the caller's own name."""

    csr: str
    lifetime_seconds: int = 600


class ExecutionGrantBody(_Body):
    """An execution, and the service it runs as; None is the caller."""

    execution: str
    run_as: str | None = None


class ExecutionGrant(BaseModel):
    """A grant for one execution."""

    grant: str
    expires_at: datetime


class ProofBody(_Body):
    """What a caller showed at a door; exactly one is set."""

    api_key: str | None = None
    certificate: str | None = None
    session: str | None = None
    link: str | None = None


class GrantRequest(_Body):
    """A proof, and the door at which it was shown."""

    proof: ProofBody
    door: Door = Door.OUTSIDE
    project: str | None = None
    open_session: bool = False


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


class SessionBody(_Body):
    """A session to be ended."""

    session: str


class ServiceCertificate(_Body):
    """A request for a service's certificate."""

    csr: str
    days: int = 7


class ExecutionCertificate(_Body):
    """An execution's grant and its certificate signing request."""

    grant: str
    csr: str


class StorageCredentialsState(BaseModel):
    """What reaches a project's online rows."""

    redis_user: str
    redis_password: str
    pseudonym_key: str


class RevocationState(BaseModel):
    """A principal whose grants up to `generation` are void."""

    principal: str
    generation: int
    revoked_at: datetime


# Projects and members


@public.get("/projects", name="list-projects", summary="Projects that the caller belongs to")
def list_projects(principal: Caller, service: Service) -> list[ProjectState]:
    """An administrator sees all."""
    return [_project(project) for project in service.projects(principal)]


@public.post("/projects", name="create-project", summary="Make a project with its first data owner", status_code=201)
def create_project(body: CreateProject, principal: Caller, service: Service) -> ProjectCreated:
    """Administrators only."""
    made = service.create_project(
        principal, parse_project(body.name), description=body.description, owner=parse_member(body.owner), sandboxed=body.sandboxed
    )
    return ProjectCreated(project=_project(made.project), owner_token=made.owner_token, expires_at=made.expires_at, settled=made.settled)


@public.get("/projects/{project}", name="describe-project", summary="One project")
def describe_project(project: str, principal: Caller, service: Service) -> ProjectState:
    """Not found also where the caller may not know of it."""
    return _project(service.project(principal, parse_project(project)))


@public.get("/projects/{project}/members", name="list-members", summary="Members of a project")
def list_members(project: str, principal: Caller, service: Service) -> list[MemberState]:
    """Removed members are among them, with their state."""
    return [_member(member) for member in service.members(principal, parse_project(project))]


@public.post("/projects/{project}/members", name="add-member", summary="Add a person, device or service", status_code=201)
def add_member(project: str, body: AddMember, principal: Caller, service: Service) -> MemberAdded:
    """Data owners only. The rights hold on every broker when `settled`."""
    added = service.add_member(
        principal,
        parse_project(project),
        parse_member(body.name),
        _role(body.role),
        reads=_datasets(body.reads),
        writes=_datasets(body.writes),
    )
    return _added(added)


@public.delete("/projects/{project}/members/{member}", name="remove-member", summary="End a membership everywhere")
def remove_member(project: str, member: str, principal: Caller, service: Service) -> MemberRemoved:
    """Open consumers and producers, keys, certificates, sessions and programs of the member included."""
    done = service.remove_member(principal, parse_project(project), parse_member(member))
    return MemberRemoved(settled=done.settled, seconds=done.seconds)


@public.post("/projects/{project}/members/{member}/enrolment-token", name="new-enrolment-token", summary="Another one-time token")
def new_enrolment_token(project: str, member: str, principal: Caller, service: Service) -> MemberAdded:
    """For a lost or expired one, or for a second credential of the same member."""
    return _added(service.new_enrolment_token(principal, parse_project(project), parse_member(member)))


@public.put("/projects/{project}/services/{member}", name="put-service", summary="Make a service or change what it reads and writes")
def put_service(project: str, member: str, body: PutService, principal: Caller, service: Service) -> MemberState:
    """Who may deploy processors may; its rights and internal topics are there when this returns."""
    made = service.put_service(
        principal,
        parse_project(project),
        parse_member(member),
        reads=_datasets(body.reads),
        writes=_datasets(body.writes),
        internals=[InternalTopic(topic.name, topic.partitions, topic.config) for topic in body.internals],
    )
    return _member(made)


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


# Datasets


@public.get("/projects/{project}/datasets", name="list-datasets", summary="Datasets of a project")
def list_datasets(project: str, principal: Caller, service: Service) -> list[DatasetState]:
    """A device or service sees those it reads or writes."""
    return [_dataset(state) for state in service.datasets(principal, parse_project(project))]


@public.post("/projects/{project}/datasets", name="create-dataset", summary="Make a dataset with its topics and rights", status_code=201)
def create_dataset(project: str, body: CreateDataset, principal: Caller, service: Service, request: Request) -> DatasetState:
    """Repeating it with the same values changes nothing."""
    if body.kind is DatasetKind.FEATURE_GROUP:
        _only_by_the_feature_store(request, body.name)
    made = service.create_dataset(
        principal,
        parse_project(project),
        _new_name(body.name, body.kind),
        kind=body.kind,
        partitions=body.partitions,
        config=body.config,
        permission=body.permission,
    )
    return _dataset(made)


@public.patch("/projects/{project}/datasets/{dataset}", name="alter-dataset", summary="Change a dataset's topic or permission")
def alter_dataset(project: str, dataset: str, body: AlterDataset, principal: Caller, service: Service) -> DatasetState:
    """What is left out stays as it is."""
    altered = service.alter_dataset(
        principal,
        parse_project(project),
        parse_any_dataset(dataset),
        partitions=body.partitions,
        config=body.config,
        permission=body.permission,
    )
    return _dataset(altered)


@public.delete("/projects/{project}/datasets/{dataset}", name="delete-dataset", summary="Delete a dataset with its topics")
def delete_dataset(project: str, dataset: str, principal: Caller, service: Service, request: Request) -> DatasetDeleted:
    """Its records are gone for good."""
    if split_group_dataset(parse_any_dataset(dataset)) is not None:
        _only_by_the_feature_store(request, dataset)
    done = service.delete_dataset(principal, parse_project(project), parse_any_dataset(dataset))
    return DatasetDeleted(settled=done.settled, seconds=done.seconds)


def _only_by_the_feature_store(request: Request, dataset: str) -> None:
    """A feature group is more than its topic: table, online rows and schema come and go with it."""
    if peer_name(request) != "ws-query":
        raise Conflict(f"{dataset} is a feature group's: make and delete the feature group, and its topic follows")


# Audit


@public.get("/audit", name="list-audit", summary="The audit of rights")
def list_audit(
    principal: Caller,
    service: Service,
    project: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int | None, Query(ge=0)] = None,
) -> list[AuditEntryState]:
    """The newest entries, or those after number `after`, oldest first: a project's to its owners, all to an administrator."""
    found = service.audit_entries(principal, parse_project(project) if project is not None else None, limit=limit, after=after)
    return [_entry(entry) for entry in found]


@public.get("/audit/verify", name="verify-audit", summary="Check the audit's chain of hashes")
def verify_audit(principal: Caller, service: Service) -> AuditVerification:
    """An entry edited, removed, moved or cut off is found."""
    found = service.verify_audit(principal)
    return AuditVerification(entries=found.entries, intact=found.intact, broken_at=found.broken_at)


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
        raise Invalid("a proof is exactly one of api_key, certificate, session and link")
    granted = credentials.exchange(
        Proof(**body.proof.model_dump()),
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


@internal.get("/projects", name="all-projects")
def all_projects(request: Request, service: Service) -> list[ProjectState]:
    """Every project."""
    require_peer(request, "ws-query", "ws-stream-worker")
    return [_project(project) for project in service.all_projects()]


@internal.get("/projects/{project}/storage-credentials", name="storage-credentials")
def storage_credentials(request: Request, project: str, service: Service) -> StorageCredentialsState:
    """The reading user for the query process, the writing one for the stream-worker."""
    peer = require_peer(request, "ws-query", "ws-stream-worker")
    found = service.storage_credentials(parse_project(project), StoreAccess.READ if peer == "ws-query" else StoreAccess.WRITE)
    return StorageCredentialsState(
        redis_user=found.user, redis_password=found.password, pseudonym_key=base64.b64encode(found.pseudonym_key).decode()
    )


@internal.get("/revocations", name="recent-revocations")
def recent_revocations(request: Request, service: Service) -> list[RevocationState]:
    """What was revoked within the life of the longest grant: a process that starts asks once, since it forgot."""
    require_peer(request, *_PEERS)
    clock = cast(Clock, request.app.state.clock)
    since = clock.now() - EXECUTION_GRANT_LIFETIME - timedelta(minutes=1)
    return [
        RevocationState(principal=found.principal, generation=found.generation, revoked_at=found.revoked_at)
        for found in service.recent_revocations(since)
    ]


# Encoding


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        raise Invalid(f"{text[:40]!a} is not a role: roles are {', '.join(Role)}") from error


def _datasets(names: list[str]) -> list[DatasetName]:
    return [parse_any_dataset(name) for name in names]


def _new_name(text: str, kind: DatasetKind) -> DatasetName:
    if kind is DatasetKind.TOPIC:
        return parse_dataset(text)
    name, _, version = text.rpartition("_")
    if not version.isascii() or not version.isdigit() or version.startswith("0"):
        raise Invalid(f"a feature group's dataset is named <group>_<version>, got {text[:60]!a}")
    parse_group(name)
    return parse_any_dataset(text)


def _project(project: Project) -> ProjectState:
    return ProjectState(name=project.name, description=project.description, sandboxed=project.sandboxed, created_at=project.created_at)


def _member(member: Member) -> MemberState:
    return MemberState(
        project=member.project,
        name=member.name,
        role=member.role,
        principal=member.principal_name,
        generation=member.generation,
        state=member.state,
        reads=sorted(member.reads),
        writes=sorted(member.writes),
        created_at=member.created_at,
    )


def _added(added: Added) -> MemberAdded:
    return MemberAdded(
        member=_member(added.member), enrolment_token=added.enrolment_token, expires_at=added.expires_at, settled=added.settled
    )


def _dataset(state: State) -> DatasetState:
    dataset = state.dataset
    return DatasetState(
        name=dataset.name,
        kind=dataset.kind,
        permission=dataset.permission,
        topic=dataset.topic,
        dead_letter_topic=dataset.dead_letter_topic,
        partitions=dataset.partitions,
        config=dataset.config,
        topic_id=state.topic_id,
        created_by=dataset.created_by,
        processors=sorted(dataset.processors),
    )


def _certificate(enrolled: Enrolled) -> Certificate:
    return Certificate(certificate=enrolled.certificate, root=enrolled.root, principal=enrolled.principal, expires_at=enrolled.expires_at)


def _entry(entry: AuditEntry) -> AuditEntryState:
    return AuditEntryState(**vars(entry))
