"""Reading and writing the tenancy database, in transactions of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError

from tenancy import tables
from tenancy.accounts import Accounts
from tenancy.audit import FIRST_HASH, AuditEntry, AuditEvent, Head, Outcome, link
from tenancy.credentials import Credentials
from tenancy.model import (
    Columns,
    CustomRole,
    Dataset,
    DatasetKind,
    DatasetPermission,
    InternalTopic,
    Member,
    MemberState,
    Project,
    ProjectState,
    Role,
)
from tenancy.project_quotas import ProjectQuotas
from tenancy.shares import Shares
from wardstream.errors import Unavailable
from wardstream.names import DatasetName, MemberName, PrincipalName, ProjectName, TopicName


class Existence(StrEnum):
    """Something that is being deleted is still known until nothing of it is left at the broker."""

    THERE = "there"
    DELETING = "deleting"


class Step(StrEnum):
    """How far a revocation has come, in order."""

    DECIDED = "decided"
    """The member is removed in the database, its keys and sessions with it."""
    THROTTLED = "throttled"
    """Fetches that were waiting in a broker have been emptied."""
    ROWS_GONE = "rows-gone"
    """No broker allows it anything."""
    GENERATION = "generation"
    """Whoever comes back has another principal."""
    DONE = "done"
    """Every process has dropped what it kept of it."""


@dataclass(frozen=True)
class Revocation:
    """One removal of a member: `peers` are the processes that have not acknowledged it."""

    principal: PrincipalName
    project: ProjectName
    member: MemberName
    generation: int
    step: Step
    peers: frozenset[str]
    revoked_at: datetime


@dataclass(frozen=True)
class StoredDataset:
    """A dataset with what only control needs of it."""

    dataset: Dataset
    state: Existence
    topic_id: str | None


@dataclass(frozen=True)
class StoredInternal:
    """A processor's own topic and whether it is to be there."""

    project: ProjectName
    member: MemberName
    topic: InternalTopic
    state: Existence


class Repository:
    """The tenancy database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield a transaction that is committed when the block ends well and undone when it raises.

        Raises `Unavailable` when the database does not answer in time.
        """
        try:
            with self._engine.begin() as connection:
                yield Transaction(connection)
        except OperationalError as error:
            raise Unavailable("the tenancy database does not answer", reason=str(error.orig)) from error


