"""Avro records of a topic to an Arrow table, beside Confluent's deserializer, which makes a dictionary of each record.

The records are vital signs of 8 fields, 48 bytes with the prefix. CPU time of one process; rounds of both sides alternate and the
best round of each counts, so that other work on the machine does not decide.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

# Before polars is loaded: the figure is for one core.
os.environ["POLARS_MAX_THREADS"] = "1"

import numpy as np
import pyarrow as pa
from confluent_kafka.schema_registry import Schema as PeerSchema
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas.avro import parse
from schemas.decode import SchemaCatalogue, decode_batch
from schemas.encode import encode_table
from tests.benchmarks.report import Goal, record

RECORDS = 400_000
PEER_RECORDS = 30_000
BATCH = 20_000  # what a materialiser takes at a time under load
ROUNDS = 9
TOPIC = "icu.vitals"
SCHEMA = {
    "type": "record",
    "name": "Vital",
    "namespace": "wardstream",
    "fields": [
        {"name": "device", "type": "string"},
        {"name": "patient", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "metric", "type": "string"},
        {"name": "value", "type": "double"},
        {"name": "unit", "type": ["null", "string"], "default": None},
        {"name": "quality", "type": ["null", "int"], "default": None},
        {"name": "sequence", "type": "long"},
    ],
}


def measurements(count: int) -> pa.Table:
    """Return `count` rows of vital signs from a fixed seed."""
    rng = np.random.default_rng(1)
    patient, metric, quality = rng.integers(0, 2000, count), rng.integers(0, 6, count), rng.random(count)
    names = np.array(["heart_rate", "spo2", "resp_rate", "sys_bp", "dia_bp", "temp"])[metric]
    units = np.array(["bpm", "%", "rpm", "mmHg", "mmHg", ""])[metric]
    at = 1_793_491_200_000 + np.sort(rng.integers(0, 600_000, count))
    return pa.table(
        {
            "device": pa.array([f"dev-{number % 800:05d}" for number in patient]),
            "patient": patient,
            "at": pa.array(at).cast(pa.timestamp("ms", "UTC")),
            "metric": pa.array(names.tolist()),
            "value": rng.normal(80, 10, count).round(2),
            "unit": pa.array([unit or None for unit in units.tolist()]),
            "quality": pa.array([int(q * 100) if q < 0.9 else None for q in quality.tolist()], pa.int32()),
            "sequence": np.arange(count),
        }
    )


def best(work: Callable[[], None], seconds: list[float]) -> None:
    """Add the CPU time of one round."""
    begun = time.process_time()
    work()
    seconds.append(time.process_time() - begun)


def main() -> None:
    """Measure and record."""
    text = json.dumps(SCHEMA)
    registry = SchemaRegistryClient.new_client({"url": "mock://decode"})
    schema_id = registry.register_schema(f"{TOPIC}-value", PeerSchema(text, "AVRO"))
    values = encode_table(measurements(RECORDS), schema_id, parse(text))
    catalogue = SchemaCatalogue(lambda _: text)
    deserializer = AvroDeserializer(registry)
    context = SerializationContext(TOPIC, MessageField.VALUE)

    def ours() -> None:
        rows = sum(len(decode_batch(values[start : start + BATCH], catalogue).table) for start in range(0, RECORDS, BATCH))
        assert rows == RECORDS

    def peer() -> None:
        assert sum(1 for value in values[:PEER_RECORDS] if deserializer(value, context)) == PEER_RECORDS

    # The same values, so that both sides did the same work.
    assert decode_batch(values[:100], catalogue).table.to_pylist() == [deserializer(value, context) for value in values[:100]]
    ours_seconds, peer_seconds = list[float](), list[float]()
    for _ in range(ROUNDS):
        best(ours, ours_seconds)
        best(peer, peer_seconds)
    remark = f"{len(values[0])}-byte records of 8 fields, batches of {BATCH}; CPU time, best of {ROUNDS} alternating rounds"
    rate, peer_rate = RECORDS / min(ours_seconds), PEER_RECORDS / min(peer_seconds)
    record("decode_ratio", ours=rate, peer=peer_rate, unit="records/s a core", goal=Goal(">= 50x", least=50, of_ratio=True), remark=remark)
    record("decode", ours=rate, peer=peer_rate, unit="records/s a core", goal=Goal(">= 2.5 M", least=2_500_000), remark=remark)


if __name__ == "__main__":
    main()
