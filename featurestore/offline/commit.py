"""The log of one Delta table: what is in it, and the only way to add to it.

An entry is a file that exists whole or not at all: written aside, forced to disk, linked to its name and then forced
into its folder. A link fails where the name is taken, so of two writers one gets the version and the other reads what
the first one did before it tries again. `deltalake` writes checkpoints; its own commits grow with the number of files.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from wardstream.clock import Clock, SystemClock, to_ms
from wardstream.errors import Conflict, NotFound, Unavailable

logger = logging.getLogger(__name__)

Action = dict[str, Any]

# The protocol that every engine can read: no deletion vectors, no column mapping, no features.
_READER, _WRITER = 1, 2
_COUNTERS = "wardstream"
# With a checkpoint this often a reader replays at most so many entries, and a checkpoint costs tens of milliseconds.
_CHECKPOINT_EVERY = 100


class StaleCommit(Conflict):
    """What the commit was built on is no longer so; read the table again and decide anew. Nothing was written."""

    code = "stale-commit"


@dataclass(frozen=True)
class DataFile:
    """One live Parquet file. Event times are as the log has them, milliseconds, or None where the file states none."""

    path: str
    size: int
    rows: int
    min_event_time: str | None = None
    max_event_time: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A table at one version. `counters` are totals since the table began, kept by our own commits."""

    version: int
    files: Mapping[str, DataFile]
    transactions: Mapping[str, int]
    counters: Mapping[str, int]
    fields: tuple[tuple[str, str], ...]
    event_time: str | None


@dataclass
class _State:
    """A snapshot under construction."""

    version: int = -1
    files: dict[str, DataFile] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()
    event_time: str | None = None

    def apply(self, action: Mapping[str, Any]) -> None:
        """Take one action of the log over."""
        if (add := action.get("add")) is not None:
            self.files[add["path"]] = _data_file(add, self.event_time)
        elif (remove := action.get("remove")) is not None:
            self.files.pop(remove["path"], None)
        elif (txn := action.get("txn")) is not None:
            self.transactions[txn["appId"]] = txn["version"]
        elif (info := action.get("commitInfo")) is not None:
            self.counters = dict(info.get(_COUNTERS, self.counters))
        elif (metadata := action.get("metaData")) is not None:
            self.fields = tuple((each["name"], json.dumps(each["type"])) for each in json.loads(metadata["schemaString"])["fields"])
            self.event_time = (metadata.get("configuration") or {}).get("wardstream.eventTime")
        elif (protocol := action.get("protocol")) is not None and (
            protocol["minReaderVersion"] > _READER or protocol["minWriterVersion"] > _WRITER
        ):
            raise Conflict(
                f"the table asks for Delta protocol {protocol['minReaderVersion']}/{protocol['minWriterVersion']}; only {_READER}/{_WRITER} is kept here"
            )

    def snapshot(self) -> Snapshot:
        """Return a copy that later changes do not reach."""
        return Snapshot(self.version, dict(self.files), dict(self.transactions), dict(self.counters), self.fields, self.event_time)