class Transaction:
    """Everything that can be asked of and done to the database; good for the one `with` block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.credentials = Credentials(connection)
        self.shares = Shares(connection)
        self.quotas = ProjectQuotas(connection)
        self.accounts = Accounts(connection)

    # Projects

    def projects(self) -> list[Project]:
        """Return all projects by name."""
        rows = self._connection.execute(select(tables.projects).order_by(tables.projects.c.name))
        return [_project(row) for row in rows]

    def project(self, name: ProjectName) -> Project | None:
        """Return the project, or None."""
        row = self._connection.execute(select(tables.projects).where(tables.projects.c.name == name)).one_or_none()
        return None if row is None else _project(row)

    def add_project(self, project: Project) -> None:
        """Keep a new project."""
        self._connection.execute(insert(tables.projects).values(**_project_values(project)))

    def put_project(self, project: Project) -> None:
        """Keep what `project` is now."""
        table = tables.projects
        self._connection.execute(update(table).where(table.c.name == project.name).values(**_project_values(project)))

    # Roles of projects' own

    def custom_roles(self, project: ProjectName | None = None) -> list[CustomRole]:
        """Return the custom roles of one project or of all, by name."""
        table = tables.custom_roles
        query = select(table).order_by(table.c.project, table.c.name)
        if project is not None:
            query = query.where(table.c.project == project)
        return [
            CustomRole(ProjectName(row.project), MemberName(row.name), Role(row.base), frozenset(row.without))
            for row in self._connection.execute(query)
        ]

    def put_custom_role(self, role: CustomRole) -> None:
        """Keep a custom role in place of whatever was kept under its name."""
        self.remove_custom_role(role.project, role.name)
        self._connection.execute(
            insert(tables.custom_roles).values(project=role.project, name=role.name, base=role.base.value, without=sorted(role.without))
        )

    def remove_custom_role(self, project: ProjectName, name: MemberName) -> None:
        """Forget a custom role."""
        table = tables.custom_roles
        self._connection.execute(delete(table).where(table.c.project == project, table.c.name == name))

    # Members

    def members(self, project: ProjectName | None = None) -> list[Member]:
        """Return members, removed ones included, of one project or of all."""
        query = select(tables.members).order_by(tables.members.c.project, tables.members.c.name)
        named = select(tables.member_datasets)
        if project is not None:
            query = query.where(tables.members.c.project == project)
            named = named.where(tables.member_datasets.c.project == project)
        lists = _lists(self._connection.execute(named))
        without = {(role.project, role.name): role.without for role in self.custom_roles(project)}
        return [_member(row, lists, without) for row in self._connection.execute(query)]

    def member(self, project: ProjectName, name: MemberName) -> Member | None:
        """Return the member, removed or not, or None where there never was one of this name."""
        table, named = tables.members, tables.member_datasets
        row = self._connection.execute(select(table).where(table.c.project == project, table.c.name == name)).one_or_none()
        if row is None:
            return None
        lists = _lists(self._connection.execute(select(named).where(named.c.project == project, named.c.member == name)))
        without = {(role.project, role.name): role.without for role in self.custom_roles(project)} if row.custom_role else {}
        return _member(row, lists, without)

    def members_of(self, person: str) -> list[Member]:
        """Return the active memberships of an account, by project."""
        table = tables.members
        query = select(table.c.project, table.c.name).where(table.c.person == person, table.c.state == MemberState.ACTIVE.value)
        found = [self.member(ProjectName(row.project), MemberName(row.name)) for row in self._connection.execute(query)]
        return sorted((member for member in found if member is not None), key=lambda one: one.project)

    def members_due(self, now: datetime) -> list[Member]:
        """Return the active members whose time is over."""
        table = tables.members
        query = select(table.c.project, table.c.name).where(table.c.state == MemberState.ACTIVE.value, table.c.expires_at <= now)
        found = [self.member(ProjectName(row.project), MemberName(row.name)) for row in self._connection.execute(query)]
        return [member for member in found if member is not None]

    def put_member(self, member: Member) -> None:
        """Keep `member` in place of whatever was kept under its name."""
        values = {
            "role": member.role.value,
            "generation": member.generation,
            "state": member.state.value,
            "created_at": member.created_at,
            "custom_role": member.custom_role,
            "person": member.person,
            "expires_at": member.expires_at,
        }
        table, named = tables.members, tables.member_datasets
        changed = self._connection.execute(
            update(table).where(table.c.project == member.project, table.c.name == member.name).values(**values)
        )
        if not changed.rowcount:
            self._connection.execute(insert(table).values(project=member.project, name=member.name, **values))
        self._connection.execute(delete(named).where(named.c.project == member.project, named.c.member == member.name))
        lists: list[tuple[DatasetName, str, list[str] | None]] = [(name, "read", None) for name in sorted(member.reads)]
        lists += [(name, "write", None) for name in sorted(member.writes)]
        lists += [(part.dataset, "read", sorted(part.names)) for part in member.columns]
        if lists:
            self._connection.execute(
                insert(named),
                [
                    {"project": member.project, "member": member.name, "dataset": name, "mode": mode, "columns": columns}
                    for name, mode, columns in lists
                ],
            )

    # Datasets

    def datasets(self, project: ProjectName | None = None) -> list[StoredDataset]:
        """Return datasets of one project or of all, those being deleted included."""
        query = select(tables.datasets).order_by(tables.datasets.c.project, tables.datasets.c.name)
        if project is not None:
            query = query.where(tables.datasets.c.project == project)
        processors = self._processors(project)
        return [_dataset(row, processors) for row in self._connection.execute(query)]

    def dataset(self, project: ProjectName, name: DatasetName) -> StoredDataset | None:
        """Return the dataset, also while it is being deleted, or None."""
        table = tables.datasets
        row = self._connection.execute(select(table).where(table.c.project == project, table.c.name == name)).one_or_none()
        return None if row is None else _dataset(row, self._processors(project, name))

    def add_dataset(self, dataset: Dataset, at: datetime) -> None:
        """Keep a new dataset."""
        self._connection.execute(
            insert(tables.datasets).values(
                project=dataset.project,
                name=dataset.name,
                kind=dataset.kind.value,
                permission=dataset.permission.value,
                partitions=dataset.partitions,
                config=dataset.config,
                created_by=dataset.created_by,
                created_at=at,
                state=Existence.THERE.value,
            )
        )

    def alter_dataset(self, dataset: Dataset) -> None:
        """Keep partitions, config and permission of `dataset`."""
        table = tables.datasets
        self._connection.execute(
            update(table)
            .where(table.c.project == dataset.project, table.c.name == dataset.name)
            .values(partitions=dataset.partitions, config=dataset.config, permission=dataset.permission.value)
        )

    def begin_deletion(self, project: ProjectName, name: DatasetName) -> None:
        """Take the dataset out of every list and mark it: nobody has rights on it any more."""
        named, table = tables.member_datasets, tables.datasets
        self._connection.execute(delete(named).where(named.c.project == project, named.c.dataset == name))
        self._connection.execute(
            update(table).where(table.c.project == project, table.c.name == name).values(state=Existence.DELETING.value)
        )

    def forget_dataset(self, project: ProjectName, name: DatasetName) -> None:
        """Give a deleted dataset's name free, once nothing of it is left."""
        table = tables.datasets
        self._connection.execute(
            delete(table).where(table.c.project == project, table.c.name == name, table.c.state == Existence.DELETING.value)
        )

    def note_topic_ids(self, ids: Iterable[tuple[ProjectName, DatasetName, str]]) -> None:
        """Keep the ids that the broker gave to topics."""
        table = tables.datasets
        for project, name, topic_id in ids:
            self._connection.execute(
                update(table)
                .where(table.c.project == project, table.c.name == name, table.c.topic_id.is_distinct_from(topic_id))
                .values(topic_id=topic_id)
            )

    def _processors(self, project: ProjectName | None, dataset: DatasetName | None = None) -> dict[tuple[str, str], set[MemberName]]:
        named, table = tables.member_datasets, tables.members
        query = (
            select(named.c.project, named.c.dataset, named.c.member)
            .join(table, (table.c.project == named.c.project) & (table.c.name == named.c.member))
            .where(named.c.mode == "write", table.c.role == Role.SERVICE.value, table.c.state == MemberState.ACTIVE.value)
        )
        if project is not None:
            query = query.where(named.c.project == project)
        if dataset is not None:
            query = query.where(named.c.dataset == dataset)
        found: dict[tuple[str, str], set[MemberName]] = {}
        for row in self._connection.execute(query):
            found.setdefault((row.project, row.dataset), set()).add(MemberName(row.member))
        return found

    # Processors' own topics

    def internal_topics(self, project: ProjectName | None = None) -> list[StoredInternal]:
        """Return the internal topics of one project's processors or of all."""
        table = tables.internal_topics
        query = select(table).order_by(table.c.topic)
        if project is not None:
            query = query.where(table.c.project == project)
        return [
            StoredInternal(
                ProjectName(row.project),
                MemberName(row.member),
                InternalTopic(row.topic, row.partitions, dict(row.config)),
                Existence(row.state),
            )
            for row in self._connection.execute(query)
        ]

    def put_internal_topic(self, project: ProjectName, member: MemberName, topic: InternalTopic) -> None:
        """Keep an internal topic, or its new partitions and config."""
        table = tables.internal_topics
        values = {"partitions": topic.partitions, "config": topic.config, "state": Existence.THERE.value}
        if not self._connection.execute(update(table).where(table.c.topic == topic.name).values(**values)).rowcount:
            self._connection.execute(insert(table).values(topic=topic.name, project=project, member=member, **values))

    def begin_internal_deletion(self, project: ProjectName, member: MemberName) -> None:
        """Mark all internal topics of a processor as to be deleted."""
        table = tables.internal_topics
        self._connection.execute(
            update(table).where(table.c.project == project, table.c.member == member).values(state=Existence.DELETING.value)
        )

    def forget_internal_topics(self, names: Iterable[str]) -> None:
        """Forget internal topics that are gone from the broker."""
        table = tables.internal_topics
        for name in names:
            self._connection.execute(delete(table).where(table.c.topic == name, table.c.state == Existence.DELETING.value))

    # Revocations

    def add_revocation(self, revocation: Revocation) -> None:
        """Keep that a member was removed and what is still to be done about it."""
        self._connection.execute(insert(tables.revocations).values(**_revocation_values(revocation)))

    def put_revocation(self, revocation: Revocation) -> None:
        """Keep how far a revocation has come."""
        table = tables.revocations
        self._connection.execute(update(table).where(table.c.principal == revocation.principal).values(**_revocation_values(revocation)))

    def revocation(self, principal: PrincipalName) -> Revocation:
        """Return the revocation of `principal`, which must have been added; nobody else changes it in this transaction."""
        table = tables.revocations
        # The lock makes those who add to one row take turns where the database has more than one writer.
        return _revocation(self._connection.execute(select(table).where(table.c.principal == principal).with_for_update()).one())

    def revocations(self, *, unfinished: bool = False, since: datetime | None = None) -> list[Revocation]:
        """Return revocations in the order they were decided."""
        table = tables.revocations
        query = select(table).order_by(table.c.revoked_at)
        if unfinished:
            query = query.where(table.c.step != Step.DONE.value)
        if since is not None:
            query = query.where(table.c.revoked_at >= since)
        return [_revocation(row) for row in self._connection.execute(query)]

    def unfinished_revocation(self, project: ProjectName, member: MemberName) -> Revocation | None:
        """Return the removal of this member that the broker does not wholly know of yet, if there is one."""
        return next(
            (r for r in self.revocations(unfinished=True) if (r.project, r.member) == (project, member) and before_generation(r)), None
        )

    # Audit

    def audit(self, event: AuditEvent, at: datetime) -> None:
        """Add an entry to the chain; it is there exactly if the transaction is."""
        # The lock on the one row makes writers take turns where the database has more than one.
        head = self.audit_head(lock=True)
        entry = link(event, at, head)
        self._connection.execute(insert(tables.audit_entries).values(**vars(entry)))
        values = {"sequence": entry.sequence, "hash": entry.hash}
        if head.sequence:
            self._connection.execute(update(tables.audit_head).values(**values))
        else:
            self._connection.execute(insert(tables.audit_head).values(id=1, **values))

    def audit_head(self, *, lock: bool = False) -> Head:
        """Return number and hash of the newest entry."""
        query = select(tables.audit_head)
        row = self._connection.execute(query.with_for_update() if lock else query).one_or_none()
        return Head(0, FIRST_HASH) if row is None else Head(row.sequence, row.hash)

    def audit_entries(self, *, project: ProjectName | None = None, after: int = 0, limit: int | None = None) -> Iterator[AuditEntry]:
        """Yield entries after number `after` in the order they were written, of one project or of all."""
        table = tables.audit_entries
        query = select(table).where(table.c.sequence > after).order_by(table.c.sequence)
        if project is not None:
            query = query.where(table.c.project == project)
        if limit is not None:
            query = query.limit(limit)
        for row in self._connection.execute(query):
            yield AuditEntry(**row._mapping)

    def newest_audit_entries(self, *, project: ProjectName | None, limit: int, outcome: Outcome | None = None) -> list[AuditEntry]:
        """Return the last `limit` entries in the order they were written, of one project or of all, of one outcome or of both."""
        table = tables.audit_entries
        query = select(table).order_by(table.c.sequence.desc()).limit(limit)
        if outcome is not None:
            query = query.where(table.c.outcome == outcome.value)
        if project is not None:
            query = query.where(table.c.project == project)
        return [AuditEntry(**row._mapping) for row in self._connection.execute(query)][::-1]

    def audit_hash(self, sequence: int) -> str | None:
        """Return the hash of one entry, or None where there is none of this number."""
        table = tables.audit_entries
        return self._connection.execute(select(table.c.hash).where(table.c.sequence == sequence)).scalar_one_or_none()

    def last_audit_sequence(self) -> int:
        """Return the largest number of an entry, 0 where there is none; the head says the same unless somebody meddled."""
        return self._connection.execute(select(func.max(tables.audit_entries.c.sequence))).scalar_one() or 0

    # Facts

    def fact(self, name: str) -> str | None:
        """Return a fact about the platform, or None."""
        table = tables.platform_facts
        return self._connection.execute(select(table.c.value).where(table.c.name == name)).scalar_one_or_none()

    def put_fact(self, name: str, value: str) -> None:
        """Keep a fact about the platform."""
        table = tables.platform_facts
        if not self._connection.execute(update(table).where(table.c.name == name).values(value=value)).rowcount:
            self._connection.execute(insert(table).values(name=name, value=value))


