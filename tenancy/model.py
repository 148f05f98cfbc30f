"""What a tenancy is made of: projects, members, datasets, and who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from wardstream.names import DatasetName, MemberName, PrincipalName, ProjectName, TopicName, dead_letter_topic, principal_of, topic_of

# The service that fills a project's tables. Made with the project, so its name is not free for anybody else.
MATERIALISER = MemberName("materialiser")


class Role(StrEnum):
    """What a member is in a project."""

    DATA_OWNER = "data-owner"
    DATA_SCIENTIST = "data-scientist"
    OBSERVER = "observer"
    RESTRICTED = "restricted"
    """A person with named feature groups, or columns of them, and nothing else."""
    DEVICE = "device"
    SERVICE = "service"

    @property
    def person(self) -> bool:
        """Whether somebody of this role is a human being, who logs in and holds API keys."""
        return self.whole or self is Role.RESTRICTED

    @property
    def whole(self) -> bool:
        """Whether somebody of this role works with the whole project, rather than with named datasets."""
        return self in (Role.DATA_OWNER, Role.DATA_SCIENTIST, Role.OBSERVER)


class ProjectState(StrEnum):
    """A closed project has no members; its data stay until they are erased, and its name is not given out again."""

    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"


class MemberState(StrEnum):
    """A removed member is kept: the name's next bearer needs another generation."""

    ACTIVE = "active"
    REMOVED = "removed"


class Door(StrEnum):
    """Where a request came in: from people's and devices' networks, or from programs on the platform's workers."""

    OUTSIDE = "outside"
    INSIDE = "inside"


class DatasetKind(StrEnum):
    """What stands behind a dataset's topic."""

    TOPIC = "topic"
    FEATURE_GROUP = "feature-group"


class DatasetPermission(StrEnum):
    """Which people of a project may write a dataset: of the owning project, or, as a share's mode, of the receiving one.

    Devices and services have lists of their own.
    """

    READ_ONLY = "read-only"
    EDITABLE_BY_OWNERS = "editable-by-owners"
    EDITABLE = "editable"


class PrincipalKind(StrEnum):
    """Kinds of callers."""

    ADMINISTRATOR = "administrator"
    MEMBER = "member"
    PLATFORM = "platform"


@dataclass(frozen=True)
class Project:
    """A sandbox of members, datasets and programs."""

    name: ProjectName
    description: str
    sandboxed: bool
    created_at: datetime
    author: MemberName | None = None
    """The data owner who answers for it, and stays one until it is handed over."""
    state: ProjectState = ProjectState.ACTIVE


@dataclass(frozen=True)
class CustomRole:
    """A role of a project's own: a base role less some actions, named as in `policy.Action`."""

    project: ProjectName
    name: MemberName
    base: Role
    without: frozenset[str]


@dataclass(frozen=True)
class Columns:
    """Part of a dataset's table: these columns, with the key and the event time that they belong to."""

    dataset: DatasetName
    names: frozenset[str]


@dataclass(frozen=True)
class Member:
    """One membership. `reads` and `writes` are empty for people of the whole project, whose rights follow from role and dataset."""

    project: ProjectName
    name: MemberName
    role: Role
    generation: int
    state: MemberState
    reads: frozenset[DatasetName]
    writes: frozenset[DatasetName]
    created_at: datetime
    columns: frozenset[Columns] = frozenset()
    """Of a restricted member: datasets of which it reads some columns only."""
    custom_role: MemberName | None = None
    without: frozenset[str] = frozenset()
    """The actions that the custom role leaves out."""
    person: str | None = None
    """The account that logs in to this membership, where it has one."""
    expires_at: datetime | None = None
    """When a membership that was given for a time ends by itself."""

    @property
    def principal_name(self) -> PrincipalName:
        """The name that certificates, ACL rows and the audit carry."""
        return principal_of(self.project, self.name, self.generation)


