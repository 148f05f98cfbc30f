"""Point-in-time joins against the slowest way to compute them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.model import Feature, FeatureGroup, FeatureType
from featurestore.offline.asof import AsOfSource, point_in_time_join
from wardstream.names import GroupName, ProjectName

GROUP = FeatureGroup(
    ProjectName("icu"),
    GroupName("lab"),
    1,
    ("patient",),
    "at",
    (
        Feature("patient", FeatureType.STRING),
        Feature("at", FeatureType.TIMESTAMP),
        Feature("value", FeatureType.FLOAT),
        Feature("known", FeatureType.TIMESTAMP),
    ),
)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    patient: str
    at: int
    value: float | None
    known: int | None
    ingested: int


class Label(NamedTuple):
    patient: str | None
    at: int | None


patients = st.sampled_from(["a", "b", "c"])
seconds = st.integers(0, 12)
rows = st.builds(Row, patients, seconds, st.none() | st.integers(0, 99).map(float), st.none() | seconds, seconds)
labels = st.builds(Label, st.none() | patients, st.none() | seconds)


def moment(second: int | None) -> datetime | None:
    return None if second is None else BEGIN + timedelta(seconds=second)


def naive(stored: list[Row], label: Label, ttl: int | None, use_known: bool) -> float | None:
    if label.patient is None or label.at is None:
        return None
    newest: dict[tuple[str, int], tuple[tuple[int, int], Row]] = {}
    for offset, row in enumerate(stored):
        rank, identity = (row.ingested, offset), (row.patient, row.at)
        if identity not in newest or newest[identity][0] < rank:
            newest[identity] = (rank, row)
    seen = [
        row
        for _, row in newest.values()
        if row.patient == label.patient
        and row.at <= label.at
        and (ttl is None or row.at >= label.at - ttl)
        and (not use_known or row.known is None or row.known <= label.at)
    ]
    return max(seen, key=lambda row: row.at).value if seen else None


def written(folder: Path, stored: list[Row], cut: int) -> list[Path]:
    """The rows as two files, the second of which may hold older rows than the first."""
    schema, files = GROUP.table_schema(), []
    offsets = list(range(len(stored)))
    for number, part in enumerate((offsets[cut:], offsets[:cut])):
        if part:
            columns = {
                "patient": [stored[i].patient for i in part],
                "at": [moment(stored[i].at) for i in part],
                "value": [stored[i].value for i in part],
                "known": [moment(stored[i].known) for i in part],
                "_ingested_at": [moment(stored[i].ingested) for i in part],
                "_partition": [0] * len(part),
                "_offset": part,
            }
            files.append(folder / f"{number}.parquet")
            pq.write_table(pa.table(columns, schema=schema), files[-1])
    return files


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, max_size=25), st.lists(labels, max_size=12), st.none() | st.integers(0, 5), st.booleans(), st.integers(0, 25))
def test_join_equals_looking_at_every_row(stored: list[Row], asked: list[Label], ttl: int | None, use_known: bool, cut: int) -> None:
    spine = pa.table(
        {
            "number": list(range(len(asked))),
            "patient": pa.array([label.patient for label in asked], pa.string()),
            "when": pa.array([moment(label.at) for label in asked], pa.timestamp("ns", tz="UTC")),
        }
    )
    with TemporaryDirectory() as folder:
        files = written(Path(folder), stored, cut)
        known = "known" if use_known else None
        source = AsOfSource(files, GROUP, ("value",), ttl_seconds=ttl, known_at=known)
        again = AsOfSource(files, GROUP, ("value",), prefix="any_age_")
        found = point_in_time_join(spine, [source, again], "when", memory_mb=256, threads=1).read_all()
    assert found.select(spine.column_names).equals(spine)
    assert found["value"].to_pylist() == [naive(stored, label, ttl, use_known) for label in asked]
    assert found["any_age_value"].to_pylist() == [naive(stored, label, None, False) for label in asked]