class DeltaLog:
    """The log of the table in `folder`. Instances of several processes may read and commit at the same time."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self._log = folder / "_delta_log"
        self._clock = clock or SystemClock()
        self._state = _State()

    def create(self, schema: pa.Schema, *, event_time: str) -> bool:
        """Make the table unless it is there; returns whether this call made it. Durable when it returns."""
        if self._entry(0).exists():
            return False
        self._log.mkdir(parents=True, exist_ok=True)
        now = to_ms(self._clock.now())
        made = self._put_if_absent(
            0,
            [
                {"commitInfo": {"timestamp": now, "operation": "CREATE TABLE", "engineInfo": "wardstream", _COUNTERS: {}}},
                {"protocol": {"minReaderVersion": _READER, "minWriterVersion": _WRITER}},
                {
                    "metaData": {
                        "id": str(uuid.uuid4()),
                        "format": {"provider": "parquet", "options": {}},
                        "schemaString": json.dumps({"type": "struct", "fields": [_delta_field(each) for each in schema]}),
                        "partitionColumns": [],
                        "configuration": {"wardstream.eventTime": event_time},
                        "createdTime": now,
                    }
                },
            ],
        )
        for each in (self.folder, self.folder.parent, self.folder.parent.parent):
            fsync_folder(each)
        return made

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Return the newest version, or the one asked for; raises `NotFound` where there is none."""
        if version is not None:
            state = self._state if version == self._state.version else self._loaded(up_to=version)
            if state.version != version:
                raise NotFound(f"the table has no version {version}; the newest is {self.snapshot().version}")
            return state.snapshot()
        self._refresh()
        if self._state.version < 0:
            raise NotFound("the offline table does not exist yet")
        return self._state.snapshot()

    def commit(self, build: Callable[[Snapshot], Iterable[Action]], *, operation: str, counters: Mapping[str, int] | None = None) -> int:
        """Add the actions that `build` returns for the newest snapshot as one version, and return it.

        `build` is called again whenever another writer was first; it raises `StaleCommit` where its work no longer
        fits, and then nothing is written. `counters` are added to the table's totals. Durable when it returns.
        """
        while True:
            found = self.snapshot()
            actions = list(build(found))
            totals = dict(found.counters)
            for name, count in (counters or {}).items():
                totals[name] = totals.get(name, 0) + count
            now = to_ms(self._clock.now())
            info = {"timestamp": now, "operation": operation, "engineInfo": "wardstream", _COUNTERS: totals}
            version = found.version + 1
            if self._put_if_absent(version, [{"commitInfo": info}, *actions]):
                break
        if version % _CHECKPOINT_EVERY == 0:
            self._checkpoint()
        return version

    def removed_since(self, moment: datetime) -> set[str]:
        """Return the files that were taken out of the table at `moment` or later, and are there for readers of what was before."""
        found: set[str] = set()
        for version in range(self.snapshot().version, -1, -1):
            actions = [orjson.loads(line) for line in self._entry(version).read_bytes().splitlines() if line.strip()]
            if any(info["timestamp"] < to_ms(moment) for each in actions if (info := each.get("commitInfo")) is not None):
                break
            found |= {each["remove"]["path"] for each in actions if "remove" in each}
        return found

    def _checkpoint(self) -> None:
        try:
            DeltaTable(self.folder).create_checkpoint()
        except Exception:  # a checkpoint only saves time; the entries alone say everything
            logger.warning("checkpoint of an offline table failed", exc_info=True, extra={"table": self.folder.name})

    def _entry(self, version: int) -> Path:
        return self._log / f"{version:020d}.json"

    def _put_if_absent(self, version: int, actions: Iterable[Action]) -> bool:
        aside = self._log / f".tmp-{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as out:
                out.write(b"\n".join(orjson.dumps(action) for action in actions) + b"\n")
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(aside, self._entry(version))
            except FileExistsError:
                return False
            finally:
                aside.unlink()
            fsync_folder(self._log)
        except OSError as error:
            raise Unavailable("the offline table cannot be written; is the disk full?", error=str(error)) from error
        return True

    def _refresh(self) -> None:
        if self._state.version < 0:
            self._state = self._loaded()
        else:
            # On a copy: a damaged entry must not leave half of itself in what is kept.
            self._state = self._replayed(_copy(self._state))

    def _loaded(self, *, up_to: int | None = None) -> _State:
        return self._replayed(self._from_checkpoint(up_to) or _State(), up_to=up_to)

    def _replayed(self, state: _State, *, up_to: int | None = None) -> _State:
        while up_to is None or state.version < up_to:
            try:
                content = self._entry(state.version + 1).read_bytes()
            except FileNotFoundError:
                break
            for line in content.splitlines():
                if line.strip():
                    state.apply(orjson.loads(line))
            state.version += 1
        return state

    def _from_checkpoint(self, up_to: int | None) -> _State | None:
        # Whatever is wrong with a checkpoint, which nobody forced to disk: the entries say all that it does.
        try:
            last = orjson.loads((self._log / "_last_checkpoint").read_bytes())
            version = last["version"]
            if last.get("parts") or (up_to is not None and version > up_to):
                return None
            found = pq.read_table(self._log / f"{version:020d}.checkpoint.parquet", columns=["protocol", "metaData", "add", "txn"])
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, orjson.JSONDecodeError) as error:
            logger.warning("checkpoint of an offline table is done without", extra={"table": self.folder.name, "error": str(error)})
            return None
        state = _State(version=version)
        # The metadata come first: files' statistics are read by the name of the event time.
        for kind in ("protocol", "metaData", "add", "txn"):
            for value in found[kind].drop_null().to_pylist():
                state.apply({kind: _with_maps(value)})
        state.counters = dict(self._counters_before(version))
        return state

    def _counters_before(self, version: int) -> Mapping[str, int]:
        """Checkpoints leave commitInfo out, so the totals come from the newest entry of ours; entries are never removed."""
        for number in range(version, -1, -1):
            for line in self._entry(number).read_bytes().splitlines():
                if _COUNTERS.encode() in line and _COUNTERS in (info := orjson.loads(line).get("commitInfo", {})):
                    found: Mapping[str, int] = info[_COUNTERS]
                    return found
        return {}


