"""Rules of point-in-time joins that one example each shows."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.model import MOST_TTL_SECONDS, Feature, FeatureGroup, FeatureType
from featurestore.offline.asof import AsOfSource, point_in_time_join
from featurestore.training import training_spec
from wardstream.errors import Invalid
from wardstream.names import GroupName, ProjectName

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def group(name: str, key: tuple[str, ...], value: str, key_type: FeatureType = FeatureType.STRING) -> FeatureGroup:
    keys = [Feature(each, key_type) for each in key]
    features = (*keys, Feature("at", FeatureType.TIMESTAMP), Feature(value, FeatureType.INT))
    return FeatureGroup(ProjectName("icu"), GroupName(name), 1, key, "at", features)


BED = group("bed", ("ward", "bed"), "occupied")
PATIENT = group("patient", ("patient",), "pulse")


def stored(folder: Path, what: FeatureGroup, rows: list[tuple[object, ...]]) -> list[Path]:
    origin = [(NOON, 0, offset) for offset in range(len(rows))]
    columns = list(zip(*(row + place for row, place in zip(rows, origin, strict=True)), strict=True))
    pq.write_table(
        pa.table([pa.array(c) for c in columns], names=what.table_schema().names).cast(what.table_schema()), folder / what.dataset
    )
    return [folder / what.dataset]


def test_several_groups_of_different_keys_join_the_same_spine(tmp_path: Path) -> None:
    beds = stored(tmp_path, BED, [("w", "1", NOON, 7), ("w", "2", NOON, 8), ("v", "1", NOON, 9)])
    pulses = stored(tmp_path, PATIENT, [("p", NOON, 60), ("p", NOON + timedelta(hours=1), 61)])
    spine = pa.table({"patient": ["p", "q"], "bed": ["1", "1"], "ward": ["w", "v"], "at": [NOON, NOON]})
    found = point_in_time_join(spine, [AsOfSource(beds, BED, ("occupied",)), AsOfSource(pulses, PATIENT, ("pulse",))], "at").read_all()
    assert found.select(["occupied", "pulse"]).to_pylist() == [{"occupied": 7, "pulse": 60}, {"occupied": 9, "pulse": None}]


def test_a_table_without_rows_gives_nulls(tmp_path: Path) -> None:
    spine = pa.table({"patient": ["p"], "at": [NOON]})
    found = point_in_time_join(spine, [AsOfSource([], PATIENT, ("pulse",))], "at").read_all()
    assert found["pulse"].to_pylist() == [None]


def test_label_time_is_rounded_down_and_a_time_without_zone_is_utc(tmp_path: Path) -> None:
    files = stored(tmp_path, PATIENT, [("p", NOON, 60)])
    exact = pa.scalar(NOON, pa.timestamp("ns", tz="UTC")).value
    spine = pa.table({"patient": ["p", "p", "p"], "when": pa.array([exact - 1, exact, exact + 1], pa.timestamp("ns"))})
    found = point_in_time_join(spine, [AsOfSource(files, PATIENT, ("pulse",))], "when").read_all()
    assert found["pulse"].to_pylist() == [None, 60, 60]
    assert found.schema.field("when").type == pa.timestamp("ns")


def test_a_long_spine_comes_back_in_its_order_and_in_batches(tmp_path: Path) -> None:
    files = stored(tmp_path, PATIENT, [(str(number), NOON, number) for number in range(500)])
    asked = [(number * 7919) % 500 for number in range(150_000)]
    spine = pa.table({"patient": [str(number) for number in asked], "at": pa.array([NOON] * len(asked))})
    reader = point_in_time_join(spine, [AsOfSource(files, PATIENT, ("pulse",))], "at")
    first = reader.read_next_batch()
    rest = reader.read_all()
    assert first.num_rows < len(asked)
    assert first.column("pulse").to_pylist() + rest["pulse"].to_pylist() == asked


@pytest.mark.parametrize(
    ("spine", "source", "hint"),
    [
        ({"at": [NOON]}, AsOfSource([], PATIENT, ("pulse",)), "no column patient, the key of patient_1"),
        ({"patient": ["p"]}, AsOfSource([], PATIENT, ("pulse",)), "needs a timestamp column 'at'"),
        ({"patient": ["p"], "at": ["noon"]}, AsOfSource([], PATIENT, ("pulse",)), "needs a timestamp column 'at'"),
        ({"patient": ["p"], "at": [NOON]}, AsOfSource([], PATIENT, ("weight",)), "no feature weight; it has patient, at, pulse"),
        ({"patient": ["p"], "at": [NOON], "pulse": [1]}, AsOfSource([], PATIENT, ("pulse",)), "both the spine and patient_1"),
        ({"patient": ["p"], "at": [NOON]}, AsOfSource([], PATIENT, ("pulse",), known_at="pulse"), "must be a timestamp"),
        (
            {"patient": ["p"], "at": [NOON]},
            AsOfSource([], group("n", ("patient",), "x", FeatureType.INT), ("x",)),
            "cannot be taken as int32",
        ),
    ],
)
def test_a_spine_that_does_not_fit_is_refused_with_what_would_be_right(
    spine: dict[str, list[object]], source: AsOfSource, hint: str
) -> None:
    with pytest.raises(Invalid, match=hint):
        point_in_time_join(pa.table(spine), [source], "at")


def test_the_longest_ttl_is_one_that_the_join_takes(tmp_path: Path) -> None:
    files = stored(tmp_path, PATIENT, [("p", NOON, 60)])
    spine = pa.table({"patient": ["p"], "at": [NOON]})
    found = point_in_time_join(spine, [AsOfSource(files, PATIENT, ("pulse",), ttl_seconds=MOST_TTL_SECONDS)], "at").read_all()
    assert found["pulse"].to_pylist() == [60]
    for wrong in (0, MOST_TTL_SECONDS + 1):
        with pytest.raises(Invalid, match="at least 1 and at most 10000000000"):
            training_spec("at", [{"group": "patient", "version": 1, "ttl_seconds": wrong}])
