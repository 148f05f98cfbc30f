"""The use cases of the feature store: groups, rows, SQL, online reads, training data.

Every one of them finds, decides by `tenancy.policy`, acts and returns values. What a caller may not know of is
answered in the words for what does not exist.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb
import orjson
import pyarrow as pa

from featurestore.control import Control
from featurestore.model import FeatureGroup, group_from_document
from featurestore.offline.asof import point_in_time_join
from featurestore.offline.commit import DataFile, Snapshot
from featurestore.offline.engine import define_stored, engine, listed
from featurestore.offline.table import NEWEST_FIRST, OfflineTable, deduplicated_sql
from featurestore.online.store import OnlineVectors, Selection, read_vectors
from featurestore.repository import GroupState, Repository, StoredGroup, TrainingDataset
from featurestore.sink import MarkedStore, remove_online
from featurestore.sql.engine import SqlAnswer, SqlEngine, SqlTable
from featurestore.sql.statement import TableShape, check
from featurestore.training import PinnedTable, TrainingSpec, snapshot, sources
from featurestore.usage import Usage
from schemas.errors import SubjectNotFound
from schemas.registry import RegistryService
from tenancy.access import AccessJournal, access_event
from tenancy.model import DatasetPermission, Principal, Role
from tenancy.policy import Action, Decision, columns_of, decide
from wardstream.clock import Clock
from wardstream.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unauthenticated
from wardstream.names import ProjectName, parse_group, parse_project, shared_table, split_principal, value_subject

logger = logging.getLogger(__name__)

_MOST_PARTITIONS = 64
_MOST_ENTITIES = 10_000
_MOST_LABELS = 20_000_000
_BATCH_ROWS = 65_536
# Looking for repeats among more new rows than this costs more than leaving repeats out in each statement.
_MOST_LOOKED_AT = 20_000_000
# Readers of whole tables and training data at a time, and how long others wait; one that a slow client holds up is waited for too.
_TURNS = 4
_TURN_SECONDS = 60.0
# A grant may have been checked this long before its caller is noted down.
_JUST_SECONDS = 0.05
# The catalogue is read from memory this long; changes that this process makes are seen at once.
_CATALOGUE_SECONDS = 2.0


@dataclass(frozen=True)
class Caller:
    """Who asks, with the grant that control gave: what changes rights or topics is done in the caller's name."""

    principal: Principal
    grant: str
    asked_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Progress:
    """How far a group's table is. `offsets`: the next record of each partition; everything below is in the table."""

    rows: int
    repeats: int
    records: int
    rejected: int
    deletions: int
    offsets: Mapping[int, int]
    table_version: int
    newest_event_time: datetime | None


@dataclass(frozen=True)
class OnlineRequest:
    """Features of one group to read online; None stands for all of them."""

    group: str
    version: int
    features: tuple[str, ...] | None = None


@dataclass(frozen=True)
class OnlineRows:
    """What one group's rows say of the entities, in their order; `note` says why where none of them has a row."""

    vectors: OnlineVectors
    note: str | None = None


class EndedAccess:
    """Whose access ended while this process ran. Thread-safe."""

    def __init__(self) -> None:
        self._generations: dict[tuple[str, str], int] = {}
        # Rights that changed while the principal stayed: project and member (None: all of them) -> when this process heard of it.
        self._changed: dict[tuple[str, str | None], float] = {}
        self._lock = threading.Lock()

    def add(self, principal: str, generation: int) -> None:
        """Remember that this member's access ended up to `generation`; `principal` may carry any generation."""
        project, member, _ = split_principal(principal)
        with self._lock:
            self._generations[project, member] = max(generation, self._generations.get((project, member), 0))

    def change(self, project: str, member: str | None) -> None:
        """Remember that rights of the project's people, or of one member, have just changed."""
        with self._lock:
            self._changed[project, member] = time.monotonic() + _JUST_SECONDS

    def require_none(self, caller: Caller) -> None:
        """Raise `Unauthenticated` where the caller's access ended, or its rights changed since it asked."""
        principal = caller.principal
        if principal.project is None or principal.member is None:
            return
        with self._lock:
            ended = self._generations.get((principal.project, principal.member), 0)
            changed = max(self._changed.get((principal.project, who), 0.0) for who in (principal.member, None))
        if principal.generation <= ended:
            raise Unauthenticated(f"{principal.name} is no longer a member of {principal.project}")
        if caller.asked_at <= changed:
            raise Unauthenticated("rights have changed since this was asked: ask again")


