"""The feature store: groups, rows, vectors, SQL, training data."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pyarrow as pa

from wardstream.client.transport import Transport, path_part
from wardstream.errors import Invalid, NotFound

_ARROW_STREAM = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Feature:
    """One feature of a group; types: string int bigint float double boolean timestamp."""

    name: str
    type: str
    description: str = ""


@dataclass(frozen=True)
class InsertReport:
    """What became of inserted rows; `rejected` holds (row number, reason)."""

    accepted: int
    rejected: tuple[tuple[int, str], ...]
    materialised: bool


@dataclass(frozen=True)
class FeatureSelection:
    """Features of one group version for a join or a read; `ttl_seconds`: older values count as missing."""

    group: str
    version: int
    features: tuple[str, ...]
    ttl_seconds: int | None = None


class FeatureGroup:
    """One version of a feature group."""

    def __init__(self, transport: Transport, project: str, found: Mapping[str, Any]) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(project)}/feature-groups/{path_part(found['name'])}/{found['version']}"
        self._reading = f"/api/v1/projects/{path_part(project)}"
        self.name: str = found["name"]
        self.version: int = found["version"]
        self.description: str = found["description"]
        self.primary_key: tuple[str, ...] = tuple(found["primary_key"])
        self.event_time: str = found["event_time"]
        self.features = tuple(Feature(each["name"], each["type"], each.get("description", "")) for each in found["features"])
        self.online_enabled: bool = found["online_enabled"]
        self.topic: str = found["topic"]

    def __repr__(self) -> str:
        return f"FeatureGroup({self.name!r}, version={self.version})"

    def select(self, features: Sequence[str], *, ttl_seconds: int | None = None) -> FeatureSelection:
        """Return a selection for `FeatureStore.training_data`; raises `Invalid` naming a feature that is not there."""
        known = {feature.name for feature in self.features}
        if unknown := [name for name in features if name not in known]:
            raise Invalid(f"{self.name} has no feature {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return FeatureSelection(self.name, self.version, tuple(features), ttl_seconds)

    def select_all(self, *, ttl_seconds: int | None = None) -> FeatureSelection:
        """Return a selection of every feature but the keys and the event time."""
        return self.select([f.name for f in self.features if f.name not in (*self.primary_key, self.event_time)], ttl_seconds=ttl_seconds)

    def insert(self, features: object, *, wait: bool = False, timeout_seconds: float = 60.0) -> InsertReport:
        """Write rows (Arrow table, pandas or Polars frame, list of dicts) to the group's topic.

        Returns after the broker acknowledged every accepted row; with `wait`, after both stores have them.
        Rows that do not fit are not written and come back with their number and reason.
        """
        table = _arrow(features)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        answer = self._transport.json(
            "POST",
            f"{self._path}/rows",
            content=sink.getvalue(),
            headers={"Content-Type": _ARROW_STREAM},
            params={"wait": wait, "timeout": int(timeout_seconds)},
            timeout_seconds=timeout_seconds + 30,
        )
        return InsertReport(
            answer["accepted"], tuple((each["index"], each["reason"]) for each in answer["rejected"]), answer["materialised"]
        )

    def read(self, *, limit: int | None = None) -> pa.Table:
        """Return the group's rows, for repeated rows (equal key and event time) the one ingested last."""
        return _read(self._transport, "GET", f"{self._path}/rows", params={"limit": limit})

    def delete(self) -> None:
        """Delete this version with its topic, rows and table; refused with a `Conflict` while a processor uses it (owners)."""
        self._transport.json("DELETE", self._path)

    def progress(self) -> dict[str, Any]:
        """Return how far the offline table is: rows, repeats, rejected, offsets by partition, newest event time."""
        found: dict[str, Any] = self._transport.json("GET", f"{self._path}/progress")
        return found

    def get_feature_vectors(self, entities: Mapping[str, Sequence[Any]], *, features: Sequence[str] | None = None) -> pa.Table:
        """Return the newest online values of each entity, in order, with `event_time` and `age_seconds`; null where there is none."""
        wanted = {"name": self.name, "version": self.version, "features": list(features) if features else None}
        answer = self._transport.json(
            "POST",
            f"{self._reading}/online-reads",
            json={"groups": [wanted], "entities": {key: list(values) for key, values in entities.items()}},
        )
        group = answer["groups"][0]
        times = pa.array(group["event_time"], pa.timestamp("ms", "UTC"))
        return pa.table({**entities, **group["columns"], "event_time": times, "age_seconds": group["age_seconds"]})