def write_data_file(folder: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema, event_time: str) -> DataFile | None:
    """Write `batches` as one Parquet file of the table in `folder`; None where they hold no row.

    Durable when it returns, and invisible until a commit adds it: a file that no commit names does no harm.
    """
    name, rows = f"part-{uuid.uuid4().hex}.parquet", 0
    first: Any = None
    last: Any = None
    # Measurements repeat too little for a dictionary to pay; identifiers repeat a lot.
    texts = [each.name for each in schema if pa.types.is_string(each.type)]
    path = folder / name
    try:
        with path.open("xb") as out:
            with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=texts) as writer:
                for batch in batches:
                    if batch.num_rows:
                        writer.write_batch(batch, row_group_size=_ROW_GROUP)
                        rows += batch.num_rows
                        times = batch.column(event_time)
                        bounds = pc.min_max(times.cast(pa.int64())).as_py()
                        first = bounds["min"] if first is None else min(first, bounds["min"])
                        last = bounds["max"] if last is None else max(last, bounds["max"])
            out.flush()
            os.fsync(out.fileno())
        if rows:
            fsync_folder(folder)
            return DataFile(name, path.stat().st_size, rows, _iso(first, up=False), _iso(last, up=True))
        path.unlink()
        return None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Unavailable("the offline table cannot be written; is the disk full?", error=str(error)) from error


def add_action(file: DataFile, event_time: str, *, now_ms: int, data_change: bool = True) -> Action:
    """Return the action that makes `file` part of the table. Of the values only event times are in the log, which is plain text."""
    stats = {"numRecords": file.rows, "minValues": {event_time: file.min_event_time}, "maxValues": {event_time: file.max_event_time}}
    return {
        "add": {
            "path": file.path,
            "partitionValues": {},
            "size": file.size,
            "modificationTime": now_ms,
            "dataChange": data_change,
            "stats": json.dumps(stats),
        }
    }


def remove_action(file: DataFile, *, now_ms: int, data_change: bool = True) -> Action:
    """Return the action that takes `file` out of the table; it stays on disk for readers of older versions."""
    return {
        "remove": {
            "path": file.path,
            "deletionTimestamp": now_ms,
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": file.size,
        }
    }


def fsync_folder(folder: Path) -> None:
    """Force the names in `folder` to disk; without it a file's bytes may outlive its name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delta_fields(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Return names and types of `schema` as `Snapshot.fields` has them."""
    return tuple((each["name"], json.dumps(each["type"])) for each in map(_delta_field, schema))


# What engines expect of a row group, and what ASOF joins and small cohorts were measured with.
_ROW_GROUP = 122_880

_DELTA_TYPES: dict[pa.DataType, str] = {
    pa.string(): "string",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.timestamp("us", tz="UTC"): "timestamp",
}


def _delta_field(each: pa.Field) -> dict[str, Any]:
    return {"name": each.name, "type": _DELTA_TYPES[each.type], "nullable": each.nullable, "metadata": {}}


def _data_file(add: Mapping[str, Any], event_time: str | None) -> DataFile:
    stats = json.loads(add.get("stats") or "{}")
    bounds = [(stats.get(side) or {}).get(event_time) for side in ("minValues", "maxValues")]
    return DataFile(add["path"], add["size"], stats.get("numRecords", 0), *bounds)


def _iso(microseconds: int, *, up: bool) -> str:
    """Return the time as the protocol writes it, milliseconds; a maximum is rounded up so that it stays one."""
    milliseconds = -(-microseconds // 1000) if up else microseconds // 1000
    moment = pa.scalar(milliseconds, pa.timestamp("ms", tz="UTC")).as_py()
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def _with_maps(value: Mapping[str, Any]) -> dict[str, Any]:
    """Arrow gives a map as a list of pairs."""
    return {
        key: dict(inner) if isinstance(inner, list) and inner and isinstance(inner[0], tuple) else inner for key, inner in value.items()
    }


def _copy(state: _State) -> _State:
    return replace(state, files=dict(state.files), transactions=dict(state.transactions), counters=dict(state.counters))