def before_generation(revocation: Revocation) -> bool:
    """Return whether the member's name may not be given out again yet: rows or the old generation are still there."""
    return revocation.step not in (Step.GENERATION, Step.DONE)


def _project(row: Row[tuple[object, ...]]) -> Project:
    author = MemberName(row.author) if row.author is not None else None
    return Project(ProjectName(row.name), row.description, row.sandboxed, row.created_at, author, ProjectState(row.state))


def _project_values(project: Project) -> dict[str, object]:
    return {**vars(project), "state": project.state.value}


@dataclass
class _Lists:
    reads: set[DatasetName] = field(default_factory=set)
    writes: set[DatasetName] = field(default_factory=set)
    columns: set[Columns] = field(default_factory=set)


def _lists(rows: Iterable[Row[tuple[object, ...]]]) -> dict[tuple[str, str], _Lists]:
    """Return what each member of `rows` reads and writes by name."""
    found: dict[tuple[str, str], _Lists] = {}
    for row in rows:
        lists = found.setdefault((row.project, row.member), _Lists())
        if row.columns is not None:
            lists.columns.add(Columns(DatasetName(row.dataset), frozenset(row.columns)))
        else:
            (lists.reads if row.mode == "read" else lists.writes).add(DatasetName(row.dataset))
    return found


