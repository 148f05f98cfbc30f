"""Making broker and online store what the tenancy database says: describe → plan → apply, as often as one likes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tenancy.acls import MARKER, AclBinding, acl_bindings_for, platform_bindings
from tenancy.audit import AuditEvent, Outcome
from tenancy.broker import Broker, TopicState
from tenancy.model import Dataset, MemberState, ProjectState
from tenancy.plan import (
    PLATFORM_TOPICS,
    AddPartitions,
    AlterConfig,
    CreateRows,
    CreateTopic,
    DeleteRows,
    PutUsers,
    RemoveUsers,
    TopicSpec,
    internal_topic_spec,
    plan_rows,
    plan_topics,
    plan_users,
    row_of,
    topics_for,
)
from tenancy.redis_users import OnlineStoreUsers, users_of
from tenancy.repository import Existence, Repository, Step, StoredDataset, StoredInternal, topics_of
from tenancy.wire import AclRow
from wardstream.clock import Clock
from wardstream.errors import Invalid, Unavailable, WardstreamError
from wardstream.names import ProjectName

logger = logging.getLogger(__name__)

# The cluster whose list of rows has once held the marker.
_MARKED = "cluster-with-marker"
_LOOK_AGAIN_SECONDS = 0.02


@dataclass(frozen=True)
class Settlement:
    """Whether every broker shows what was decided, and how long that took."""

    settled: bool
    seconds: float


@dataclass(frozen=True)
class _Rights:
    """Rows as they should be, and whose rows a revocation is still taking away."""

    rows: frozenset[AclRow]
    principals: frozenset[str]
    leave: frozenset[str]


@dataclass(frozen=True)
class _Going:
    """What the database names as to be deleted."""

    datasets: tuple[StoredDataset, ...]
    internals: tuple[str, ...]


class Reconciler:
    """Carries the database's decisions to the outside. Thread-safe; idempotent; resumes what a crash left.

    `rights` is held while rows are planned and changed: nobody may give rows back that a revocation takes away.
    """

    def __init__(
        self,
        *,
        repository: Repository,
        broker: Broker,
        users: OnlineStoreUsers,
        secret: bytes,
        functions: Path,
        clock: Clock,
        settle_seconds: float,
        rights: threading.Lock,
    ) -> None:
        self._repository = repository
        self._broker = broker
        self._users = users
        self._secret = secret
        self._functions = functions
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._rights = rights
        # Held over every change of topics: a run that read the database earlier must not make anew what another deletes.
        self._topic_changes = threading.Lock()

    def settle(self, project: ProjectName) -> Settlement:
        """Carry everything about `project` out, and return when every broker shows it or `settle_seconds` are over.

        Raises `Unavailable` when broker or online store do not answer; the next run finishes what was begun. Rights are settled
        also where a topic cannot be made or changed; then that is raised.
        """
        start = time.monotonic()
        deadline = start + self._settle_seconds
        self._broker.addresses()  # soon known when nobody answers; what follows would wait longer
        refused: Invalid | None = None
        try:
            self._topics(project, platform=False)
        except Invalid as error:
            refused = error
        going = self._going(project)
        settled = self._rows(project, deadline)
        if settled:
            self._deletions(going)
        self._put_users(project)
        if refused is not None:
            raise refused
        return Settlement(settled, time.monotonic() - start)

    def everything(self) -> Settlement:
        """Carry everything out, platform and all projects, and take away what should not be there.

        Every part is tried even if another fails; then the first failure is raised.
        """
        start = time.monotonic()
        failures: list[WardstreamError] = []
        settled = False

        def attempt(part: Callable[[], object]) -> bool:
            try:
                part()
            except WardstreamError as error:
                failures.append(error)
                return False
            return True

        attempt(lambda: self._topics(None, platform=True))
        rows_known = attempt(self._mark)
        going = self._going(None)
        if rows_known:
            try:
                settled = self._rows(None, start + self._settle_seconds)
            except WardstreamError as error:
                failures.append(error)
        if settled:
            attempt(lambda: self._deletions(going))
        attempt(self._put_all_users)
        attempt(lambda: self._users.load_functions(self._functions))
        if failures:
            raise failures[0]
        return Settlement(settled, time.monotonic() - start)

    # Topics

    def _topics(self, project: ProjectName | None, *, platform: bool) -> None:
        with self._topic_changes:
            datasets, internals = self._stored(project)
            wanted: list[TopicSpec] = list(PLATFORM_TOPICS) if platform else []
            for stored in datasets:
                if stored.state is Existence.THERE:
                    wanted.extend(topics_for(stored.dataset))
            wanted.extend(internal_topic_spec(stored.topic) for stored in internals if stored.state is Existence.THERE)
            found = self._make_topics(wanted)
        self._note_ids(datasets, {name: state.topic_id for name, state in found.items()})

    def _make_topics(self, wanted: Collection[TopicSpec]) -> dict[str, TopicState]:
        names = [topic.name for topic in wanted]
        found = self._broker.topics(names)
        changes = plan_topics(wanted, found)
        if not changes:
            return found
        missing = [change.topic for change in changes if isinstance(change, CreateTopic)]
        parts: list[Callable[[], None]] = [
            lambda: self._broker.create_topics((each.name, each.partitions, each.config) for each in missing)
        ]
        parts += [partial(self._alter, change) for change in changes if not isinstance(change, CreateTopic)]
        refused: Invalid | None = None
        for part in parts:
            try:
                part()
            except Invalid as error:
                # One change that the broker refuses keeps no other from being made.
                refused = error
        if refused is not None:
            raise refused
        # A broker answers before its own listing shows what it made; look until it does.
        deadline = time.monotonic() + self._settle_seconds
        while plan_topics(wanted, found := self._broker.topics(names)):
            if time.monotonic() > deadline:
                raise Unavailable("the broker has not shown all topics yet; what is missing follows by itself")
            time.sleep(_LOOK_AGAIN_SECONDS)
        logger.info("topics changed", extra={"changes": len(changes)})
        return found

    def _alter(self, change: AddPartitions | AlterConfig) -> None:
        if isinstance(change, AddPartitions):
            self._broker.add_partitions(change.name, change.total)
        else:
            self._broker.alter_config(change.name, change.set_to, change.remove)

    def _going(self, project: ProjectName | None) -> _Going:
        """Return what is to be deleted; asked before rows are planned, so that their rows are gone when they go."""
        datasets, internals = self._stored(project)
        return _Going(
            tuple(stored for stored in datasets if stored.state is Existence.DELETING),
            tuple(stored.topic.name for stored in internals if stored.state is Existence.DELETING),
        )

    def _deletions(self, going: _Going) -> None:
        """Delete topics of which no row is left. Only what the database names is deleted, never what it does not know."""
        names = {str(name) for stored in going.datasets for name in topics_of(stored)} | set(going.internals)
        if not names:
            return
        with self._topic_changes:
            self._broker.delete_topics(names)
            deadline = time.monotonic() + self._settle_seconds
            while names & self._broker.topic_names():
                if time.monotonic() > deadline:
                    raise Unavailable("the broker has not deleted all topics yet; what is left follows by itself")
                time.sleep(_LOOK_AGAIN_SECONDS)
            with self._repository.transaction() as tenancy:
                for stored in going.datasets:
                    tenancy.forget_dataset(stored.dataset.project, stored.dataset.name)
                tenancy.forget_internal_topics(going.internals)
        logger.info("topics deleted", extra={"topics": len(names)})

    def _stored(self, project: ProjectName | None) -> tuple[list[StoredDataset], list[StoredInternal]]:
        with self._repository.transaction() as tenancy:
            return tenancy.datasets(project), tenancy.internal_topics(project)

    def _note_ids(self, datasets: Iterable[StoredDataset], ids: dict[str, str]) -> None:
        news = [
            (stored.dataset.project, stored.dataset.name, ids[stored.dataset.topic])
            for stored in datasets
            if ids.get(stored.dataset.topic, stored.topic_id) != stored.topic_id
        ]
        if news:
            with self._repository.transaction() as tenancy:
                tenancy.note_topic_ids(news)

    # Rows

    def _wanted(self, project: ProjectName | None) -> _Rights:
        with self._repository.transaction() as tenancy:
            members = tenancy.members(project)
            opened = tenancy.shares.opened(self._clock.now(), project)
            stored = tenancy.datasets(project)
            if project is not None:
                found = (tenancy.dataset(share.project, share.dataset) for share in opened.get(project, ()))
                stored += [dataset for dataset in found if dataset is not None]
            going = tenancy.revocations(unfinished=True)
        there = {(each.dataset.project, each.dataset.name): each.dataset for each in stored if each.state is Existence.THERE}
        known: dict[ProjectName, list[Dataset]] = {}
        for dataset in there.values():
            known.setdefault(dataset.project, []).append(dataset)
        for receiver, shares in opened.items():
            shared = (there.get((share.project, share.dataset)) for share in shares)
            known.setdefault(receiver, []).extend(dataset for dataset in shared if dataset is not None)
        bindings: set[AclBinding] = set(platform_bindings()) if project is None else set()
        for member in members:
            bindings |= acl_bindings_for(member, known.get(member.project, ()), opened.get(member.project, frozenset()))
        return _Rights(
            rows=frozenset(row_of(binding) for binding in bindings),
            principals=frozenset(f"User:{member.principal_name}" for member in members if member.state is MemberState.ACTIVE),
            leave=frozenset(f"User:{revocation.principal}" for revocation in going if revocation.step in (Step.DECIDED, Step.THROTTLED)),
        )

    def _rows(self, project: ProjectName | None, deadline: float) -> bool:
        """Change rows, and return whether every broker showed them in time."""
        addresses = self._broker.addresses()
        with self._rights:
            rights = self._wanted(project)
            asked: tuple[str | None, ...] = (None,) if project is None else tuple(sorted(rights.principals))
            found = self._broker.acl_rows(addresses[0], asked)
            if project is None and row_of(MARKER) not in found:
                raise Unavailable("the broker's list of rights is not whole: the platform's own marker is missing; nothing was changed")
            changes = plan_rows(rights.rows, found, leave=rights.leave)
            for change in changes:
                if isinstance(change, CreateRows):
                    self._broker.create_acls(change.rows)
                else:
                    self._broker.delete_acls(change.rows)
        created = sum(len(change.rows) for change in changes if isinstance(change, CreateRows))
        deleted = sum(len(change.rows) for change in changes if isinstance(change, DeleteRows))
        if changes:
            logger.info("rows changed", extra={"acl_created": created, "acl_deleted": deleted, "project": project})
            if project is None:
                self._tell_drift(created, deleted)
        return self._shown(project, asked, deadline, seen=not changes and len(addresses) == 1)

    def _shown(self, project: ProjectName | None, asked: Collection[str | None], deadline: float, *, seen: bool) -> bool:
        while not seen:
            # Anew at each look: what somebody else changes meanwhile is right too. Whoever came meanwhile is waited for by others.
            rights = self._wanted(project)
            wanted = rights.rows if project is None else frozenset(row for row in rights.rows if row.principal in asked)

            def equal(rows: frozenset[AclRow], wanted: frozenset[AclRow] = wanted, leave: frozenset[str] = rights.leave) -> bool:
                return not plan_rows(wanted, rows, leave=leave)

            seen = all(self._broker.everywhere(lambda address: equal(self._broker.acl_rows(address, tuple(asked)))))
            if not seen:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_LOOK_AGAIN_SECONDS)
        return True

    def _mark(self) -> None:
        """Make sure that the marker has once been on this cluster, so that a list without it is known to be short.

        A cluster that was never seen gets it; on a known one its absence is an alarm, not something to repair.
        """
        cluster = self._broker.cluster_id()
        with self._repository.transaction() as tenancy:
            known = tenancy.fact(_MARKED)
        if known == cluster:
            return
        self._broker.create_acls({row_of(MARKER)})
        deadline = time.monotonic() + self._settle_seconds
        while not all(self._broker.everywhere(lambda address: row_of(MARKER) in self._broker.acl_rows(address, (MARKER.principal,)))):
            if time.monotonic() > deadline:
                raise Unavailable("the broker does not show a row that it accepted")
            time.sleep(_LOOK_AGAIN_SECONDS)
        with self._repository.transaction() as tenancy:
            tenancy.put_fact(_MARKED, cluster)
        logger.info("first rows on this cluster", extra={"cluster": cluster})

    def _tell_drift(self, created: int, deleted: int) -> None:
        event = AuditEvent("ws-control", None, "acl.repair", "cluster", Outcome.ALLOWED, {"created": created, "deleted": deleted})
        with self._repository.transaction() as tenancy:
            tenancy.audit(event, self._clock.now())

    # Users of the online store

    def _put_users(self, project: ProjectName) -> None:
        wanted = users_of(project, self._secret)
        for change in plan_users(wanted, frozenset(user for user in self._users.found() if user.name.partition(".")[0] == project)):
            if isinstance(change, PutUsers):
                self._users.put(change.users)

    def _put_all_users(self) -> None:
        with self._repository.transaction() as tenancy:
            projects = tenancy.projects()
        there = (project for project in projects if project.state is not ProjectState.CLOSED)
        wanted = frozenset(user for project in there for user in users_of(project.name, self._secret))
        for change in plan_users(wanted, self._users.found()):
            if isinstance(change, PutUsers):
                self._users.put(change.users)
            elif isinstance(change, RemoveUsers):
                self._users.remove(change.names)
