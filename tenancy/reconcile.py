"""Making broker and online store what the tenancy database says: describe → plan → apply, as often as one likes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tenancy.acls import MARKER, AclBinding, acl_bindings_for, platform_bindings
from tenancy.authorizer_log import Place
from tenancy.broker import CONSUMER_BYTE_RATE, STOPPED, Broker, TopicState
from tenancy.credentials import Holder
from tenancy.differences import Change, Difference, deletions_of, differences_of
from tenancy.drift import Alteration, DriftLog, repairs
from tenancy.model import Dataset, MemberState, ProjectState
from tenancy.plan import (
    PLATFORM_TOPICS,
    AddPartitions,
    AlterConfig,
    CreateRows,
    CreateTopic,
    PutUsers,
    RemoveUsers,
    TopicSpec,
    internal_topic_spec,
    plan_quotas,
    plan_rows,
    plan_topics,
    plan_users,
    row_of,
    topics_for,
)
from tenancy.quotas import client_quotas
from tenancy.redis_users import OnlineStoreUsers, StoreUser, users_of
from tenancy.repository import Existence, Repository, Step, StoredDataset, StoredInternal, topics_of
from tenancy.wire import AclRow
from wardstream.clock import Clock
from wardstream.errors import Invalid, Unavailable, WardstreamError
from wardstream.names import ProjectName

logger = logging.getLogger(__name__)

# The cluster whose list of rows has once held the marker.
_MARKED = "cluster-with-marker"
# How far the authorizer's log was read: inode and offset.
_LOG_READ = "authorizer-log-read"
_LOOK_AGAIN_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5
# A broker makes them one after another, each with forced writes: some 300 a second, a tenth of it on a busy machine.
_SECONDS_PER_TOPIC = 0.03


@dataclass(frozen=True)
class Settlement:
    """Whether every broker shows what was decided, and how long that took."""

    settled: bool
    seconds: float


@dataclass(frozen=True)
class Reconciled:
    """What a run over everything found and changed, and what of it failed; nothing was left untried because of another part."""

    settled: bool
    seconds: float
    changes: tuple[Difference, ...]
    failures: tuple[WardstreamError, ...]


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

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(str(name) for stored in self.datasets for name in topics_of(stored)) | frozenset(self.internals)


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
        authorizer_log: Path | None = None,
    ) -> None:
        """`authorizer_log` is the brokers', which says who changed something past control."""
        self._drift = DriftLog(authorizer_log, broker.own_calls) if authorizer_log is not None else None
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
        changes: list[Change] = []
        refused: Invalid | None = None
        try:
            self._topics(project, changes, platform=False)
        except Invalid as error:
            refused = error
        going = self._going(project)
        settled = self._rows(project, deadline, changes)
        if settled:
            self._deletions(going)
        settled = self._quotas(project, deadline, changes) and settled
        self._put_users(project)
        if refused is not None:
            raise refused
        return Settlement(settled, time.monotonic() - start)

    def everything(self) -> Reconciled:
        """Carry everything out, platform and all projects, and take away what should not be there.

        Every part is tried even if another fails; then the first failure is raised.
        """
        done = self.reconcile()
        if done.failures:
            raise done.failures[0]
        return done

    def reconcile(self) -> Reconciled:
        """Do as `everything` does, and return failures beside what was changed."""
        start = time.monotonic()
        failures: list[WardstreamError] = []
        changes: list[Change] = []

        def attempt(part: Callable[[], bool]) -> bool:
            try:
                return part()
            except WardstreamError as error:
                failures.append(error)
                return False

        attempt(lambda: self._topics(None, changes, platform=True))
        rows_known = attempt(self._mark)
        going = self._going(None)
        rows = rows_known and attempt(lambda: self._rows(None, start + self._settle_seconds, changes))
        if rows:
            attempt(lambda: self._deletions(going))
        quotas = attempt(lambda: self._quotas(None, start + self._settle_seconds, changes))
        attempt(lambda: self._put_all_users(changes))
        attempt(self._load_functions)
        found = (*differences_of(changes), *(deletions_of(going.topics) if rows else ()))
        self._tell_drift(found, failures)
        return Reconciled(rows and quotas and not failures, time.monotonic() - start, found, tuple(failures))

    def differences(self) -> list[Difference]:
        """Return what `everything` would change now; changes nothing."""
        datasets, internals = self._stored(None)
        wanted = self._wanted_topics(datasets, internals, platform=True)
        changes: list[Change] = [*plan_topics(wanted, self._broker.topics([topic.name for topic in wanted]))]
        going = self._going(None).topics & self._broker.topic_names()
        address = self._broker.addresses()[0]
        with self._rights:
            rights = self._wanted(None)
            changes += plan_rows(rights.rows, self._found_rows(address, None, (None,)), leave=rights.leave)
            changes += plan_quotas(self._wanted_quotas(None), self._broker.quotas_at(address))
        changes += plan_users(self._wanted_users(), self._users.found())
        return [*differences_of(changes), *deletions_of(going)]

    # Topics

    def _topics(self, project: ProjectName | None, made: list[Change], *, platform: bool) -> bool:
        with self._topic_changes:
            datasets, internals = self._stored(project)
            found = self._make_topics(self._wanted_topics(datasets, internals, platform=platform), made)
        self._note_ids(datasets, {name: state.topic_id for name, state in found.items()})
        return True

    def _wanted_topics(self, datasets: Iterable[StoredDataset], internals: Iterable[StoredInternal], *, platform: bool) -> list[TopicSpec]:
        wanted: list[TopicSpec] = list(PLATFORM_TOPICS) if platform else []
        for stored in datasets:
            if stored.state is Existence.THERE:
                wanted.extend(topics_for(stored.dataset))
        wanted.extend(internal_topic_spec(stored.topic) for stored in internals if stored.state is Existence.THERE)
        return wanted

    def _make_topics(self, wanted: Collection[TopicSpec], made: list[Change]) -> dict[str, TopicState]:
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
        found |= self._shown_topics([spec for spec in wanted if plan_topics([spec], found)])
        made += changes
        logger.info("topics changed", extra={"changes": len(changes)})
        return found

    def _shown_topics(self, pending: list[TopicSpec]) -> dict[str, TopicState]:
        """Return `pending` as the broker shows them; it answers a change before its own listing has it."""
        deadline = time.monotonic() + self._settle_seconds + len(pending) * _SECONDS_PER_TOPIC
        seen: dict[str, TopicState] = {}
        pause = _LOOK_AGAIN_SECONDS
        while True:
            # The last one first: asking for thousands again and again would keep the broker from making them.
            if not plan_topics(pending[-1:], self._broker.topics([pending[-1].name])):
                seen |= self._broker.topics([spec.name for spec in pending])
                pending = [spec for spec in pending if plan_topics([spec], seen)]
                if not pending:
                    return seen
            if time.monotonic() > deadline:
                raise Unavailable("the broker has not shown all topics yet; what is missing follows by itself")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

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

    def _deletions(self, going: _Going) -> bool:
        """Delete topics of which no row is left. Only what the database names is deleted, never what it does not know."""
        names = going.topics
        if not names:
            return True
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
        return True

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

    def _found_rows(self, address: tuple[str, int], project: ProjectName | None, asked: Collection[str | None]) -> frozenset[AclRow]:
        found = self._broker.acl_rows(address, tuple(asked))
        if project is None and row_of(MARKER) not in found:
            raise Unavailable("the broker's list of rights is not whole: the platform's own marker is missing; nothing was changed")
        return found

    def _rows(self, project: ProjectName | None, deadline: float, made: list[Change]) -> bool:
        """Change rows, and return whether every broker showed them in time. A row that is refused keeps no other from being changed."""
        addresses = self._broker.addresses()
        refused: WardstreamError | None = None
        with self._rights:
            rights = self._wanted(project)
            asked: tuple[str | None, ...] = (None,) if project is None else tuple(sorted(rights.principals))
            changes = plan_rows(rights.rows, self._found_rows(addresses[0], project, asked), leave=rights.leave)
            for change in changes:
                try:
                    if isinstance(change, CreateRows):
                        self._broker.create_acls(change.rows)
                    else:
                        self._broker.delete_acls(change.rows)
                except WardstreamError as error:
                    refused = refused or error
        made += changes
        if changes:
            logger.info("rows changed", extra={"rows": sum(len(change.rows) for change in changes), "project": project})
        if refused is not None:
            raise refused
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

    def _mark(self) -> bool:
        """Make sure that the marker has once been on this cluster, so that a list without it is known to be short.

        A cluster that was never seen gets it; on a known one its absence is an alarm, not something to repair.
        """
        cluster = self._broker.cluster_id()
        with self._repository.transaction() as tenancy:
            known = tenancy.fact(_MARKED)
        if known == cluster:
            return True
        self._broker.create_acls({row_of(MARKER)})
        deadline = time.monotonic() + self._settle_seconds
        while not all(self._broker.everywhere(lambda address: row_of(MARKER) in self._broker.acl_rows(address, (MARKER.principal,)))):
            if time.monotonic() > deadline:
                raise Unavailable("the broker does not show a row that it accepted")
            time.sleep(_LOOK_AGAIN_SECONDS)
        with self._repository.transaction() as tenancy:
            tenancy.put_fact(_MARKED, cluster)
        logger.info("first rows on this cluster", extra={"cluster": cluster})
        return True

    def _tell_drift(self, changes: Collection[Difference], failures: Collection[WardstreamError]) -> None:
        """Keep in the audit what a run over everything put right, and who had altered it."""
        place: Place | None = None
        alterations: list[Alteration] = []
        if self._drift is not None:
            with self._repository.transaction() as tenancy:
                known = json.loads(tenancy.fact(_LOG_READ) or "null")
            place, alterations = self._drift.since(Place(**known) if isinstance(known, dict) else None)
        with self._repository.transaction() as tenancy:
            for event in repairs(changes, alterations, failures):
                tenancy.audit(event, self._clock.now())
            if place is not None:
                tenancy.put_fact(_LOG_READ, json.dumps(vars(place)))

    # Quotas

    def _wanted_quotas(self, project: ProjectName | None) -> dict[str, dict[str, float]]:
        """Return principal -> quotas as they should be: of members what their project has, of those that went what stops them.

        Whoever was removed stays stopped for as long as a certificate of theirs lives: a fetch that waits in a broker must
        not be answered. Names that should have nothing are there with nothing.
        """
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            members = tenancy.members(project)
            quotas = tenancy.quotas.all(project)
            going = tenancy.revocations() if project is None else []
            holders = tenancy.credentials.holders_at(now) if project is None else frozenset()
        wanted = {
            str(member.principal_name): client_quotas(quotas[member.project]) if member.project in quotas else {}
            for member in members
            if member.state is MemberState.ACTIVE
        }
        for each in going:
            if each.step is not Step.DONE or Holder(each.project, each.member, each.generation) in holders:
                wanted[each.principal] = {CONSUMER_BYTE_RATE: STOPPED}
        return wanted

    def _quotas(self, project: ProjectName | None, deadline: float, made: list[Change]) -> bool:
        """Change quotas of principals, and return whether every broker showed them in time."""
        addresses = self._broker.addresses()
        # As for rows: nobody may lift the bound that a revocation sets.
        with self._rights:
            wanted = self._wanted_quotas(project)
            asked: tuple[str | None, ...] = (None,) if project is None else tuple(sorted(wanted))
            changes = plan_quotas(wanted, self._broker.quotas_at(addresses[0], asked))
            made += changes
            self._broker.alter_quotas({change.principal: change.values for change in changes})
        if not changes and len(addresses) == 1:
            return True
        logger.info("quotas changed", extra={"principals": len(changes), "project": project})

        def equal(address: tuple[str, int]) -> bool:
            return not plan_quotas(self._wanted_quotas(project), self._broker.quotas_at(address, asked))

        while not all(self._broker.everywhere(equal)):
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN_SECONDS)
        return True

    # Users of the online store

    def _put_users(self, project: ProjectName) -> None:
        wanted = users_of(project, self._secret)
        for change in plan_users(wanted, frozenset(user for user in self._users.found() if user.name.partition(".")[0] == project)):
            if isinstance(change, PutUsers):
                self._users.put(change.users)

    def _wanted_users(self) -> frozenset[StoreUser]:
        with self._repository.transaction() as tenancy:
            projects = tenancy.projects()
        there = (project for project in projects if project.state is not ProjectState.CLOSED)
        return frozenset(user for project in there for user in users_of(project.name, self._secret))

    def _put_all_users(self, made: list[Change]) -> bool:
        refused: WardstreamError | None = None
        for change in plan_users(self._wanted_users(), self._users.found()):
            made.append(change)
            try:
                if isinstance(change, PutUsers):
                    self._users.put(change.users)
                elif isinstance(change, RemoveUsers):
                    self._users.remove(change.names)
            except WardstreamError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        return True

    def _load_functions(self) -> bool:
        self._users.load_functions(self._functions)
        return True
