"""Projects, members, services and datasets."""

from __future__ import annotations

import base64
from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, Field

from tenancy.model import DatasetKind, DatasetPermission, InternalTopic, Member, Project, Role
from tenancy.redis_users import StoreAccess
from tenancy.routes.context import Body, Caller, Service, internal, public, require_peer
from tenancy.service import DatasetState as State
from tenancy.service import MemberAdded as Added
from wardstream.errors import Conflict, Invalid
from wardstream.names import DatasetName, parse_any_dataset, parse_dataset, parse_group, parse_member, parse_project, split_group_dataset
from wardstream.server import peer_name

# Values


class ProjectState(BaseModel):
    """A project."""

    name: str
    description: str
    sandboxed: bool
    created_at: datetime


class CreateProject(Body):
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


class AddMember(Body):
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


class CreateDataset(Body):
    """A dataset to be made; a feature group's is named <group>_<version>."""

    name: str
    kind: DatasetKind = DatasetKind.TOPIC
    partitions: int = 1
    config: dict[str, str] = Field(default_factory=dict)
    permission: DatasetPermission = DatasetPermission.EDITABLE_BY_OWNERS


class AlterDataset(Body):
    """What is to change; `config` replaces the whole of it."""

    partitions: int | None = None
    config: dict[str, str] | None = None
    permission: DatasetPermission | None = None


class DatasetDeleted(BaseModel):
    """Whether nothing of it is left at any broker, and how long that took."""

    settled: bool
    seconds: float


class InternalTopicBody(Body):
    """A topic of a processor's own, named ws.<project>.<processor>.<...>."""

    name: str
    partitions: int = 1
    config: dict[str, str] = Field(default_factory=dict)


class PutService(Body):
    """What a service reads and writes, and its own topics."""

    reads: list[str] = Field(default_factory=list, max_length=1000)
    writes: list[str] = Field(default_factory=list, max_length=1000)
    internals: list[InternalTopicBody] = Field(default_factory=list, max_length=100)


class StorageCredentialsState(BaseModel):
    """What reaches a project's online rows."""

    redis_user: str
    redis_password: str
    pseudonym_key: str


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


# Between processes


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
