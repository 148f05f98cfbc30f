"""The use cases of tenancy: find, decide, act, audit, settle. Knows nothing of HTTP."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from tenancy import audit
from tenancy.audit import AuditEntry, AuditEvent, Detail, Outcome, Verification
from tenancy.authentication import Authentication
from tenancy.authority.secrets import pseudonym_key, redis_password
from tenancy.credentials import Holder
from tenancy.model import (
    MATERIALISER,
    Dataset,
    DatasetKind,
    DatasetPermission,
    InternalTopic,
    Member,
    MemberState,
    Principal,
    PrincipalKind,
    Project,
    Role,
)
from tenancy.policy import Action, decide, knows, require
from tenancy.quotas import DEFAULT, check_datasets, check_members, check_rows
from tenancy.reconcile import Reconciler, Settlement
from tenancy.redis_users import StoreAccess, user_name
from tenancy.repository import Existence, Repository, Revocation, Step, StoredDataset, Transaction
from tenancy.revocation import Revoker
from tenancy.topic_config import checked_config
from wardstream.clock import Clock
from wardstream.errors import (
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
    UnsafeChange,
    WardstreamError,
)
from wardstream.names import DatasetName, MemberName, ProjectName, internal_prefix, parse_dataset, split_group_dataset

logger = logging.getLogger(__name__)

_LONGEST_DESCRIPTION = 2000
_LONGEST_TOPIC = 249
# Entries read at a time while the chain is checked.
_PAGE = 5000


@dataclass(frozen=True)
class ProjectMade:
    """A new project, and the token with which its first owner enrols."""

    project: Project
    owner_token: str
    expires_at: datetime
    settled: bool


@dataclass(frozen=True)
class MemberAdded:
    """A new member, and the token with which it enrols; services enrol through the worker that runs them."""

    member: Member
    enrolment_token: str | None
    expires_at: datetime
    settled: bool


@dataclass(frozen=True)
class DatasetState:
    """A dataset as members see it; `topic_id` is None until the broker has made the topic."""

    dataset: Dataset
    topic_id: str | None


@dataclass(frozen=True)
class StorageCredentials:
    """What reaches a project's online rows."""

    user: str
    password: str
    pseudonym_key: bytes


