"""What happens to the records of a feature group's topic: online soon, offline durably, each exactly once in the table.

    batch, rejects = assemble(group, decode_batch(values, catalogue, reader=record_schema(group)), ...)
    sink.accept(batch)                             # what the table already has is left out
    if online_due(...):  sink.write_online()
    if offline_due(...): produce and flush the rejects' dead letters, then sink.flush_offline(), then commit Kafka's offsets

Killed anywhere and started again from `offsets()`, or from any earlier offset, this ends with the same table and the same
online rows. The caller decides when; one sink serves the partitions that one consumer owns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.ingest import validate
from featurestore.model import INGESTED_AT, OFFSET, PARTITION, FeatureGroup
from featurestore.offline.commit import StaleCommit
from featurestore.offline.table import OfflineTable
from featurestore.online.store import OnlineStore
from schemas.decode import DecodedBatch, Reject
from wardstream.errors import NotFound

# Redis is called for thousands of rows at a time, or a single one would cost what a thousand do; 100 ms are what a reader waits.
_ONLINE_RECORDS, _ONLINE_SECONDS = 10_000, 0.1
# A commit costs five forced writes, about as much as decoding 10,000 records.
_OFFLINE_RECORDS, _OFFLINE_SECONDS = 65_536, 5.0


def online_due(now: float, buffered: int, since: float) -> bool:
    """Return whether `buffered` records, the first of which came at `since`, go online now; seconds of any one clock."""
    return buffered > 0 and (buffered >= _ONLINE_RECORDS or now - since >= _ONLINE_SECONDS)


def offline_due(now: float, buffered: int, since: float, *, asked: bool = False) -> bool:
    """Return whether `buffered` records go into the table now; `asked`: an insert waits for them."""
    return buffered > 0 and (asked or buffered >= _OFFLINE_RECORDS or now - since >= _OFFLINE_SECONDS)


@dataclass(frozen=True)
class Batch:
    """Consumed records: rows that fit (columns of `FeatureGroup.table_schema`), where the others were, where to go on."""

    rows: pa.Table
    rejected: tuple[tuple[int, int], ...]
    next_offsets: Mapping[int, int]


@dataclass(frozen=True)
class Flushed:
    """A durable state: the table's version, and the offsets to commit, below which nothing needs to be read again."""

    version: int
    next_offsets: Mapping[int, int]


def assemble(
    group: FeatureGroup,
    decoded: DecodedBatch,
    *,
    partitions: Sequence[int],
    offsets: Sequence[int],
    timestamps_ms: Sequence[int],
    now: datetime,
) -> tuple[Batch, tuple[Reject, ...]]:
    """Return decoded records as a batch, and the rejects of decoding and validation for their dead letters.

    Place and broker time of record i are element i of the three sequences, `decoded` being made of the same records in order.
    """
    places, positions, times = (np.asarray(each, np.int64) for each in (partitions, offsets, timestamps_ms))
    rows_of = decoded.row_of
    table = decoded.table
    for name, column in (
        (INGESTED_AT, pa.array(times[rows_of], pa.timestamp("ms", tz="UTC"))),
        (PARTITION, pa.array(places[rows_of].astype(np.int32))),
        (OFFSET, pa.array(positions[rows_of])),
    ):
        table = table.append_column(name, column)
    valid = validate(group, table, now=now)
    refused = tuple(Reject(int(rows_of[each.index]), each.reason) for each in valid.rejects)
    rejects = tuple(sorted((*decoded.rejects, *refused), key=lambda each: each.index))
    rejected = tuple((int(places[each.index]), int(positions[each.index])) for each in rejects)
    following = {int(place): int(positions[places == place].max()) + 1 for place in np.unique(places)}
    return Batch(valid.table, rejected, following), rejects


