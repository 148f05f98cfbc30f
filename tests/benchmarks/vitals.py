"""The data of the point-in-time benchmarks: vital signs and laboratory values of 10,000 patients in a week, and labels.

10 M and 1 M rows and 100 k labels from a fixed seed; the order of the draws is part of the data, because the joins' sums
are known for it. Kept under build/bench-data: plain Parquet files in the order of event times, for Feast, and our own
offline tables, made as the materialiser makes them and then compacted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, Feature, FeatureGroup, FeatureType
from featurestore.offline.compaction import compact
from featurestore.offline.table import OfflineTable
from tests.benchmarks.peers import ROOT
from wardstream.names import GroupName, ProjectName

FOLDER = ROOT / "build" / "bench-data"
VITAL_SIGNS = ("heart_rate", "spo2", "resp_rate", "sys_bp", "dia_bp", "temp")
LABORATORY = ("lactate", "wbc", "creat", "crp")
_ROWS, _LAB_ROWS, _LABELS, _PATIENTS = 10_000_000, 1_000_000, 100_000, 10_000
_BEGIN = int(np.datetime64("2026-11-01T00:00:00", "us").astype("int64"))
_DAY = 86_400_000_000
_WEEK = 7 * _DAY
_TIME = pa.timestamp("us", tz="UTC")
# What the materialiser commits at once.
_COMMIT_ROWS = 65_536


@dataclass(frozen=True)
class Data:
    """Where everything is; `appended` are the table versions before compaction."""

    labels: Path
    tables: dict[str, OfflineTable]
    appended: dict[str, int]


def group(name: str, features: tuple[str, ...]) -> FeatureGroup:
    """Return a group of float features by patient."""
    key = (Feature("patient_id", FeatureType.BIGINT), Feature("event_time", FeatureType.TIMESTAMP))
    columns = (*key, *(Feature(each, FeatureType.FLOAT) for each in features))
    return FeatureGroup(ProjectName("bench"), GroupName(name), 1, ("patient_id",), "event_time", columns)


def made() -> Data:
    """Return the data, made on first use."""
    groups = {"vitals": group("vitals", VITAL_SIGNS), "labs": group("labs", LABORATORY)}
    tables = {name: OfflineTable(FOLDER / "warehouse", each) for name, each in groups.items()}
    complete = FOLDER / "complete"
    if not complete.exists():
        print("making 11 M rows under build/bench-data (once)", flush=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        _make_files()
        for name, table in tables.items():
            _fill(table, pq.read_table(FOLDER / f"{name}.parquet"))
            if compact(table, many=2) is None:
                raise RuntimeError(f"{name} was not compacted")
        complete.touch()
    return Data(FOLDER / "labels.parquet", tables, {name: table.snapshot().version - 1 for name, table in tables.items()})


def _make_files() -> None:
    rng = np.random.default_rng(7)
    patient = rng.integers(0, _PATIENTS, _ROWS).astype("int64")
    time = np.sort(_BEGIN + rng.integers(0, _WEEK, _ROWS))
    # Each patient has a level of their own, a rhythm of the day, and noise; 2 % of the temperatures are missing.
    level = rng.normal(0, 1, _PATIENTS).astype("float32")[patient]
    rhythm = np.sin(2 * np.pi * ((time - _BEGIN) % _DAY) / _DAY).astype("float32")

    def measured(mean: float, deviation: float) -> npt.NDArray[np.float32]:
        noise = rng.standard_normal(_ROWS, dtype="float32")
        found: npt.NDArray[np.float32] = (mean + deviation * (0.6 * level + 0.3 * rhythm + 0.7 * noise)).round(1).astype("float32")
        return found

    temperature = pa.array(measured(37.0, 0.5), mask=rng.random(_ROWS) < 0.02)
    signs = {
        "heart_rate": measured(80, 14),
        "spo2": np.minimum(measured(96, 2), 100),
        "resp_rate": measured(17, 4),
        "sys_bp": measured(125, 18),
        "dia_bp": measured(75, 11),
        "temp": temperature,
    }
    _write("vitals", {"patient_id": patient, "event_time": pa.array(time, _TIME), **signs})
    time = np.sort(_BEGIN + rng.integers(0, _WEEK, _LAB_ROWS))
    _write(
        "labs",
        {
            "patient_id": rng.integers(0, _PATIENTS, _LAB_ROWS).astype("int64"),
            "event_time": pa.array(time, _TIME),
            "lactate": rng.gamma(2, 0.8, _LAB_ROWS).astype("float32"),
            "wbc": rng.normal(8, 3, _LAB_ROWS).astype("float32"),
            "creat": rng.gamma(3, 30, _LAB_ROWS).astype("float32"),
            "crp": rng.gamma(1, 20, _LAB_ROWS).astype("float32"),
        },
    )
    _write(
        "labels",
        {
            "patient_id": rng.integers(0, _PATIENTS, _LABELS).astype("int64"),
            "event_time": pa.array(_BEGIN + _WEEK // 4 + rng.integers(0, _WEEK * 3 // 4, _LABELS), _TIME),
            "label": (rng.random(_LABELS) < 0.1).astype("int8"),
        },
    )


def _write(name: str, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), FOLDER / f"{name}.parquet", compression="zstd", row_group_size=1 << 20)


def _fill(table: OfflineTable, rows: pa.Table) -> None:
    table.create()
    origin = {
        INGESTED_AT: rows["event_time"],
        PARTITION: pa.array(np.zeros(rows.num_rows, np.int32)),
        OFFSET: pa.array(np.arange(rows.num_rows)),
    }
    for name, column in origin.items():
        rows = rows.append_column(name, column)
    for start in range(table.offsets("bench").get(0, 0), rows.num_rows, _COMMIT_ROWS):
        part = rows.slice(start, _COMMIT_ROWS)
        table.append(part, txn={"bench/0": start + part.num_rows}, counters={"records": part.num_rows}, expected={"bench/0": start})
