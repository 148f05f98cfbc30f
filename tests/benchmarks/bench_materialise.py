"""Records a second on one core: bytes of a topic → decoded → validated → online on Redis → durable in the Delta table.

The broker is left out: the records are in memory, framed as Kafka holds them. The peer does the work record by record
(fastavro, a dictionary, a pipeline of redis-py) and does not even write a table. Seconds are CPU seconds of the process,
which other work on the machine changes least; Redis' own are in the remark.
"""

from __future__ import annotations

import io
import struct
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import redis

from featurestore.ingest import encode_rows, record_schema
from featurestore.model import Feature, FeatureGroup, FeatureType
from featurestore.offline.table import OfflineTable
from featurestore.online.redis import RedisOnlineStore
from featurestore.sink import FeatureSink, assemble, offline_due
from schemas.decode import SchemaCatalogue, decode_batch
from tests.benchmarks.peers import ROOT, own_redis, server_cpu_seconds
from tests.benchmarks.report import Goal, record
from wardstream.names import GroupName, ProjectName

_RECORDS, _BATCH, _PATIENTS = 600_000, 20_000, 2_000
_METRICS = ["heart_rate", "spo2", "resp_rate", "sys_bp", "dia_bp", "temp"]
_BEGIN_MS = 1_793_491_200_000
_GROUP = FeatureGroup(
    ProjectName("bench"),
    GroupName("observations"),
    1,
    ("patient_id", "metric"),
    "observed_at",
    (
        Feature("device_id", FeatureType.STRING),
        Feature("patient_id", FeatureType.BIGINT),
        Feature("observed_at", FeatureType.TIMESTAMP),
        Feature("metric", FeatureType.STRING),
        Feature("value", FeatureType.DOUBLE),
        Feature("unit", FeatureType.STRING),
        Feature("quality", FeatureType.INT),
        Feature("sequence", FeatureType.BIGINT),
    ),
)


def main() -> None:
    """Measure ours and the peer's on the same bytes, the better of three runs each."""
    pa.set_cpu_count(1)
    values = _values()
    now = datetime.fromtimestamp(_BEGIN_MS / 1000 + 7200, UTC)
    with own_redis() as client:
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
            ours = [_ours(client, values, now, Path(folder) / str(number)) for number in range(3)]
        peer = [_measured(client, lambda: _one_by_one(client, values)) for _ in range(3)]
    best, slow = min(ours), min(peer)
    size = sum(map(len, values)) / len(values)
    remark = (
        f"{size:.0f} bytes a record, {_PATIENTS * len(_METRICS):,} entities; Redis itself {best[2] / _RECORDS * 1e6:.2f} µs a record; "
        f"{_RECORDS / best[1]:,.0f} records/s of wall time at this machine's load; peer without a table"
    )
    goal = Goal(">= 200,000 records/s a core (later 400,000)", least=200_000)
    record("materialise", ours=_RECORDS / best[0], peer=_RECORDS / slow[0], unit="records/s a core", goal=goal, remark=remark)


def _ours(client: redis.Redis, values: list[bytes], now: datetime, warehouse: Path) -> tuple[float, float, float]:
    table = OfflineTable(warehouse, _GROUP)
    table.create()
    used = _measured(client, lambda: _micro_batches(client, table, values, now))
    found = table.progress()
    if not found.records == found.rows + found.repeats == len(values):
        raise RuntimeError("the table does not hold every record once")
    return used


def _measured(client: redis.Redis, work: Callable[[], None]) -> tuple[float, float, float]:
    """Return CPU seconds of this process, wall seconds, CPU seconds of Redis."""
    client.flushdb()
    wall, cpu, server = time.perf_counter(), time.process_time(), server_cpu_seconds(client)
    work()
    return time.process_time() - cpu, time.perf_counter() - wall, server_cpu_seconds(client) - server


def _values() -> list[bytes]:
    rng = np.random.default_rng(1)
    patients, metrics = rng.integers(0, _PATIENTS, _RECORDS), rng.integers(0, len(_METRICS), _RECORDS)
    columns = {
        "device_id": [f"dev-{patient % 800:05d}" for patient in patients],
        "patient_id": patients,
        "observed_at": pa.array(_BEGIN_MS + np.sort(rng.integers(0, 600_000, _RECORDS)), pa.timestamp("ms", "UTC")),
        "metric": pa.array(_METRICS).take(pa.array(metrics)),
        "value": rng.normal(80, 10, _RECORDS).round(2),
        "unit": ["bpm"] * _RECORDS,
        "quality": pa.array(np.full(_RECORDS, 90, np.int32)),
        "sequence": np.arange(_RECORDS),
    }
    return encode_rows(_GROUP, pa.table(columns), 7)[1]


def _micro_batches(client: redis.Redis, table: OfflineTable, values: list[bytes], now: datetime) -> None:
    schema = record_schema(_GROUP)
    catalogue = SchemaCatalogue(lambda _: schema.text)
    sink = FeatureSink(_GROUP, table, RedisOnlineStore(client, ProjectName("bench"), b"k" * 32), topic_id="bench")
    for start in range(0, len(values), _BATCH):
        part = values[start : start + _BATCH]
        times = [_BEGIN_MS + 3_600_000 + start] * len(part)
        decoded = decode_batch(part, catalogue, reader=schema)
        batch, rejects = assemble(
            _GROUP, decoded, partitions=[0] * len(part), offsets=range(start, start + len(part)), timestamps_ms=times, now=now
        )
        if rejects:
            raise RuntimeError(f"{len(rejects)} records were refused: {rejects[0].reason}")
        sink.accept(batch)
        sink.write_online()
        if offline_due(0, sink.buffered, 0):
            sink.flush_offline()
    sink.flush_offline()


def _one_by_one(client: redis.Redis, values: list[bytes]) -> None:
    schema = fastavro.parse_schema(_GROUP.avro_schema())
    packed = struct.Struct("<Bqdq")
    newest: dict[tuple[int, str], datetime] = {}
    for start in range(0, len(values), 1000):
        pipe = client.pipeline(transaction=False)
        for value in values[start : start + 1000]:
            found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
            key = (found["patient_id"], found["metric"])
            if found["value"] != found["value"] or found["patient_id"] is None:
                raise RuntimeError("a record was refused")
            if key in newest and newest[key] > found["observed_at"]:
                continue
            newest[key] = found["observed_at"]
            milliseconds = int(found["observed_at"].timestamp() * 1000)
            row = packed.pack(1, milliseconds, found["value"], found["sequence"]) + found["unit"].encode() + found["device_id"].encode()
            pipe.hset(f"p:{{bench}}:{key[0]}:{key[1]}", "observations_1", row)
        pipe.execute()


if __name__ == "__main__":
    main()
