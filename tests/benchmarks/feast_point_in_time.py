"""The peer's side of the point-in-time benchmark; runs where Feast is installed. Argument: the folder of the data."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # type: ignore[import-not-found]  # its own environment
from feast.types import Float32  # type: ignore[import-not-found]  # as above

FEATURES = {"vitals": ["heart_rate", "spo2", "resp_rate", "sys_bp", "dia_bp", "temp"], "labs": ["lactate", "wbc", "creat", "crp"]}


def main() -> None:
    """Print CPU seconds, wall seconds, peak memory and the sums of two columns."""
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(
            config=RepoConfig(
                project="bench",
                provider="local",
                registry=f"{folder}/registry.db",
                entity_key_serialization_version=3,
                offline_store={"type": "duckdb"},
                online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            )
        )
        patient = Entity(name="patient", join_keys=["patient_id"], value_type=ValueType.INT64)
        views = [
            FeatureView(
                name=name,
                entities=[patient],
                ttl=timedelta(days=30),
                source=FileSource(name=f"{name}_source", path=str(data / f"{name}.parquet"), timestamp_field="event_time"),
                schema=[Field(name=feature, dtype=Float32) for feature in features],
            )
            for name, features in FEATURES.items()
        ]
        store.apply([patient, *views])
        labels = pd.read_parquet(data / "labels.parquet")
        wanted = [f"{name}:{feature}" for name, features in FEATURES.items() for feature in features]
        wall, cpu = time.perf_counter(), time.process_time()
        found = store.get_historical_features(entity_df=labels, features=wanted).to_df()
        used = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    # Not ru_maxrss: that begins with what the process was before it became this program.
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20  # type: ignore[index]  # always there
    sums = [round(float(found[column].astype("float64").sum()), 1) for column in ("heart_rate", "crp")]
    print(json.dumps({**used, "peak_gib": peak, "rows": len(found), "sums": sums}))


if __name__ == "__main__":
    main()
