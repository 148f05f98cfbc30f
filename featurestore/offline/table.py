"""The offline table of one feature group: a Delta table that each record reaches exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, FeatureGroup
from featurestore.offline.commit import Action, DataFile, DeltaLog, Snapshot, StaleCommit, add_action, delta_fields, write_data_file
from featurestore.offline.engine import define_stored, engine, listed, quoted
from wardstream.clock import Clock, SystemClock, to_ms
from wardstream.errors import Conflict, Invalid

# Of rows with one identity the one ingested last stays; broker times have milliseconds, so the place in the topic decides ties.
NEWEST_FIRST = (INGESTED_AT, PARTITION, OFFSET)
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TableProgress:
    """How far a table is. `rows + repeats + rejected + deletions == records` holds where nothing was lost or doubled."""

    version: int
    rows: int
    repeats: int
    deletions: int
    records: int
    rejected: int
    newest_event_time: datetime | None


class OfflineTable:
    """The table of `group` under the warehouse `root`; one partition of the topic has one writer at a time.

    Rows are kept in files as they came, not partitioned: replayed recordings span decades, and a folder a day would
    turn one flush into a thousand files. The log's event-time bounds and sorted compaction do what folders would.
    """

    def __init__(self, root: Path, group: FeatureGroup, *, clock: Clock | None = None, log: DeltaLog | None = None) -> None:
        self.group = group
        self.path = root / group.project / group.dataset
        self.schema = group.table_schema()
        self._clock = clock or SystemClock()
        self.log = log or DeltaLog(self.path, self._clock)
        self._distinct: tuple[int, int] = (-1, 0)

    def create(self) -> None:
        """Make the table unless it is there; raises `Conflict` where the one that is there has other columns."""
        self.log.create(self.schema, event_time=self.group.event_time)
        self._fitting(self.log.snapshot())

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Return the newest version, or the one asked for; raises `NotFound`."""
        return self.log.snapshot(version)

    def append(
        self,
        batch: pa.Table,
        *,
        txn: Mapping[str, int],
        counters: Mapping[str, int],
        expected: Mapping[str, int] | None = None,
    ) -> int:
        """Add `batch` (columns of `FeatureGroup.table_schema`) as one version and return it. Durable when it returns.

        `txn` maps `<topic id>/<partition>` to the next offset. `expected` is what the table held for these when the
        batch was cut (absent: 0): raises `StaleCommit`, having written nothing, where it holds something else by now.
        Without `expected` a batch that the table already has is left out, and the version that has it is returned.
        `counters` are added to the table's totals: records, rejected.
        """
        file = write_data_file(self.path, iter(self._cast(batch).to_batches()), self.schema, self.group.event_time)
        return self.commit_file(file, txn=txn, counters=counters, expected=expected)

    def commit_file(
        self, file: DataFile | None, *, txn: Mapping[str, int], counters: Mapping[str, int], expected: Mapping[str, int] | None
    ) -> int:
        """Make a written data file part of the table, by the rules of `append`."""

        def build(found: Snapshot) -> Iterator[Action]:
            self._fitting(found)
            held = {app: found.transactions.get(app, 0) for app in txn}
            if expected is None and all(held[app] >= offset for app, offset in txn.items()):
                raise _AlreadyWritten(found.version)
            if expected is not None and held != {app: expected.get(app, 0) for app in txn}:
                raise StaleCommit(f"the table of {self.group.dataset} moved on while a batch was cut; read its offsets again")
            now = to_ms(self._clock.now())
            for app, offset in sorted(txn.items()):
                yield {"txn": {"appId": app, "version": offset, "lastUpdated": now}}
            if file is not None:
                yield add_action(file, self.group.event_time, now_ms=now)

        try:
            return self.log.commit(build, operation="WRITE", counters=counters)
        except _AlreadyWritten as known:
            return known.version

    def offsets(self, topic_id: str, version: int | None = None) -> dict[int, int]:
        """Return the next offset of each partition of the topic with this id: everything below is in the table."""
        head = f"{topic_id}/"
        found = self.snapshot(version).transactions
        return {int(app.removeprefix(head)): offset for app, offset in found.items() if app.startswith(head)}

    def files(self, version: int | None = None) -> list[Path]:
        """Return the Parquet files of a version."""
        return [self.path / name for name in self.snapshot(version).files]

    def dataset(self, version: int | None = None) -> ds.FileSystemDataset:
        """Return the files of a version as one Arrow dataset, repeats included."""
        return ds.dataset([str(path) for path in self.files(version)], format="parquet", schema=self.schema)

    def read(self, version: int | None = None, columns: Sequence[str] | None = None, *, deduplicated: bool = True) -> pa.Table:
        """Return rows of a version, in no particular order; of repeated rows the one ingested last.

        With `deduplicated=False`, everything that was written. `columns` default to the group's features.
        """
        wanted = list(columns) if columns else [each.name for each in self.group.features]
        if unknown := [name for name in wanted if name not in self.schema.names]:
            raise Invalid(f"{self.group.dataset} has no column {', '.join(unknown)}")
        if not deduplicated:
            return self.dataset(version).to_table(columns=wanted)
        with self._query(version) as connection:
            found = connection.sql(f"SELECT {listed(wanted)} FROM ({deduplicated_sql(self.group, 'stored')})").to_arrow_table()  # noqa: S608  # quoted names
        return found.cast(pa.schema([self.schema.field(name) for name in wanted]))

    def newest(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the row that each entity's online row is made of, in parts of bounded size and no particular order."""
        order = ", ".join(f"{quoted(name)} DESC" for name in (self.group.event_time, *NEWEST_FIRST))
        entity = listed(self.group.key_columns)
        statement = f"SELECT {listed(columns)} FROM stored QUALIFY row_number() OVER (PARTITION BY {entity} ORDER BY {order}) = 1"  # noqa: S608  # quoted names
        schema = pa.schema([self.schema.field(name) for name in columns])
        with self._query(None) as connection:
            for batch in connection.sql(statement).to_arrow_reader(_BATCH_ROWS):
                yield pa.Table.from_batches([batch]).cast(schema)

    def rows(self, version: int | None = None) -> int:
        """Return the number of different rows; counted from the data, and once for each version."""
        found = self.snapshot(version)
        if self._distinct[0] != found.version:
            self._distinct = (found.version, self._count(found.version))
        return self._distinct[1]

    def repeats(self, version: int | None = None) -> int:
        """Return how many records repeated a row of the table, those that compaction has removed included."""
        found = self.snapshot(version)
        return sum(file.rows for file in found.files.values()) - self.rows(version) + found.counters.get("repeats_removed", 0)

    def progress(self) -> TableProgress:
        """Return how far the table is."""
        found = self.snapshot()
        newest = max((file.max_event_time for file in found.files.values() if file.max_event_time), default=None)
        return TableProgress(
            version=found.version,
            rows=self.rows(found.version),
            repeats=self.repeats(found.version),
            deletions=found.counters.get("deletions", 0),
            records=found.counters.get("records", 0),
            rejected=found.counters.get("rejected", 0),
            newest_event_time=datetime.fromisoformat(newest) if newest else None,
        )

    def _count(self, version: int) -> int:
        identity = listed((*self.group.key_columns, self.group.event_time))
        with self._query(version) as connection:
            found = connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT {identity} FROM stored)").fetchone()  # noqa: S608  # quoted names
        return int(found[0]) if found else 0

    @contextmanager
    def _query(self, version: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
        with engine() as connection:
            define_stored(connection, "stored", self.files(version), self.schema)
            yield connection

    def _cast(self, batch: pa.Table) -> pa.Table:
        try:
            return batch.select(self.schema.names).cast(self.schema)
        except (KeyError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
            raise Invalid(f"the batch does not fit the table of {self.group.dataset}; validate it first", error=str(error)) from error

    def _fitting(self, found: Snapshot) -> None:
        if found.fields != delta_fields(self.schema):
            raise Conflict(f"the offline table of {self.group.dataset} has other columns than its feature group")


class _AlreadyWritten(Exception):  # carries an answer, not a failure
    def __init__(self, version: int) -> None:
        self.version = version


def deduplicated_sql(group: FeatureGroup, source: str) -> str:
    """Return SQL for the rows of `source` (a view of the offline table) without repeats."""
    identity = listed((*group.key_columns, group.event_time))
    newest = ", ".join(f"{quoted(name)} DESC" for name in NEWEST_FIRST)
    return f"SELECT * FROM {quoted(source)} QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {newest}) = 1"  # noqa: S608  # quoted names