@dataclass(frozen=True)
class Dataset:
    """A dataset that `project` owns, with its topic.

    `processors` are the services that write it: while there are any it is their result, and no person writes it.
    """

    project: ProjectName
    name: DatasetName
    kind: DatasetKind
    permission: DatasetPermission
    partitions: int
    config: dict[str, str] = field(hash=False)
    created_by: str
    processors: frozenset[MemberName] = frozenset()

    @property
    def topic(self) -> TopicName:
        """The topic with the dataset's records."""
        return topic_of(self.project, self.name)

    @property
    def dead_letter_topic(self) -> TopicName:
        """The topic with the records that could not be used."""
        return dead_letter_topic(self.topic)


@dataclass(frozen=True)
class InternalTopic:
    """A topic that belongs to one processor alone, such as a changelog."""

    name: str
    partitions: int
    config: dict[str, str] = field(hash=False)


class ShareState(StrEnum):
    """From offer to end. Only an accepted share opens anything."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"

    @property
    def over(self) -> bool:
        """Whether nothing can come of it any more."""
        return self not in (ShareState.OFFERED, ShareState.ACCEPTED)


@dataclass(frozen=True)
class Share:
    """A dataset that its project lets another one use, without a copy.

    With `columns` it opens the table alone, read-only, and never the topic.
    """

    id: str
    project: ProjectName
    dataset: DatasetName
    receiver: ProjectName
    mode: DatasetPermission
    columns: frozenset[str] | None
    purpose: str
    state: ShareState
    expires_at: datetime | None
    offered_by: str
    offered_at: datetime
    decided_by: str | None = None
    """Who accepted or rejected it, in the receiving project."""
    decided_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class SharedIn:
    """What a share in force opens to the people of the receiving project."""

    project: ProjectName
    dataset: DatasetName
    mode: DatasetPermission
    columns: frozenset[str] | None = None
    sandboxed: bool = True
    """Whether the owning project is: its rows stay inside for the receivers too."""
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Principal:
    """Who a request comes from, with all that a decision needs; made by control, carried by a signed grant."""

    kind: PrincipalKind
    project: ProjectName | None = None
    member: MemberName | None = None
    role: Role | None = None
    generation: int = 1
    door: Door = Door.OUTSIDE
    sandboxed: bool = True
    reads: frozenset[DatasetName] = frozenset()
    writes: frozenset[DatasetName] = frozenset()
    platform: str | None = None
    """The process' name, such as ws-query, where `kind` is platform."""
    execution: str | None = None
    """The execution that this principal's program runs in, if any."""
    columns: frozenset[Columns] = frozenset()
    without: frozenset[str] = frozenset()
    shared: frozenset[SharedIn] = frozenset()
    """What other projects share with this one."""
    person: str | None = None
    """The account that logged in, where somebody did."""
    serial: str | None = None
    """Of the certificate that was shown, where one was."""

    @property
    def name(self) -> PrincipalName:
        """`icu-west__anna`, `icu-west__anna__g2`, `administrator` or `ws-query`."""
        if self.project is not None and self.member is not None:
            return principal_of(self.project, self.member, self.generation)
        return PrincipalName(self.platform or self.kind.value)

    def inside(self) -> Principal:
        """Return the same principal as a program on a worker would be it."""
        return replace(self, door=Door.INSIDE)


def administrator(door: Door = Door.OUTSIDE) -> Principal:
    """Return the platform's administrator."""
    return Principal(PrincipalKind.ADMINISTRATOR, door=door)


def platform_principal(process: str) -> Principal:
    """Return one of the platform's own processes, such as ws-query."""
    return Principal(PrincipalKind.PLATFORM, door=Door.INSIDE, platform=process)


def principal_for(
    member: Member, project: Project, door: Door, *, shared: frozenset[SharedIn] = frozenset(), execution: str | None = None
) -> Principal:
    """Return the principal of a membership at `door`; `shared` is what other projects share with its project."""
    return Principal(
        PrincipalKind.MEMBER,
        project=member.project,
        member=member.name,
        role=member.role,
        generation=member.generation,
        door=door,
        sandboxed=project.sandboxed,
        reads=member.reads,
        writes=member.writes,
        execution=execution,
        columns=member.columns,
        without=member.without,
        shared=shared,
        person=member.person,
    )