class RowStream:
    """Rows to be read once, in batches; close it, read or not. The first batch is there already, so most of what can fail has failed.

    `allowed` is called before each batch is given out, and raises where the reader may have no more.
    """

    def __init__(self, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None], allowed: Callable[[], None]) -> None:
        self.schema = schema
        self._batches = batches
        self._allowed = allowed
        self._first = next(batches, None)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        batch, self._first = self._first, None
        while batch is not None:
            self._allowed()
            yield batch
            batch = next(self._batches, None)

    def close(self) -> None:
        """Free what the rows are made from."""
        self._first = None
        self._batches.close()


@dataclass(frozen=True)
class TrainingData:
    """Training data and what they were made of."""

    dataset: TrainingDataset
    rows: RowStream


class OnlineStores(Protocol):
    """Where the newest rows of each project are."""

    def of(self, project: ProjectName, grant: str) -> MarkedStore:
        """Return the project's store, shut into its own keys, for the bearer of `grant`; raises `Unavailable`."""
        ...


class FeatureStoreService:
    """Feature groups and everything that is read from them. Thread-safe."""

    def __init__(
        self,
        *,
        repository: Repository,
        control: Control,
        registry: RegistryService,
        online: OnlineStores,
        usage: Usage,
        sql: SqlEngine,
        journal: AccessJournal,
        warehouse: Path,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._control = control
        self._registry = registry
        self._online = online
        self._usage = usage
        self._sql = sql
        self._journal = journal
        self._warehouse = warehouse
        self._clock = clock
        self._turns = threading.BoundedSemaphore(_TURNS)
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, str], _HeldTable] = {}
        self._known: dict[ProjectName, tuple[float, list[StoredGroup]]] = {}
        self._ended = EndedAccess()

    # Groups

    def all_groups(self) -> list[StoredGroup]:
        """Return the groups of every project; for the platform's own processes."""
        with self._repository.transaction() as catalogue:
            return [stored for stored in catalogue.groups() if stored.state is GroupState.ACTIVE]

    def groups(self, caller: Caller, project: str) -> list[StoredGroup]:
        """Return the project's groups that the caller may know of, by name and version."""
        owner = self._project(caller, project, Action.DATASET_LIST)
        known = (stored for stored in self._active(owner) if decide(caller.principal, Action.DATASET_LIST, stored.dataset).allowed)
        return [_as_seen_by(caller, stored) for stored in known]

    def group(self, caller: Caller, project: str, name: str, version: int) -> StoredGroup:
        """Return one version; raises `NotFound` also for one that the caller may not know of.

        Of a group that is open by columns, only those are told, with key and event time.
        """
        owner = self._project(caller, project, Action.DATASET_LIST)
        return _as_seen_by(caller, self._group(caller, owner, name, version, Action.DATASET_LIST))

    def group_for_insert(self, caller: Caller, project: str, name: str, version: int) -> StoredGroup:
        """Return one version as `group` does; raises `LimitExceeded` where the project has no room for more rows."""
        found = self.group(caller, project, name, version)
        self._usage.require_room(found.group.project, caller.grant)
        return found

    def create_group(self, caller: Caller, project: str, document: Mapping[str, Any], *, partitions: int = 1) -> StoredGroup:
        """Make a feature group: topic with its rights, subject, table, catalogue entry; return it when all of them are there.

        `document` is that of `FeatureGroup.document`, with version None for the next one. A version that exists with the
        same features is returned unchanged; one whose making was interrupted is finished. Raises `Conflict` naming the
        difference where it exists otherwise, and for a version that was deleted: its name is not given out again.
        """
        owner = self._project(caller, project, Action.FEATURE_GROUP_CREATE)
        self._usage.require_room(owner, caller.grant)
        if not 1 <= partitions <= _MOST_PARTITIONS:
            raise Invalid(f"partitions must be 1 to {_MOST_PARTITIONS}, got {partitions}")
        stored = self._entered(caller, owner, document, partitions)
        if stored.state is GroupState.ACTIVE:
            return stored
        group = stored.group
        # A scientist's group is editable, so that colleagues can insert; an owner's follows the default.
        scientist = caller.principal.role is Role.DATA_SCIENTIST
        permission = DatasetPermission.EDITABLE if scientist else DatasetPermission.EDITABLE_BY_OWNERS
        dataset = self._control.create_group_dataset(
            caller.grant, owner, group.dataset, partitions=stored.partitions, permission=permission
        )
        text = orjson.dumps(group.avro_schema()).decode()
        self._registry.register(caller.principal, value_subject(group.topic), text, dataset=dataset)
        self._held(group).create()
        self._move(group, GroupState.ACTIVE)
        logger.info("feature group created", extra={"project": owner, "group": group.dataset, "principal": caller.principal.name})
        return replace(stored, state=GroupState.ACTIVE)

    def delete_group(self, caller: Caller, project: str, name: str, version: int) -> None:
        """Remove a group with its topic, subject, online rows and table; a deletion that was interrupted is finished by another one.

        Raises `Unavailable` when a store is away; `Conflict` while a processor uses it, `Denied` or `Unauthenticated` where control
        does not let the caller delete it: then the group is as it was. Not promised: that online rows go whose records had not
        reached the table, which takes seconds; they cannot be read.
        """
        owner = self._project(caller, project, Action.DATASET_LIST)
        stored = self._group(caller, owner, name, version, Action.DATASET_DELETE, states=(GroupState.ACTIVE, GroupState.DELETING))
        group = stored.group
        self._move(group, GroupState.DELETING)
        try:
            self._control.delete_dataset(caller.grant, owner, group.dataset)
        except (Conflict, Denied, Unauthenticated):
            # Control refuses in these words only where the topic is there and nothing was done to it.
            self._move(group, GroupState.ACTIVE)
            raise
        with suppress(SubjectNotFound):
            dataset = replace(stored.dataset, permission=DatasetPermission.EDITABLE)
            self._registry.delete_subject(caller.principal, value_subject(group.topic), dataset=dataset)
        if group.online_enabled:
            # Before the table, which alone says whose rows there are.
            remove_online(OfflineTable(self._warehouse, group), self._online.of(owner, caller.grant))
        with self._lock:
            self._tables.pop((owner, group.dataset), None)
        shutil.rmtree(self._warehouse / owner / group.dataset, ignore_errors=True)
        self._move(group, GroupState.DELETED)
        logger.info("feature group deleted", extra={"project": owner, "group": group.dataset, "principal": caller.principal.name})

    def progress(self, caller: Caller, project: str, name: str, version: int) -> Progress:
        """Return how far the group's table is; for all who may know of the group, since it holds counts and one time only."""
        owner = self._project(caller, project, Action.DATASET_LIST)
        return self._held(self._group(caller, owner, name, version, Action.DATASET_LIST).group).progress()

    def offsets(self, caller: Caller, project: str, name: str, version: int) -> Mapping[int, int]:
        """Return the next record of each partition: everything below is in the group's table. Counts nothing, so it may be asked often."""
        owner = self._project(caller, project, Action.DATASET_LIST)
        return self._held(self._group(caller, owner, name, version, Action.DATASET_LIST).group).offsets()

    # Rows

    def revoke(self, principal: str, generation: int) -> None:
        """End this member's access up to `generation`: rows that are being read fail before their next batch."""
        self._ended.add(principal, generation)

    def change(self, project: str, member: str | None) -> None:
        """Let rows that are being read by the project's people, or by one member, fail before their next batch."""
        self._ended.change(project, member)

    def rows(self, caller: Caller, project: str, name: str, version: int, *, limit: int | None = None) -> RowStream:
        """Return the group's rows without repeats, in no particular order."""
        owner = self._project(caller, project, Action.ROW_READ, "rows")
        if limit is not None and limit < 1:
            raise Invalid(f"limit must be at least 1, got {limit}")
        stored = self._group(caller, owner, name, version, Action.ROW_READ, surface="rows")
        pinned = self._held(stored.group).pinned(look=True)
        shown = _open_columns(caller, stored)
        schema = pa.schema([each for each in stored.group.arrow_schema() if each.name in shown])
        return self._stream(caller, schema, _rows(pinned, schema, limit))

    def sql(self, caller: Caller, project: str, statement: str, *, max_rows: int | None = None) -> SqlAnswer:
        """Return the answer to one SELECT over the groups that the caller may read.

        A group is a table by its name (the newest version) and by `<name>_<version>`; one that another project shares is
        `<project>__<name>`, with `_` for each `-` of the project. Raises `Invalid`, `NotFound` for a table that is not the
        caller's to know, `LimitExceeded` for time, memory, rows and size.
        """
        owner = self._project(caller, project, Action.ROW_READ, "sql")
        if max_rows is not None and max_rows < 1:
            raise Invalid(f"max_rows must be at least 1, got {max_rows}")
        readable: dict[str, FeatureGroup] = {}
        shapes: dict[str, TableShape] = {}
        for place in (owner, *sorted({share.project for share in caller.principal.shared} - {owner})):
            for stored in self._active(place):  # by name and version, so that the plain name ends with the newest
                if not decide(caller.principal, Action.ROW_READ, stored.dataset).allowed:
                    continue
                group, shown = stored.group, _open_columns(caller, stored)
                name, version = (each if place == owner else shared_table(place, each) for each in (group.name, group.dataset))
                shape = TableShape(version, tuple(each.name for each in group.features if each.name in shown))
                shapes[name] = shapes[version] = shape
                readable[shape.registered] = group
        try:
            checked = check(statement, shapes)
        except NotFound:
            # A table that is not there, or not for the caller: which one, the statement says, and that is not kept.
            self._refuse(caller, Action.ROW_READ, owner, None, "sql", "a table that is not there for the caller")
            raise
        self._note_sql(caller, [readable[name] for name in checked.reads])
        tables = [
            _sql_table(name, self._held(group).pinned(look=True), checked.reads[name])
            for name, group in readable.items()
            if name in checked.reads
        ]
        answer = self._sql.run(checked.sql, tables, owner=caller.principal.name, max_rows=max_rows)
        answer = replace(answer, allowed=self._access(caller))
        try:
            # Access may have ended before the engine knew of the statement, when there was none to end.
            answer.allowed()
        except Unauthenticated:
            answer.file.close()
            raise
        logger.info(
            "rows read by SQL",
            extra={"project": owner, "principal": caller.principal.name, "tables": sorted(checked.reads), "rows": answer.rows},
        )
        return answer

    def _refuse(self, caller: Caller, action: Action, project: ProjectName, dataset: str | None, surface: str, reason: str) -> None:
        """Keep that the caller asked for what is not there."""
        decision = Decision(allowed=False, visible=False, reason=reason)
        self._journal.record(access_event(caller.principal, action, surface=surface, project=project, dataset=dataset, decision=decision))

    def _note_sql(self, caller: Caller, groups: Sequence[FeatureGroup]) -> None:
        """Keep which tables a statement reads; its text may hold a patient's number."""
        allowed = Decision(allowed=True, visible=True)
        self._journal.record(
            *(
                access_event(
                    caller.principal, Action.ROW_READ, surface="sql", project=group.project, dataset=group.dataset, decision=allowed
                )
                for group in groups
            )
        )

    def training_data(self, caller: Caller, project: str, spec: TrainingSpec, spine: pa.Table) -> TrainingData:
        """Return the spine's rows, in order, each with the features that were known at its label time.

        The tables are held at the versions that the returned `dataset` names, and which the catalogue remembers.
        Raises `Invalid` naming a column or feature that does not fit.
        """
        owner = self._project(caller, project, Action.ROW_READ, "training")
        if spine.num_rows > _MOST_LABELS:
            raise LimitExceeded(f"a spine has at most {_MOST_LABELS} rows, this one has {spine.num_rows}: ask in parts")
        chosen = [self._group(caller, owner, each.group, each.version, Action.ROW_READ, surface="training") for each in spec.features]
        narrowed = [
            replace(each, features=_chosen_features(caller, stored, each.features, each.known_at))
            for each, stored in zip(spec.features, chosen, strict=True)
        ]
        spec = replace(spec, features=tuple(narrowed))
        groups = [stored.group for stored in chosen]
        pinned = [self._held(group).pinned() for group in groups]
        reader = point_in_time_join(spine, sources(spec, pinned), spec.label_time)
        rows = self._stream(caller, reader.schema, _read(reader))
        made = TrainingDataset(
            id=secrets.token_hex(8),
            project=owner,
            label_time=spec.label_time,
            features=tuple(spec.document()),
            snapshot=snapshot(pinned),
            labels=spine.num_rows,
            created_by=caller.principal.name,
            created_at=self._clock.now(),
        )
        with self._repository.transaction() as catalogue:
            catalogue.add_training_dataset(made)
        logger.info(
            "training data read",
            extra={"project": owner, "principal": caller.principal.name, "tables": sorted(made.snapshot), "labels": spine.num_rows},
        )
        return TrainingData(made, rows)

    def training_datasets(self, caller: Caller, project: str) -> list[TrainingDataset]:
        """Return what the project's newest training sets were made of; no rows."""
        owner = self._project(caller, project, Action.MODEL_DESCRIBE)
        with self._repository.transaction() as catalogue:
            return catalogue.training_datasets(owner)

    def online_read(
        self, caller: Caller, project: str, requests: Sequence[OnlineRequest], entities: Mapping[str, Sequence[Any]]
    ) -> list[OnlineRows]:
        """Return the newest values of `entities` (key column -> values, all of one length) for each request, in order."""
        owner = self._project(caller, project, Action.ONLINE_READ, "online")
        if not requests:
            raise Invalid("name at least one feature group to read")
        most = max((len(values) for values in entities.values()), default=0)
        if most > _MOST_ENTITIES:
            raise LimitExceeded(f"at most {_MOST_ENTITIES} entities are read at a time, got {most}")
        selections = []
        for each in requests:
            stored = self._group(caller, owner, each.group, each.version, Action.ONLINE_READ, surface="online")
            group = stored.group
            if not group.online_enabled:
                raise Invalid(f"{group.name} version {group.version} has no online rows: it was created without")
            selections.append(Selection(group, _chosen_features(caller, stored, each.features)))
        found = read_vectors(self._online.of(owner, caller.grant), selections, entities, now=self._clock.now())
        return [OnlineRows(vectors, self._why_empty(vectors)) for vectors in found]

    def _why_empty(self, vectors: OnlineVectors) -> str | None:
        group, entities = vectors.group, len(vectors.event_time)
        if entities == 0 or vectors.event_time.null_count < entities:
            return None
        newest = self._held(group).newest_event_time()
        if newest is None:
            return f"{group.name} version {group.version} is empty: no record has reached its table yet"
        return f"none of these {entities} entities has a row in {group.name} version {group.version}; its newest event time is {newest.isoformat()}"

    # What all of them share

    def _project(self, caller: Caller, project: str, action: Action, surface: str = "features") -> ProjectName:
        """Return the project if the caller may do `action` in it at all."""
        owner = parse_project(project)
        decision = decide(caller.principal, action, project=owner)
        # An allowed one says nothing yet: what is done with which group is decided, and kept, group by group.
        if not decision.allowed:
            self._journal.require(decision, caller.principal, action, surface=surface, project=owner, thing=f"project {owner}")
        return owner

    def _group(
        self,
        caller: Caller,
        project: ProjectName,
        name: str,
        version: int,
        action: Action,
        states: Sequence[GroupState] = (GroupState.ACTIVE,),
        surface: str = "features",
    ) -> StoredGroup:
        thing = f"feature group {parse_group(name)} version {version} of project {project}"
        found = next((each for each in self._catalogue(project) if (each.group.name, each.group.version) == (name, version)), None)
        if found is None or found.state not in states:
            if action is not Action.DATASET_LIST:
                self._refuse(caller, action, project, f"{parse_group(name)}_{version}", surface, "not there")
            raise NotFound(f"{thing} is not there")
        decision = decide(caller.principal, action, found.dataset)
        dataset = found.group.dataset
        self._journal.require(decision, caller.principal, action, surface=surface, project=project, dataset=dataset, thing=thing)
        return found

    def _active(self, project: ProjectName) -> list[StoredGroup]:
        return [stored for stored in self._catalogue(project) if stored.state is GroupState.ACTIVE]

    def _catalogue(self, project: ProjectName) -> list[StoredGroup]:
        now = time.monotonic()
        with self._lock:
            until, known = self._known.get(project, (0.0, []))
        if now < until:
            return known
        with self._repository.transaction() as catalogue:
            known = catalogue.groups(project)
        with self._lock:
            self._known[project] = (now + _CATALOGUE_SECONDS, known)
        return known

    def _move(self, group: FeatureGroup, state: GroupState) -> None:
        with self._repository.transaction() as catalogue:
            catalogue.set_group_state(group.project, group.name, group.version, state)
        self._forget(group.project)

    def _forget(self, project: ProjectName) -> None:
        with self._lock:
            self._known.pop(project, None)

    def _entered(self, caller: Caller, project: ProjectName, document: Mapping[str, Any], partitions: int) -> StoredGroup:
        """Return the catalogue's entry for `document`, made now or by an earlier attempt."""
        name = parse_group(str(document.get("name", "")))
        with self._repository.transaction() as catalogue:
            newest = catalogue.newest_version(project, name)
            version = document.get("version")
            if version is None:
                # An attempt that was interrupted before it could tell its version is taken up again, if it was for the same.
                begun = catalogue.group(project, name, newest)
                again = begun is not None and begun.state is GroupState.CREATING and begun.created_by == caller.principal.name
                version = newest if again and begun is not None and _same(begun.group, document) else newest + 1
            wanted = group_from(project, document, version)
            known = catalogue.group(project, name, wanted.version)
            if known is None:
                stored = StoredGroup(wanted, partitions, GroupState.CREATING, caller.principal.name, self._clock.now())
                catalogue.add_group(stored)
                self._forget(project)
                return stored
        if known.state in (GroupState.DELETING, GroupState.DELETED):
            raise Conflict(f"{name} version {wanted.version} was deleted and its name is not given out again: create version {newest + 1}")
        if difference := difference_of(known.group, wanted):
            raise Conflict(f"{name} version {wanted.version} exists with another schema: {difference}; create version {newest + 1} for it")
        return known

    def _stream(self, caller: Caller, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None]) -> RowStream:
        return RowStream(schema, self._in_turn(batches), self._access(caller))

    def _access(self, caller: Caller) -> Callable[[], None]:
        """Return what raises `Unauthenticated` once the caller's access has ended."""
        return lambda: self._ended.require_none(caller)

    def _in_turn(self, batches: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
        """Yield `batches` while holding one of the few turns: each reader may take a gibibyte."""
        if not self._turns.acquire(timeout=_TURN_SECONDS):
            raise LimitExceeded("too many tables are being read at this moment: try again later")
        try:
            with closing(batches):
                yield from batches
        finally:
            self._turns.release()

    def _held(self, group: FeatureGroup) -> _HeldTable:
        with self._lock:
            held = self._tables.get((group.project, group.dataset))
            if held is None:
                held = self._tables[(group.project, group.dataset)] = _HeldTable(OfflineTable(self._warehouse, group))
        return held


class _HeldTable:
    """A group's table with what is known of it, read again only where the log has grown. Thread-safe."""

    def __init__(self, table: OfflineTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        # Files, by name, among which no row is a repeat, and files among which one is: each commit adds few to them.
        self._single: frozenset[str] = frozenset()
        self._repeated: frozenset[str] = frozenset()

    def create(self) -> None:
        with self._lock:
            self._table.create()

    def pinned(self, *, look: bool = False) -> PinnedTable:
        """Return the newest version; with `look`, also whether it has no repeats, unless a great deal of it is new."""
        with self._lock:
            found = self._table.snapshot()
            single = look and self._is_single(found.files)
        return PinnedTable(self._table.group, found.version, self._paths(found.files), single)

    def _is_single(self, files: Mapping[str, DataFile]) -> bool:
        if self._repeated and self._repeated <= files.keys():
            return False
        new = files.keys() - self._single
        if sum(files[name].rows for name in new) > _MOST_LOOKED_AT:
            return False
        kept = files.keys() & self._single
        if new and has_repeats(self._table.group, self._paths(new), self._paths(kept)):
            self._repeated = frozenset(files)
            return False
        self._single, self._repeated = frozenset(files), frozenset()
        return True

    def _paths(self, names: Iterable[str]) -> tuple[Path, ...]:
        return tuple(self._table.path / name for name in names)

    def offsets(self) -> dict[int, int]:
        with self._lock:
            return _offsets(self._table.snapshot())

    def newest_event_time(self) -> datetime | None:
        with self._lock:
            found = self._table.snapshot()
        newest = max((file.max_event_time for file in found.files.values() if file.max_event_time), default=None)
        return datetime.fromisoformat(newest) if newest else None

    def progress(self) -> Progress:
        with self._lock:
            found = self._table.snapshot()
            progress = self._table.progress()
        return Progress(
            rows=progress.rows,
            repeats=progress.repeats,
            records=progress.records,
            rejected=progress.rejected,
            deletions=progress.deletions,
            offsets=_offsets(found),
            table_version=found.version,
            newest_event_time=progress.newest_event_time,
        )


def _offsets(found: Snapshot) -> dict[int, int]:
    # A group's topic is made once and never again under its name, so there is one topic id.
    return dict(sorted((int(app.rpartition("/")[2]), offset) for app, offset in found.transactions.items()))


def has_repeats(group: FeatureGroup, new: Sequence[Path], kept: Sequence[Path]) -> bool:
    """Return whether a row of the files `new` repeats one of them or of the files `kept`, which are read as far as event times meet."""
    identity = listed((*group.key_columns, group.event_time))
    repeated = (
        f"SELECT {identity} FROM new GROUP BY ALL HAVING count(*) > 1 "  # noqa: S608  # quoted names
        f"UNION ALL SELECT {identity} FROM kept SEMI JOIN new USING ({identity})"
    )
    with engine() as connection:
        define_stored(connection, "new", new, group.table_schema())
        define_stored(connection, "kept", kept, group.table_schema())
        return connection.execute(f"SELECT 1 FROM ({repeated}) LIMIT 1").fetchone() is not None  # noqa: S608  # quoted names


def difference_of(found: FeatureGroup, wanted: FeatureGroup) -> str:
    """Return in words where `wanted` differs from `found` in what records and rows are made of; empty where it does not."""
    differences = []
    for what, one, other in (
        ("its primary key", ", ".join(found.key_columns), ", ".join(wanted.key_columns)),
        ("its event time", found.event_time, wanted.event_time),
        ("online rows", found.online_enabled, wanted.online_enabled),
        ("ttl_seconds", found.ttl_seconds, wanted.ttl_seconds),
    ):
        if one != other:
            differences.append(f"{what} is {one}, not {other}" if what != "online rows" else f"online rows are {'on' if one else 'off'}")
    if missing := [name for name in wanted.types if name not in found.types]:
        differences.append(f"it has no {', '.join(missing)}")
    if extra := [name for name in found.types if name not in wanted.types]:
        differences.append(f"it also has {', '.join(extra)}")
    changed = [name for name in wanted.types if name in found.types and wanted.types[name] is not found.types[name]]
    differences += [f"{name} is {found.types[name]}, not {wanted.types[name]}" for name in changed]
    if not differences and tuple(found.types) != tuple(wanted.types):
        differences.append(f"its features are in the order {', '.join(found.types)}")
    return "; ".join(differences)


def group_from(project: ProjectName, document: Mapping[str, Any], version: int) -> FeatureGroup:
    """Return the group of `document` at `version`."""
    return group_from_document(project, {**document, "version": version})


def _same(found: FeatureGroup, document: Mapping[str, Any]) -> bool:
    return not difference_of(found, group_from(found.project, document, found.version))


def _open_columns(caller: Caller, stored: StoredGroup) -> frozenset[str]:
    """Return the columns that the caller may see; key and event time are among them, since rows mean nothing without."""
    group = stored.group
    names = columns_of(caller.principal, stored.dataset)
    every = frozenset(feature.name for feature in group.features)
    return every if names is None else every & (names | {*group.key_columns, group.event_time})


def _as_seen_by(caller: Caller, stored: StoredGroup) -> StoredGroup:
    shown = _open_columns(caller, stored)
    if len(shown) == len(stored.group.features):
        return stored
    features = tuple(feature for feature in stored.group.features if feature.name in shown)
    return replace(stored, group=replace(stored.group, features=features))


def _chosen_features(
    caller: Caller, stored: StoredGroup, wanted: tuple[str, ...] | None, known_at: str | None = None
) -> tuple[str, ...] | None:
    """Return the features to read: those that are `wanted`, or all that are open; raises `NotFound` for one that is not."""
    shown = _open_columns(caller, stored)
    if len(shown) == len(stored.group.features):
        return wanted
    if known_at is not None and known_at not in shown:
        raise NotFound(f"feature {known_at} of {stored.group.name} version {stored.group.version} is not there")
    if wanted is None:
        return tuple(feature.name for feature in stored.group.value_features if feature.name in shown)
    if hidden := [name for name in wanted if name not in shown]:
        raise NotFound(f"feature {hidden[0]} of {stored.group.name} version {stored.group.version} is not there")
    return wanted


def _sql_table(name: str, pinned: PinnedTable, columns: frozenset[str]) -> SqlTable:
    group = pinned.group
    shown = tuple(each for each in group.types if each in columns) or (group.event_time,)
    return SqlTable(
        name=name,
        files=pinned.files,
        schema=group.table_schema(),
        columns=shown,
        identity=() if pinned.single else (*group.key_columns, group.event_time),
        newest=() if pinned.single else NEWEST_FIRST,
    )


def _rows(pinned: PinnedTable, schema: pa.Schema, limit: int | None) -> Generator[pa.RecordBatch, None, None]:
    group = pinned.group
    source = "stored" if pinned.single else f"({deduplicated_sql(group, 'stored')})"
    statement = f"SELECT {listed(schema.names)} FROM {source}" + (f" LIMIT {int(limit)}" if limit is not None else "")  # noqa: S608  # quoted names
    with engine(threads=1) as connection:
        define_stored(connection, "stored", pinned.files, group.table_schema())
        try:
            for batch in connection.sql(statement).to_arrow_reader(_BATCH_ROWS):
                yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
        except duckdb.OutOfMemoryException as error:
            raise LimitExceeded("the table is too large to read at once: use SQL with WHERE, or training data") from error


def _read(reader: pa.RecordBatchReader) -> Generator[pa.RecordBatch, None, None]:
    try:
        with reader:
            yield from reader
    except duckdb.OutOfMemoryException as error:
        raise LimitExceeded("the training data need more memory than allowed: ask for fewer labels or groups at a time") from error