class FeatureSink:
    """Both stores of one feature group. Not thread-safe; other sinks may write other partitions of the same topic."""

    def __init__(self, group: FeatureGroup, table: OfflineTable, online: OnlineStore | None, *, topic_id: str) -> None:
        self._group = group
        self._table = table
        self._online = online
        self._topic_id = topic_id
        self._held = table.offsets(topic_id)
        self._waiting_online: list[pa.Table] = []
        self._rows: list[pa.Table] = []
        self._rejected: list[tuple[int, int]] = []
        self._next: dict[int, int] = {}

    @property
    def buffered(self) -> int:
        """How many records wait for the table."""
        return _length(self._rows) + len(self._rejected)

    @property
    def buffered_online(self) -> int:
        """How many rows wait for the online store."""
        return _length(self._waiting_online)

    def offsets(self) -> dict[int, int]:
        """Return the next offset of each partition that the table knew when last asked: where to begin after a start."""
        return dict(self._held)

    def accept(self, batch: Batch) -> int:
        """Take the batch into both buffers but for what the table already has; returns how many records were new."""
        seen = {place: max(self._held.get(place, 0), self._next.get(place, 0)) for place in batch.next_offsets}
        rows, rejected = _after(seen, batch.rows), _places_after(seen, batch.rejected)
        if rows.num_rows:
            self._rows.append(rows)
            if self._online is not None:
                self._waiting_online.append(rows)
        self._rejected += rejected
        for partition, offset in batch.next_offsets.items():
            self._next[partition] = max(offset, self._next.get(partition, 0))
        return _length([rows]) + len(rejected)

    def write_online(self) -> int:
        """Write what waits for the online store; returns how many entities got a newer row.

        Raises `Unavailable` with the rows still waiting; calling again is harmless.
        """
        if self._online is None or not self._waiting_online:
            return 0
        written = self._online.put_many(self._group, pa.concat_tables(self._waiting_online))
        self._waiting_online = []
        return written

    def flush_offline(self) -> Flushed:
        """Make all that was accepted durable in the table, online first; the dead letters of its rejects must be out before.

        Online first, because what the table has is never read again. Where another sink has written some of it in
        between (a partition changed hands), that part is left out. Raises `Unavailable` with nothing lost.
        """
        self.write_online()
        while True:
            news = {place: offset for place, offset in self._next.items() if offset > self._held.get(place, 0)}
            if not news:
                self._forget()
                return Flushed(self._table.snapshot().version, dict(self._held))
            rows = pa.concat_tables(self._rows) if self._rows else self._table.schema.empty_table()
            try:
                version = self._table.append(
                    rows,
                    txn={self._app(place): offset for place, offset in news.items()},
                    counters={"records": rows.num_rows + len(self._rejected), "rejected": len(self._rejected)},
                    expected={self._app(place): self._held.get(place, 0) for place in news},
                )
            except StaleCommit:
                self._held = self._table.offsets(self._topic_id)
                self._rows = [kept for each in self._rows if (kept := _after(self._held, each)).num_rows]
                self._rejected = _places_after(self._held, self._rejected)
                continue
            self._held.update(news)
            self._forget()
            return Flushed(version, dict(self._held))

    def _forget(self) -> None:
        self._rows, self._rejected, self._next = [], [], {}

    def _app(self, partition: int) -> str:
        return f"{self._topic_id}/{partition}"


def _length(tables: Iterable[pa.Table]) -> int:
    return sum(int(each.num_rows) for each in tables)


def _after(seen: Mapping[int, int], rows: pa.Table) -> pa.Table:
    """Return the rows at or behind the offsets `seen`."""
    places: npt.NDArray[np.int32] = rows[PARTITION].to_numpy()
    offsets: npt.NDArray[np.int64] = rows[OFFSET].to_numpy()
    known = np.zeros(rows.num_rows, np.bool_)
    for partition, offset in seen.items():
        known |= (places == partition) & (offsets < offset)
    return rows.filter(pa.array(~known)) if known.any() else rows


def _places_after(seen: Mapping[int, int], places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(partition, offset) for partition, offset in places if offset >= seen.get(partition, 0)]


class MarkedStore(OnlineStore, Protocol):
    """An online store that can tell whether it lost data: it keeps a mark of each group among its rows."""

    def mark(self, group: FeatureGroup) -> int | None:
        """Return what was set last; None where nothing was, or where it is lost."""
        ...

    def set_mark(self, group: FeatureGroup, mark: int) -> None:
        """Set the mark of a group, behind all rows that were written before."""
        ...

    def remove_many(self, group: FeatureGroup, entities: pa.Table) -> int:
        """Remove the group's rows of the entities whose key columns `entities` has, and return how many there were."""
        ...

    def remove_mark(self, group: FeatureGroup) -> None:
        """Remove the mark of a group."""
        ...


class OnlineCopy:
    """Keeps the online rows of one table whole, also when the store lost its newest writes or all of its data. Not thread-safe.

    The mark is how many records the table had when all of them were online. A store that loses writes loses the newest
    first, so that it has them as long as the mark is there.
    """

    def __init__(self, table: OfflineTable, online: MarkedStore) -> None:
        self._table, self._online = table, online
        self._known: int | None = None

    def keep(self, told: Callable[[int], None] = lambda _: None) -> int | None:
        """Write all online rows anew if the store may lack any; returns how many it lacked, or None where the mark is there.

        To be called when nothing waits for the table: at the start, after each flush, and now and then. `told` hears how
        many entities are done. Raises `Unavailable`; calling again is harmless.
        """
        group = self._table.group
        records = self._table.snapshot().counters.get("records", 0)
        mark = self._online.mark(group)
        written = None
        if mark is None or mark < (records if self._known is None else self._known):
            written = rebuild_online(self._table, self._online, told)
            mark = None
        if mark is None or mark < records:
            self._online.set_mark(group, records)
        self._known = max(mark or 0, records)
        return written


def rebuild_online(table: OfflineTable, online: OnlineStore, told: Callable[[int], None] = lambda _: None) -> int:
    """Write the newest offline row of each entity online, for a store that lost its data; returns how many were written."""
    written = done = 0
    for part in table.newest([*table.group.types, INGESTED_AT, PARTITION, OFFSET]):
        written += online.put_many(table.group, part)
        done += part.num_rows
        told(done)
    return written


def remove_online(table: OfflineTable, online: MarkedStore) -> int:
    """Remove the online rows of all entities of `table`, before it is removed itself; returns how many there were."""
    removed = 0
    with suppress(NotFound):  # removed by an attempt that was interrupted later
        for part in table.newest(table.group.key_columns):
            removed += online.remove_many(table.group, part)
    online.remove_mark(table.group)
    return removed
