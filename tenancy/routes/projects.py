"""Projects, members, services and datasets."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated

from fastapi import Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from tenancy.model import Columns, DatasetKind, DatasetPermission, InternalTopic, Member, Project, Role
from tenancy.policy import Action
from tenancy.redis_users import StoreAccess
from tenancy.routes.context import Body, Caller, Service, caller, internal, public, require_peer
from tenancy.service import DatasetState as State
from tenancy.service import MemberAdded as Added
from wardstream.errors import Conflict, Invalid
from wardstream.names import (
    DatasetName,
    parse_any_dataset,
    parse_dataset,
    parse_group,
    parse_member,
    parse_person,
    parse_project,
    split_group_dataset,
)
from wardstream.server import peer_name

# Values


class ProjectState(BaseModel):
    """A project; its author is the data owner who answers for it, its state active, closing or closed."""

    name: str
    description: str
    sandboxed: bool
    created_at: datetime
    author: str | None
    state: str


class AlterProject(Body):
    """What is to change; what is left out stays."""

    description: str | None = None
    sandboxed: bool | None = None


class ProjectAltered(BaseModel):
    """A project as it is now; those in `renewed` lost their certificates with the change and need a new token each."""

    project: ProjectState
    renewed: list[str]
    settled: bool


class HandOver(Body):
    """The data owner who becomes the project's author."""

    to: str


class CloseProject(Body):
    """The project's name once more, since nothing opens a closed project again."""

    confirm: str


class ProjectClosed(BaseModel):
    """Whether nobody has anything of the project any more, and how long that took; what is left follows by itself."""

    settled: bool
    seconds: float


class Activity(BaseModel):
    """Something that changed in a project."""

    at: str
    principal: str
    action: str
    subject: str


class CustomRoleState(BaseModel):
    """A role of a project's own: `base` less the actions `without`."""

    name: str
    base: str
    without: list[str]


class PutCustomRole(Body):
    """A base role, and the actions to leave out of it."""

    base: Role
    without: list[Action] = Field(max_length=100)


class ColumnsOf(Body):
    """Some columns of a feature group's table; its key and event time come along."""

    dataset: str
    names: list[str] = Field(min_length=1, max_length=1000)


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
    columns: list[ColumnsOf]
    created_at: datetime
    custom_role: str | None
    person: str | None
    expires_at: datetime | None


class AddMember(Body):
    """A member to be added; `reads`, `writes` and `columns` name datasets, for devices, services and restricted members."""

    name: str
    role: str
    reads: list[str] = Field(default_factory=list, max_length=1000)
    writes: list[str] = Field(default_factory=list, max_length=1000)
    columns: list[ColumnsOf] = Field(default_factory=list, max_length=1000)
    person: str | None = Field(default=None, max_length=64)
    expires_at: AwareDatetime | None = None


class AlterMember(Body):
    """What is to change; what is left out stays, as far as the role has it."""

    role: str | None = None
    reads: list[str] | None = Field(default=None, max_length=1000)
    writes: list[str] | None = Field(default=None, max_length=1000)
    columns: list[ColumnsOf] | None = Field(default=None, max_length=1000)


class MemberAdded(BaseModel):
    """A member and its one-time token; a service has none, its worker gets its certificates."""

    member: MemberState
    enrolment_token: str | None
    expires_at: datetime
    settled: bool


class LostKey(Body):
    """What happened to the key, for the audit."""

    reason: str


class MemberRemoved(BaseModel):
    """Whether every broker and process shows it, and how long that took."""

    settled: bool
    seconds: float


class RoleChanged(BaseModel):
    """Whether every broker and process shows it for all who have the role, and how long that took."""

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


@public.patch("/projects/{project}", name="alter-project", summary="Change a project's description or sandbox")
def alter_project(project: str, body: AlterProject, principal: Caller, service: Service) -> ProjectAltered:
    """Data owners only."""
    done = service.alter_project(principal, parse_project(project), description=body.description, sandboxed=body.sandboxed)
    return ProjectAltered(project=_project(done.project), renewed=list(done.renewed), settled=done.settled)


@public.post("/projects/{project}/hand-over", name="hand-over-project", summary="Make another data owner the author")
def hand_over_project(project: str, body: HandOver, principal: Caller, service: Service) -> ProjectState:
    """The author only, who can otherwise be neither removed nor demoted."""
    return _project(service.hand_over(principal, parse_project(project), parse_member(body.to)))


@public.post("/projects/{project}/close", name="close-project", summary="End every membership and share of a project")
def close_project(project: str, body: CloseProject, principal: Caller, service: Service) -> ProjectClosed:
    """The author only. Data stay until they are erased; the name is not given out again."""
    done = service.close_project(principal, parse_project(project), confirm=body.confirm)
    return ProjectClosed(settled=done.settled, seconds=done.seconds)