def _member(
    row: Row[tuple[object, ...]],
    lists: Mapping[tuple[str, str], _Lists],
    without: Mapping[tuple[ProjectName, MemberName], frozenset[str]],
) -> Member:
    own = lists.get((row.project, row.name), _Lists())
    custom = MemberName(row.custom_role) if row.custom_role is not None else None
    return Member(
        project=ProjectName(row.project),
        name=MemberName(row.name),
        role=Role(row.role),
        generation=row.generation,
        state=MemberState(row.state),
        reads=frozenset(own.reads),
        writes=frozenset(own.writes),
        created_at=row.created_at,
        columns=frozenset(own.columns),
        custom_role=custom,
        without=without.get((ProjectName(row.project), custom), frozenset()) if custom is not None else frozenset(),
        person=row.person,
        expires_at=row.expires_at,
    )


def _dataset(row: Row[tuple[object, ...]], processors: dict[tuple[str, str], set[MemberName]]) -> StoredDataset:
    dataset = Dataset(
        project=ProjectName(row.project),
        name=DatasetName(row.name),
        kind=DatasetKind(row.kind),
        permission=DatasetPermission(row.permission),
        partitions=row.partitions,
        config=dict(row.config),
        created_by=row.created_by,
        processors=frozenset(processors.get((row.project, row.name), ())),
    )
    return StoredDataset(dataset, Existence(row.state), row.topic_id)


def _revocation(row: Row[tuple[object, ...]]) -> Revocation:
    return Revocation(
        principal=PrincipalName(row.principal),
        project=ProjectName(row.project),
        member=MemberName(row.member),
        generation=row.generation,
        step=Step(row.step),
        peers=frozenset(row.peers),
        revoked_at=row.revoked_at,
    )


def _revocation_values(revocation: Revocation) -> dict[str, object]:
    return {**vars(revocation), "step": revocation.step.value, "peers": sorted(revocation.peers)}


def topics_of(stored: StoredDataset) -> tuple[TopicName, TopicName]:
    """Return the two topics of a dataset: records and dead letters."""
    return stored.dataset.topic, stored.dataset.dead_letter_topic