class TenancyService:
    """Projects, members and datasets. Every change is decided and audited in one transaction, then carried outside."""

    def __init__(
        self,
        *,
        repository: Repository,
        authentication: Authentication,
        reconciler: Reconciler,
        revoker: Revoker,
        secret: bytes,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._authentication = authentication
        self._reconciler = reconciler
        self._revoker = revoker
        self._secret = secret
        self._clock = clock

    # Projects

    def create_project(
        self, principal: Principal, name: ProjectName, *, description: str, owner: MemberName, sandboxed: bool
    ) -> ProjectMade:
        """Make a project with its first data owner and its materialiser. Raises `Conflict` where the name is taken."""
        if len(description) > _LONGEST_DESCRIPTION:
            raise Invalid(f"a description has at most {_LONGEST_DESCRIPTION} characters, got {len(description)}")
        if owner == MATERIALISER:
            raise Conflict(f"{MATERIALISER} is the platform's own service in every project: choose another name")
        now = self._clock.now()
        with self._changing(principal, Action.PROJECT_CREATE, f"project {name}", None) as tenancy:
            require(decide(principal, Action.PROJECT_CREATE))
            if tenancy.project(name) is not None:
                raise Conflict(f"project {name} exists already")
            project = Project(name, description, sandboxed, now)
            tenancy.add_project(project)
            first = _new_member(name, owner, Role.DATA_OWNER, now)
            tenancy.put_member(first)
            tenancy.put_member(_new_member(name, MATERIALISER, Role.SERVICE, now))
            token, ends = self._authentication.new_enrolment_token(tenancy, first)
            tenancy.audit(_event(principal, Action.PROJECT_CREATE, name, name, owner=owner, sandboxed=sandboxed), now)
        return ProjectMade(project, token or "", ends, self._settle_if_possible(name).settled)

    def projects(self, principal: Principal) -> list[Project]:
        """Return the projects that `principal` may know of, by name."""
        require(decide(principal, Action.PROJECT_LIST))
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            found = tenancy.projects()
        return [project for project in found if decide(principal, Action.PROJECT_DESCRIBE, project=project.name).allowed]

    def project(self, principal: Principal, name: ProjectName) -> Project:
        """Return one project; raises `NotFound` also where `principal` may not know of it."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            return self._project(tenancy, principal, Action.PROJECT_DESCRIBE, name)

    def all_projects(self) -> list[Project]:
        """Return every project, for the platform's own processes."""
        with self._repository.transaction() as tenancy:
            return tenancy.projects()

    # Members

    def members(self, principal: Principal, project: ProjectName) -> list[Member]:
        """Return the project's members, removed ones included, by name."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.MEMBER_LIST, project)
            return tenancy.members(project)

    def add_member(
        self,
        principal: Principal,
        project: ProjectName,
        name: MemberName,
        role: Role,
        *,
        reads: Collection[DatasetName] = (),
        writes: Collection[DatasetName] = (),
    ) -> MemberAdded:
        """Add a member; one who was removed comes back under another principal.

        `reads` and `writes` are a device's or service's. Raises `Conflict` for a name that is taken.
        """
        _check_lists(role, reads, writes)
        now = self._clock.now()
        self._finish_revocation_of(project, name)
        with self._changing(principal, Action.MEMBER_ADD, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.MEMBER_ADD, project)
            before = tenancy.member(project, name)
            if before is not None and before.state is MemberState.ACTIVE:
                raise Conflict(f"member {name} of project {project} exists already, as {before.role}")
            if tenancy.unfinished_revocation(project, name) is not None:
                raise Unavailable(f"{name} is still being removed from project {project}: try again in a moment")
            for dataset in self._existing(tenancy, project, {*reads, *writes}):
                if role is Role.DEVICE and dataset.processors:
                    raise Conflict(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}: leave it out of writes")
            members = tenancy.members(project)
            check_members(members)
            member = replace(
                _new_member(project, name, role, now),
                generation=before.generation if before is not None else 1,
                reads=frozenset(reads),
                writes=frozenset(writes),
            )
            tenancy.put_member(member)
            self._check_rows(tenancy, project)
            token, ends = self._authentication.new_enrolment_token(tenancy, member)
            tenancy.audit(
                _event(principal, Action.MEMBER_ADD, project, member.principal_name, role=role, reads=sorted(reads), writes=sorted(writes)),
                now,
            )
        return MemberAdded(member, token, ends, self._settle_if_possible(project).settled)

    def new_enrolment_token(self, principal: Principal, project: ProjectName, name: MemberName) -> MemberAdded:
        """Return another one-time token for a member, for a lost one or a second credential."""
        with self._changing(principal, Action.MEMBER_ADD, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.MEMBER_ADD, project)
            member = self._member(tenancy, project, name)
            if member.role is Role.SERVICE:
                raise Invalid(f"{name} is a service: the worker that runs it gets its certificates")
            token, ends = self._authentication.new_enrolment_token(tenancy, member)
            tenancy.audit(_event(principal, Action.MEMBER_ADD, project, member.principal_name, token=True), self._clock.now())
        return MemberAdded(member, token, ends, settled=True)

    def remove_member(self, principal: Principal, project: ProjectName, name: MemberName) -> Settlement:
        """End a membership everywhere: at the brokers, also on open connections, in every process, on every credential.

        Repeating it after a failure goes on where it stopped. Raises `Conflict` for the last owner and the materialiser.
        """
        now = self._clock.now()
        with self._changing(principal, Action.MEMBER_REMOVE, f"{project}/{name}", project) as tenancy:
            member = tenancy.member(project, name)
            # Who deploys a processor takes it away again.
            action = Action.PROCESSOR_DEPLOY if member is not None and member.role is Role.SERVICE else Action.MEMBER_REMOVE
            self._project(tenancy, principal, action, project)
            going = tenancy.unfinished_revocation(project, name)
            if going is None:
                going = self._begin_removal(tenancy, principal, self._member(tenancy, project, name), now)
        settlement = self._revoker.carry_out(going)
        if member is not None and member.role is Role.SERVICE:
            # Its topics go, and what it wrote may be written by people again.
            after = self._settle_if_possible(project)
            return Settlement(settlement.settled and after.settled, settlement.seconds + after.seconds)
        return settlement

    def _begin_removal(self, tenancy: Transaction, principal: Principal, member: Member, now: datetime) -> Revocation:
        if member.name == MATERIALISER:
            raise Conflict(f"{MATERIALISER} fills the project's tables and stays as long as the project")
        owners = [one for one in tenancy.members(member.project) if one.role is Role.DATA_OWNER and one.state is MemberState.ACTIVE]
        if owners == [member]:
            raise Conflict(f"{member.name} is the last data owner of project {member.project}: add another one first")
        tenancy.put_member(replace(member, state=MemberState.REMOVED, reads=frozenset(), writes=frozenset()))
        tenancy.credentials.revoke_all(Holder(member.project, member.name, member.generation), now)
        tenancy.begin_internal_deletion(member.project, member.name)
        revocation = Revocation(
            principal=member.principal_name,
            project=member.project,
            member=member.name,
            generation=member.generation,
            step=Step.DECIDED,
            peers=self._revoker.peers,
            revoked_at=now,
        )
        tenancy.add_revocation(revocation)
        tenancy.audit(_event(principal, Action.MEMBER_REMOVE, member.project, member.principal_name, role=member.role), now)
        return revocation

    def recent_revocations(self, since: datetime) -> list[Revocation]:
        """Return what was revoked since then, for a process that has just started."""
        with self._repository.transaction() as tenancy:
            return tenancy.revocations(since=since)

    # Services

    def put_service(
        self,
        principal: Principal,
        project: ProjectName,
        name: MemberName,
        *,
        reads: Collection[DatasetName],
        writes: Collection[DatasetName],
        internals: Collection[InternalTopic],
    ) -> Member:
        """Make a service, or give it other datasets and internal topics; its rights hold on every broker afterwards.

        Whoever asks must be able to read what it reads and to write what it is to write. Internal topics are added and
        grown here; they go with the service. Raises `Unavailable` when brokers do not show it in time: repeat it then.
        """
        inside = principal.inside()
        now = self._clock.now()
        self._finish_revocation_of(project, name)
        with self._changing(principal, Action.PROCESSOR_DEPLOY, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.PROCESSOR_DEPLOY, project)
            if name == MATERIALISER:
                raise Conflict(f"{MATERIALISER} is the platform's own service: it reads every feature group by itself")
            before = tenancy.member(project, name)
            active = before is not None and before.state is MemberState.ACTIVE
            if before is not None and active and before.role is not Role.SERVICE:
                raise Conflict(f"{name} of project {project} is a {before.role}: choose another name for the service")
            if tenancy.unfinished_revocation(project, name) is not None:
                raise Unavailable(f"{name} is still being removed from project {project}: try again in a moment")
            for dataset in self._existing(tenancy, project, reads):
                require(decide(inside, Action.RECORD_READ, dataset), f"dataset {project}.{dataset.name}")
            for dataset in self._existing(tenancy, project, writes):
                if dataset.processors == {name}:
                    continue
                if dataset.processors:
                    raise Conflict(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}: one processor writes it")
                require(decide(inside, Action.RECORD_WRITE, dataset), f"dataset {project}.{dataset.name}")
            member = Member(
                project=project,
                name=name,
                role=Role.SERVICE,
                generation=before.generation if before is not None else 1,
                state=MemberState.ACTIVE,
                reads=frozenset(reads),
                writes=frozenset(writes),
                created_at=before.created_at if before is not None and active else now,
            )
            if not active:
                check_members(tenancy.members(project))
            tenancy.put_member(member)
            self._put_internals(tenancy, member, internals)
            self._check_rows(tenancy, project)
            tenancy.audit(
                _event(
                    principal,
                    Action.PROCESSOR_DEPLOY,
                    project,
                    member.principal_name,
                    reads=sorted(reads),
                    writes=sorted(writes),
                    internals=sorted(topic.name for topic in internals),
                ),
                now,
            )
        self._settle(project)
        return member

    def _put_internals(self, tenancy: Transaction, member: Member, internals: Collection[InternalTopic]) -> None:
        prefix = internal_prefix(member.project, member.name)
        if len(internals) > DEFAULT.internal_topics:
            raise LimitExceeded(f"a processor has at most {DEFAULT.internal_topics} internal topics, got {len(internals)}")
        found = {stored.topic.name: stored for stored in tenancy.internal_topics(member.project)}
        # Kafka takes '.' and '_' for the same in names of topics.
        taken = {name.replace(".", "_"): name for name in found}
        for topic in internals:
            rest = topic.name.removeprefix(prefix)
            if (
                rest == topic.name
                or not rest
                or len(topic.name) > _LONGEST_TOPIC
                or not all(c.isascii() and (c.isalnum() or c in "._-") for c in rest)
            ):
                raise Invalid(f"an internal topic of {member.name} begins with {prefix!r} and goes on in letters, digits, '.', '_' and '-'")
            _check_partitions(topic.partitions)
            if taken.get(topic.name.replace(".", "_"), topic.name) != topic.name:
                raise Conflict(f"internal topic {topic.name} differs from {taken[topic.name.replace('.', '_')]} in '.' and '_' only")
            stored = found.get(topic.name)
            if stored is not None and stored.state is Existence.DELETING:
                raise Unavailable(f"internal topic {topic.name} is still being deleted: try again in a moment")
            if stored is not None and stored.topic.partitions > topic.partitions:
                raise UnsafeChange(f"{topic.name} has {stored.topic.partitions} partitions; partitions cannot be removed")
            tenancy.put_internal_topic(member.project, member.name, replace(topic, config=checked_config(topic.config)))
            taken[topic.name.replace(".", "_")] = topic.name

    # Datasets

    def datasets(self, principal: Principal, project: ProjectName) -> list[DatasetState]:
        """Return the project's datasets that `principal` may know of, by name."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.DATASET_LIST, project)
            found = tenancy.datasets(project)
        return [_state(stored) for stored in found if stored.state is Existence.THERE and knows(principal, stored.dataset)]

    def create_dataset(
        self,
        principal: Principal,
        project: ProjectName,
        name: DatasetName,
        *,
        kind: DatasetKind,
        partitions: int,
        config: Mapping[str, str],
        permission: DatasetPermission,
    ) -> DatasetState:
        """Make a dataset with its topic, its dead-letter topic and everybody's rights on them.

        Repeating it with the same values returns what is there; other values are a `Conflict`. Raises `Unavailable`
        when brokers do not show everything in time: what is missing follows by itself, and repeating is safe.
        """
        _check_partitions(partitions)
        kept = checked_config(config)
        action = Action.FEATURE_GROUP_CREATE if kind is DatasetKind.FEATURE_GROUP else Action.DATASET_CREATE
        if kind is DatasetKind.TOPIC:
            parse_dataset(name)
        elif split_group_dataset(name) is None:
            raise Invalid(f"a feature group's dataset is named <group>_<version>, got {name!r}")
        now = self._clock.now()
        with self._changing(principal, action, f"{project}.{name}", project) as tenancy:
            self._project(tenancy, principal, action, project)
            wanted = Dataset(project, name, kind, permission, partitions, kept, principal.name)
            before = tenancy.dataset(project, name)
            if before is None:
                check_datasets([stored.dataset for stored in tenancy.datasets(project)])
                tenancy.add_dataset(wanted, now)
                if kind is DatasetKind.FEATURE_GROUP:
                    materialiser = self._member(tenancy, project, MATERIALISER)
                    tenancy.put_member(replace(materialiser, reads=materialiser.reads | {name}))
                self._check_rows(tenancy, project)
                tenancy.audit(_event(principal, action, project, name, kind=kind, permission=permission, partitions=partitions), now)
            elif before.state is Existence.DELETING:
                raise Conflict(f"dataset {project}.{name} is still being deleted: its name is free when nothing of it is left")
            elif not _same(before.dataset, wanted):
                raise Conflict(f"dataset {project}.{name} exists already with other settings: alter it instead")
        try:
            self._settle(project)
        except Invalid:
            # The broker refuses what our own checks let pass: nothing of it must stay. What was there before, stays.
            if before is None:
                with self._repository.transaction() as tenancy:
                    tenancy.begin_deletion(project, name)
                    tenancy.audit(_event(principal, Action.DATASET_DELETE, project, name, kind=kind, why="the broker refuses it"), now)
                self._settle_if_possible(project)
            raise
        return self._dataset_state(project, name)

    def alter_dataset(
        self,
        principal: Principal,
        project: ProjectName,
        name: DatasetName,
        *,
        partitions: int | None = None,
        config: Mapping[str, str] | None = None,
        permission: DatasetPermission | None = None,
    ) -> DatasetState:
        """Change what is given; `config` replaces the whole of it. Fewer partitions are an `UnsafeChange`."""
        now = self._clock.now()
        with self._changing(principal, Action.DATASET_ALTER, f"{project}.{name}", project) as tenancy:
            before = self._dataset(tenancy, principal, Action.DATASET_ALTER, project, name).dataset
            if partitions is not None:
                _check_partitions(partitions)
                if partitions < before.partitions:
                    raise UnsafeChange(f"{project}.{name} has {before.partitions} partitions; partitions cannot be removed")
            after = replace(
                before,
                partitions=before.partitions if partitions is None else partitions,
                config=before.config if config is None else checked_config(config),
                permission=before.permission if permission is None else permission,
            )
            tenancy.alter_dataset(after)
            self._check_rows(tenancy, project)
            tenancy.audit(
                _event(
                    principal,
                    Action.DATASET_ALTER,
                    project,
                    name,
                    partitions=after.partitions,
                    permission=after.permission,
                    config=[f"{key}={value}" for key, value in sorted(after.config.items())],
                ),
                now,
            )
        try:
            self._settle(project)
        except Invalid:
            # The broker refuses what our own checks let pass: left so, nothing of the project could be settled any more.
            with self._repository.transaction() as tenancy:
                if (stored := tenancy.dataset(project, name)) is not None:
                    tenancy.alter_dataset(_taken_back(stored.dataset, before, after))
                tenancy.audit(_event(principal, Action.DATASET_ALTER, project, name, why="taken back: the broker refuses it"), now)
            self._settle_if_possible(project)
            raise
        return self._dataset_state(project, name)

    def delete_dataset(self, principal: Principal, project: ProjectName, name: DatasetName) -> Settlement:
        """Delete a dataset: first everybody's rights, then both topics. The name is free when nothing of it is left.

        Raises `Conflict` while a processor still reads or writes it.
        """
        now = self._clock.now()
        with self._changing(principal, Action.DATASET_DELETE, f"{project}.{name}", project) as tenancy:
            dataset = self._dataset(tenancy, principal, Action.DATASET_DELETE, project, name).dataset
            users = sorted(
                member.name
                for member in tenancy.members(project)
                if member.role is Role.SERVICE
                and member.state is MemberState.ACTIVE
                and member.name != MATERIALISER
                and name in member.reads | member.writes
            )
            if users:
                raise Conflict(f"dataset {project}.{name} is used by {', '.join(users)}: remove these processors first")
            tenancy.begin_deletion(project, name)
            tenancy.audit(_event(principal, Action.DATASET_DELETE, project, name, kind=dataset.kind), now)
        return self._settle_if_possible(project)

    # Audit

    def audit_entries(self, principal: Principal, project: ProjectName | None, *, limit: int, after: int | None) -> list[AuditEntry]:
        """Return entries, oldest first: of a project to its owners, of everything to an administrator.

        The first `limit` after number `after`; without it the newest.
        """
        asked = project if project is not None or principal.kind is PrincipalKind.ADMINISTRATOR else principal.project
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            if asked is None:
                require(decide(principal, Action.AUDIT_READ))
            else:
                self._project(tenancy, principal, Action.AUDIT_READ, asked)
            if after is None:
                return tenancy.newest_audit_entries(project=asked, limit=limit)
            return list(tenancy.audit_entries(project=asked, after=after, limit=limit))

    def verify_audit(self, principal: Principal) -> Verification:
        """Check the whole chain; says where it is broken, never what it holds."""
        require(decide(principal, Action.AUDIT_READ, project=principal.project))
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            head, last = tenancy.audit_head(), tenancy.last_audit_sequence()
        # Entries behind the head were added, or the head was set back: read them too, so that the check falls over them.
        return audit.verify(self._entries(max(head.sequence, last)), head)

    def _entries(self, last: int) -> Iterator[AuditEntry]:
        """Yield all entries in short transactions, so that nobody who changes something waits for a long check."""
        after = 0
        while after < last:
            with self._repository.transaction() as tenancy:
                page = list(tenancy.audit_entries(after=after, limit=min(_PAGE, last - after)))
            if not page:
                return
            yield from page
            after = page[-1].sequence

    # For the platform's own processes

    def storage_credentials(self, project: ProjectName, access: StoreAccess) -> StorageCredentials:
        """Return what reaches the project's online rows; passwords are derived, so asking twice gives the same."""
        with self._repository.transaction() as tenancy:
            if tenancy.project(project) is None:
                raise NotFound(f"project {project} is not there")
        user = user_name(project, access)
        return StorageCredentials(user, redis_password(self._secret, user), pseudonym_key(self._secret, project))

    # Parts of several use cases

    @contextmanager
    def _changing(self, principal: Principal, action: Action, subject: str, project: ProjectName | None) -> Iterator[Transaction]:
        """Yield a transaction for a change of rights; a refusal is undone, and kept as an entry of its own."""
        try:
            with self._repository.transaction() as tenancy:
                self._current(tenancy, principal)
                yield tenancy
        except (Denied, NotFound) as refusal:
            own = principal.project if project is not None and principal.kind is PrincipalKind.MEMBER else project
            event = AuditEvent(principal.name, own, action, subject[:200], Outcome.REFUSED, {"reason": refusal.message[:500]})
            with self._repository.transaction() as tenancy:
                tenancy.audit(event, self._clock.now())
            raise

    def _current(self, tenancy: Transaction, principal: Principal) -> None:
        """Refuse a grant whose bearer was removed a moment ago; asked in the transaction of what it wants to do."""
        if principal.project is None or principal.member is None:
            return
        member = tenancy.member(principal.project, principal.member)
        if member is None or member.state is not MemberState.ACTIVE or member.generation != principal.generation:
            raise Unauthenticated(f"{principal.name} is no longer a member of {principal.project}")

    def _project(self, tenancy: Transaction, principal: Principal, action: Action, name: ProjectName) -> Project:
        require(decide(principal, action, project=name), f"project {name}")
        project = tenancy.project(name)
        if project is None:
            raise NotFound(f"project {name} is not there")
        return project

    def _member(self, tenancy: Transaction, project: ProjectName, name: MemberName) -> Member:
        member = tenancy.member(project, name)
        if member is None or member.state is not MemberState.ACTIVE:
            raise NotFound(f"member {name} of project {project} is not there")
        return member

    def _dataset(
        self, tenancy: Transaction, principal: Principal, action: Action, project: ProjectName, name: DatasetName
    ) -> StoredDataset:
        thing = f"dataset {project}.{name}"
        # Whoever may not know the project gets the answer for a dataset, as for one that is not there.
        if not decide(principal, Action.DATASET_LIST, project=project).visible:
            raise NotFound(f"{thing} is not there")
        stored = tenancy.dataset(project, name)
        if stored is None or stored.state is Existence.DELETING:
            raise NotFound(f"{thing} is not there")
        require(decide(principal, action, stored.dataset), thing)
        return stored

    def _existing(self, tenancy: Transaction, project: ProjectName, names: Collection[DatasetName]) -> list[Dataset]:
        found = {stored.dataset.name: stored.dataset for stored in tenancy.datasets(project) if stored.state is Existence.THERE}
        for name in sorted(names):
            if name not in found:
                raise NotFound(f"dataset {project}.{name} is not there: create it first")
        return [found[name] for name in sorted(set(names))]

    def _check_rows(self, tenancy: Transaction, project: ProjectName) -> None:
        check_rows(tenancy.members(project), [stored.dataset for stored in tenancy.datasets(project)])

    def _dataset_state(self, project: ProjectName, name: DatasetName) -> DatasetState:
        with self._repository.transaction() as tenancy:
            stored = tenancy.dataset(project, name)
        if stored is None or stored.state is Existence.DELETING:
            raise NotFound(f"dataset {project}.{name} is not there")
        return _state(stored)

    def _settle(self, project: ProjectName) -> None:
        if not self._reconciler.settle(project).settled:
            raise Unavailable("it is decided, but not every broker shows it yet; it follows by itself, and repeating is safe")

    def _settle_if_possible(self, project: ProjectName) -> Settlement:
        try:
            return self._reconciler.settle(project)
        except WardstreamError as error:
            logger.warning("a change waits for broker or online store", extra={"project": project, "reason": error.message})
            return Settlement(settled=False, seconds=0.0)

    def _finish_revocation_of(self, project: ProjectName, name: MemberName) -> None:
        """A name is given out again only when nothing of its last bearer is left."""
        with self._repository.transaction() as tenancy:
            going = tenancy.unfinished_revocation(project, name)
        if going is not None:
            self._revoker.carry_out(going)


def _new_member(project: ProjectName, name: MemberName, role: Role, at: datetime) -> Member:
    return Member(project, name, role, 1, MemberState.ACTIVE, frozenset(), frozenset(), at)


def _check_lists(role: Role, reads: Collection[DatasetName], writes: Collection[DatasetName]) -> None:
    if role.person and (reads or writes):
        raise Invalid(f"a {role} reads and writes by role and by each dataset's permission: leave out reads and writes")
    if role is Role.DEVICE and reads:
        raise Invalid("a device only writes: leave out reads")


def _check_partitions(partitions: int) -> None:
    if not 1 <= partitions <= DEFAULT.partitions:
        raise Invalid(f"partitions must be from 1 to {DEFAULT.partitions}, got {partitions}")


def _same(one: Dataset, other: Dataset) -> bool:
    return (one.kind, one.permission, one.partitions, one.config) == (other.kind, other.permission, other.partitions, other.config)


def _taken_back(found: Dataset, before: Dataset, after: Dataset) -> Dataset:
    """Return `found` without the change from `before` to `after`; what somebody else has set since then stays."""
    return replace(
        found,
        partitions=before.partitions if found.partitions == after.partitions else found.partitions,
        config=before.config if found.config == after.config else found.config,
        permission=before.permission if found.permission is after.permission else found.permission,
    )


def _state(stored: StoredDataset) -> DatasetState:
    return DatasetState(stored.dataset, stored.topic_id)


def _event(principal: Principal, action: str, project: ProjectName | None, subject: str, **details: Detail) -> AuditEvent:
    return AuditEvent(principal.name, project, action, subject, Outcome.ALLOWED, details)
