"""Many small files rewritten as one, sorted and without repeats; readers of the newest version see the same rows before and after."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.model import FeatureGroup
from featurestore.offline.commit import Action, DataFile, Snapshot, StaleCommit, add_action, remove_action, write_data_file
from featurestore.offline.engine import define_stored, engine, listed
from featurestore.offline.table import NEWEST_FIRST, OfflineTable
from wardstream.clock import Clock, SystemClock, to_ms

logger = logging.getLogger(__name__)

# Queries open every file: 1,000 of them cost twenty times what one does. A rewrite costs its rows, so full files are left alone.
_MANY_FILES = 64
_FULL_FILE_ROWS = 4_000_000
_BATCH_ROWS = 122_880
_KEPT = timedelta(days=1)


@dataclass(frozen=True)
class Compacted:
    """What one compaction did."""

    version: int
    files: int
    rows: int
    repeats: int


def files_to_compact(files: Iterable[DataFile], *, many: int = _MANY_FILES, full_rows: int = _FULL_FILE_ROWS) -> list[DataFile]:
    """Return the files to rewrite as one, once they are many; else none.

    Left out are full ones, and those larger than all smaller ones together: so a row is rewritten at most once for each
    doubling of its file, and what is left out is a few files.
    """
    small = sorted((file for file in files if file.rows < full_rows), key=lambda file: file.rows)
    rows = sum(file.rows for file in small)
    while small and small[-1].rows > rows - small[-1].rows:
        rows -= small.pop().rows
    return small if len(small) >= max(many, 2) else []


def compact(
    table: OfflineTable, *, many: int = _MANY_FILES, memory_mb: int = 1024, threads: int | None = None, clock: Clock | None = None
) -> Compacted | None:
    """Rewrite the small files of `table` where they are many; None where there is nothing to do.

    The new file is sorted by key and event time; of repeats within the rewritten files the one ingested last stays and
    the others are added to the table's counter `repeats_removed`. Appends may go on meanwhile; where another compaction
    was first, nothing is changed. The old files stay on disk for readers of older versions, until `vacuum`. Durable when it returns.
    """
    found = table.snapshot()
    chosen = files_to_compact(found.files.values(), many=many)
    if not chosen:
        return None
    group, now = table.group, to_ms((clock or SystemClock()).now())
    with engine(memory_mb=memory_mb, threads=threads) as connection:
        define_stored(connection, "stored", [table.path / file.path for file in chosen], table.schema)
        # Of one identity the row that stays comes last, so that one look at the next row tells.
        order = listed((*group.key_columns, group.event_time, *NEWEST_FIRST))
        reader = connection.sql(f"SELECT {listed(table.schema.names)} FROM stored ORDER BY {order}").to_arrow_reader(_BATCH_ROWS)  # noqa: S608
        file = write_data_file(table.path, last_of_each(group, reader, table.schema), table.schema, group.event_time)
    if file is None:
        return None
    repeats = sum(each.rows for each in chosen) - file.rows

    def build(newest: Snapshot) -> Iterator[Action]:
        if any(each.path not in newest.files for each in chosen):
            raise StaleCommit(f"files of {group.dataset} were rewritten by somebody else meanwhile")
        for each in chosen:
            yield remove_action(each, now_ms=now, data_change=False)
        yield add_action(file, group.event_time, now_ms=now, data_change=False)

    try:
        version = table.log.commit(build, operation="OPTIMIZE", counters={"repeats_removed": repeats})
    except StaleCommit:
        (table.path / file.path).unlink(missing_ok=True)
        return None
    return Compacted(version, len(chosen), file.rows, repeats)


def vacuum(table: OfflineTable, *, clock: Clock | None = None) -> int:
    """Remove the files of `table` that no version of the last day has, and return how many.

    A day is longer than anybody reads one version; older versions than that cannot be read from then on. Files that
    never became part of the table, because their writer was killed, go with them.
    """
    since = (clock or SystemClock()).now() - _KEPT
    old = [path for path in table.path.glob("part-*.parquet") if path.stat().st_mtime < since.timestamp()]
    if not old:
        return 0
    kept = set(table.snapshot().files) | table.log.removed_since(since)
    unused = [path for path in old if path.name not in kept]
    for path in unused:
        path.unlink(missing_ok=True)
    return len(unused)


class Compactor:
    """Compacts the tables of one process beside their writers: one table at a time, on one thread, within a bound of memory.

    After a compaction the files go that no version of the last day has.
    """

    def __init__(self, *, many: int = _MANY_FILES, memory_mb: int = 512) -> None:
        self._many, self._memory_mb = many, memory_mb
        self._waiting: queue.Queue[OfflineTable | None] = queue.Queue()
        self._known: set[Path] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)
        self._thread.start()

    def consider(self, table: OfflineTable) -> None:
        """Compact `table` soon if its small files are many; call it after each flush. Returns at once."""
        with self._lock:
            if table.path in self._known:
                return
            self._known.add(table.path)
        self._waiting.put(table)

    def close(self) -> None:
        """Return when what is under way is done; what waits is left for another time."""
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (table := self._waiting.get()) is not None:
            with self._lock:
                self._known.discard(table.path)
            try:
                # A table of its own: the writer's is used by the writer's thread.
                own = OfflineTable(table.path.parent.parent, table.group)
                if (done := compact(own, many=self._many, memory_mb=self._memory_mb, threads=1)) is not None:
                    logger.info("compacted", extra={"table": table.group.dataset, **asdict(done), "removed": vacuum(own)})
            except Exception:  # only speed is lost, and the next flush asks again
                logger.exception("compaction failed", extra={"table": table.group.dataset})


def last_of_each(group: FeatureGroup, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Return the sorted rows of `batches` but for those that the next row repeats, across the borders of batches too."""
    identity = (*group.key_columns, group.event_time)
    held: pa.RecordBatch | None = None
    for each in batches:
        batch = each.cast(schema)
        if not batch.num_rows:
            continue
        if held is not None:
            yield from _without_repeats(held, batch.slice(0, 1), identity)
        held = batch
    if held is not None:
        yield from _without_repeats(held, None, identity)


def _without_repeats(batch: pa.RecordBatch, following: pa.RecordBatch | None, identity: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """`following` is the row behind the batch, where there is one."""
    same: npt.NDArray[np.bool_] = np.ones(batch.num_rows if following is not None else batch.num_rows - 1, np.bool_)
    for name in identity:
        column = batch.column(name)
        behind = column.slice(1)
        if following is not None:
            behind = pa.concat_arrays([behind, following.column(name)])
        same &= pc.equal(column.slice(0, len(behind)), behind).to_numpy(zero_copy_only=False)
    last = np.append(~same, True) if following is None else ~same
    kept = batch if last.all() else batch.filter(pa.array(last))
    if kept.num_rows:
        yield kept