class FeatureStore:
    """All feature groups of a project."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project
        self._path = f"/api/v1/projects/{path_part(project)}"

    def get_feature_groups(self) -> list[FeatureGroup]:
        """Return all groups and versions by name."""
        return [
            FeatureGroup(self._transport, self._project, found) for found in self._transport.json("GET", f"{self._path}/feature-groups")
        ]

    def get_feature_group(self, name: str, version: int = 1) -> FeatureGroup | None:
        """Return the group, or None if there is none of that name and version."""
        try:
            return FeatureGroup(
                self._transport, self._project, self._transport.json("GET", f"{self._path}/feature-groups/{path_part(name)}/{version}")
            )
        except NotFound:
            return None

    def create_feature_group(
        self,
        name: str,
        *,
        version: int | None = None,
        description: str = "",
        primary_key: Sequence[str],
        event_time: str,
        features: Sequence[Feature],
        online_enabled: bool = True,
        ttl_seconds: int | None = None,
        partitions: int = 1,
    ) -> FeatureGroup:
        """Create a group with its topic, subject, online row and offline table; `version=None` takes the next."""
        request = {
            "name": name,
            "version": version,
            "description": description,
            "primary_key": list(primary_key),
            "event_time": event_time,
            "features": [{"name": f.name, "type": f.type, "description": f.description} for f in features],
            "online_enabled": online_enabled,
            "ttl_seconds": ttl_seconds,
            "partitions": partitions,
        }
        return FeatureGroup(
            self._transport, self._project, self._transport.json("POST", f"{self._path}/feature-groups", json=request, timeout_seconds=60)
        )

    def get_or_create_feature_group(
        self,
        name: str,
        version: int = 1,
        *,
        description: str = "",
        primary_key: Sequence[str],
        event_time: str,
        features: Sequence[Feature],
        online_enabled: bool = True,
        ttl_seconds: int | None = None,
        partitions: int = 1,
    ) -> FeatureGroup:
        """Return the group, made if need be; raises `Conflict` naming the difference when it exists with other features."""
        return self.create_feature_group(
            name,
            version=version,
            description=description,
            primary_key=primary_key,
            event_time=event_time,
            features=features,
            online_enabled=online_enabled,
            ttl_seconds=ttl_seconds,
            partitions=partitions,
        )

    def sql(self, query: str, *, max_rows: int | None = None) -> pa.Table:
        """Return the result of one SELECT over the feature groups' tables (DuckDB's dialect)."""
        return _read(self._transport, "POST", f"{self._path}/sql", json={"sql": query, "max_rows": max_rows})

    @contextmanager
    def training_data(self, spine: object, *, label_time: str, features: Sequence[FeatureSelection]) -> Iterator[pa.RecordBatchReader]:
        """Yield the spine's rows, in order, each with the feature values that were known at its `label_time`, as Arrow batches.

        The reader's schema metadata `wardstream.snapshot` names the table versions that were read.
        """
        table = _arrow(spine)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        specification = {
            "label_time": label_time,
            "features": [
                {"group": s.group, "version": s.version, "features": list(s.features), "ttl_seconds": s.ttl_seconds} for s in features
            ],
        }
        with self._transport.stream(
            "POST",
            f"{self._path}/training-data",
            content=sink.getvalue(),
            headers={"Content-Type": _ARROW_STREAM},
            params={"spec": orjson.dumps(specification).decode()},
            timeout_seconds=300,
        ) as response:
            reader = pa.ipc.open_stream(_body(response))
            snapshot = response.headers.get("X-Wardstream-Snapshot", "")
            schema = reader.schema.with_metadata({b"wardstream.snapshot": snapshot.encode()})
            yield pa.RecordBatchReader.from_batches(schema, (batch.replace_schema_metadata(schema.metadata) for batch in reader))


def _read(transport: Transport, method: str, path: str, **arguments: Any) -> pa.Table:
    with transport.stream(method, path, timeout_seconds=300, **arguments) as response:
        return pa.ipc.open_stream(_body(response)).read_all()


def _arrow(rows: object) -> pa.Table:
    """Return rows as an Arrow table whatever frame they come in; raises `Invalid` for anything else."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, list):
        return pa.Table.from_pylist(rows)
    if hasattr(rows, "to_arrow"):  # Polars
        return rows.to_arrow()
    if type(rows).__module__.startswith("pandas"):
        return pa.Table.from_pandas(rows, preserve_index=False)
    raise Invalid(f"rows must be an Arrow table, a pandas or Polars frame or a list of dicts, got {type(rows).__name__}")


def _body(response: httpx.Response) -> io.BufferedReader:
    # Buffered, because Arrow takes a read shorter than it asked for as the end of the stream.
    return io.BufferedReader(_Body(response.iter_bytes(1 << 20)), 1 << 20)


class _Body(io.RawIOBase):
    """A response's body as a file, for Arrow's stream reader."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._left:
            try:
                self._left = next(self._chunks)
            except StopIteration:
                return 0
        size = min(len(target), len(self._left))
        target[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