@public.get("/projects/{project}/activity", name="project-activity", summary="What changed in a project")
def project_activity(
    project: str, principal: Caller, service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[Activity]:
    """The newest changes, oldest first, for all who work in the project."""
    found = service.activity(principal, parse_project(project), limit=limit)
    return [Activity(at=entry.at, principal=entry.principal, action=entry.action, subject=entry.subject) for entry in found]


@public.get("/projects/{project}/roles", name="list-custom-roles", summary="Roles of a project's own")
def list_custom_roles(project: str, principal: Caller, service: Service) -> list[CustomRoleState]:
    """By name."""
    return [
        CustomRoleState(name=role.name, base=role.base, without=sorted(role.without))
        for role in service.custom_roles(principal, parse_project(project))
    ]


@public.put("/projects/{project}/roles/{role}", name="put-custom-role", summary="Make or change a role of a project's own")
def put_custom_role(project: str, role: str, body: PutCustomRole, principal: Caller, service: Service) -> RoleChanged:
    """Data owners only; it holds for all who have the role when `settled`."""
    done = service.put_custom_role(principal, parse_project(project), parse_member(role), body.base, body.without)
    return RoleChanged(settled=done.settled, seconds=done.seconds)


@public.delete("/projects/{project}/roles/{role}", name="remove-custom-role", summary="Remove a role that nobody has", status_code=204)
def remove_custom_role(project: str, role: str, principal: Caller, service: Service) -> None:
    """Data owners only."""
    service.remove_custom_role(principal, parse_project(project), parse_member(role))


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
        body.role,
        reads=_datasets(body.reads),
        writes=_datasets(body.writes),
        columns=_columns(body.columns),
        person=parse_person(body.person) if body.person is not None else None,
        expires_at=body.expires_at,
    )
    return _added(added)


@public.patch("/projects/{project}/members/{member}", name="alter-member", summary="Change a member's role, or what it reads and writes")
def alter_member(project: str, member: str, body: AlterMember, principal: Caller, service: Service) -> MemberAdded:
    """Data owners only. A token is there where the change ended the member's certificates."""
    altered = service.alter_member(
        principal,
        parse_project(project),
        parse_member(member),
        role=body.role,
        reads=_datasets(body.reads) if body.reads is not None else None,
        writes=_datasets(body.writes) if body.writes is not None else None,
        columns=_columns(body.columns) if body.columns is not None else None,
    )
    return _added(altered)


@public.post("/projects/{project}/members/{member}/lost-key", name="lost-key", summary="End a lost key and give the member another")
def lost_key(project: str, member: str, body: LostKey, principal: Caller, service: Service) -> MemberAdded:
    """Data owners only. The member stays, as another principal; all that the old one had open is cut."""
    return _added(service.lose_key(principal, parse_project(project), parse_member(member), reason=body.reason))


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
    require_peer(request, "ws-stream-worker")
    return [_project(project) for project in service.all_projects()]


@internal.get("/projects/{project}/storage-credentials", name="storage-credentials")
def storage_credentials(request: Request, project: str, service: Service) -> StorageCredentialsState:
    """The reading user for the query process, on the grant of whom it reads for; the writing one for the stream-worker."""
    if require_peer(request, "ws-query", "ws-stream-worker") == "ws-query":
        found = service.storage_credentials(parse_project(project), StoreAccess.READ, asking=caller(request))
    else:
        found = service.storage_credentials(parse_project(project), StoreAccess.WRITE, asking=None)
    return StorageCredentialsState(
        redis_user=found.user, redis_password=found.password, pseudonym_key=base64.b64encode(found.pseudonym_key).decode()
    )


# Encoding


def _datasets(names: list[str]) -> list[DatasetName]:
    return [parse_any_dataset(name) for name in names]


def _columns(parts: list[ColumnsOf]) -> list[Columns]:
    return [Columns(parse_any_dataset(part.dataset), frozenset(part.names)) for part in parts]


def _new_name(text: str, kind: DatasetKind) -> DatasetName:
    if kind is DatasetKind.TOPIC:
        return parse_dataset(text)
    name, _, version = text.rpartition("_")
    if not version.isascii() or not version.isdigit() or version.startswith("0"):
        raise Invalid(f"a feature group's dataset is named <group>_<version>, got {text[:60]!a}")
    parse_group(name)
    return parse_any_dataset(text)


def _project(project: Project) -> ProjectState:
    return ProjectState(
        name=project.name,
        description=project.description,
        sandboxed=project.sandboxed,
        created_at=project.created_at,
        author=project.author,
        state=project.state,
    )


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
        columns=[ColumnsOf(dataset=part.dataset, names=sorted(part.names)) for part in sorted(member.columns, key=lambda one: one.dataset)],
        created_at=member.created_at,
        custom_role=member.custom_role,
        person=member.person,
        expires_at=member.expires_at,
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
