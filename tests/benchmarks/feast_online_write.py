"""The peer's side of the online write benchmark; runs where Feast is installed. Arguments: port of Redis, entities, rounds."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType  # type: ignore[import-not-found]  # its own environment
from feast.types import Float32  # type: ignore[import-not-found]  # as above

FEATURES = ["heart_rate", "spo2", "resp_rate", "sys_bp", "dia_bp", "temp"]


def main() -> None:
    """Write every entity once a round, newer each time, and print the seconds of the rounds after the first."""
    port, entities, rounds = (int(each) for each in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(1)
        frame = pd.DataFrame({"patient_id": np.arange(entities), **{name: rng.random(entities, dtype="float32") for name in FEATURES}})
        frame["event_time"] = datetime(2026, 11, 1, tzinfo=UTC)
        frame.to_parquet(f"{folder}/rows.parquet")
        store = FeatureStore(
            config=RepoConfig(
                project="bench",
                provider="local",
                registry=f"{folder}/registry.db",
                entity_key_serialization_version=3,
                offline_store={"type": "duckdb"},
                online_store={"type": "redis", "connection_string": f"localhost:{port}"},
            )
        )
        patient = Entity(name="patient", join_keys=["patient_id"], value_type=ValueType.INT64)
        batch = FileSource(name="rows", path=f"{folder}/rows.parquet", timestamp_field="event_time")
        view = FeatureView(
            name="vitals",
            entities=[patient],
            ttl=timedelta(days=30),
            source=PushSource(name="push", batch_source=batch),
            schema=[Field(name=name, dtype=Float32) for name in FEATURES],
        )
        store.apply([patient, view])
        frames = []
        for number in range(rounds):
            later = frame.copy()
            later["event_time"] = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=number + 1)
            frames.append(later)
        store.write_to_online_store("vitals", frame)
        wall, cpu = time.perf_counter(), time.process_time()
        for later in frames:
            for start in range(0, entities, 1000):
                store.write_to_online_store("vitals", later.iloc[start : start + 1000])
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
