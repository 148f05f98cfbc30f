"""Which rows fit a feature group, and the reasons of the others."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from featurestore.ingest import encode_rows, record_schema, require_columns, validate
from featurestore.model import Feature, FeatureGroup, FeatureType, record_key
from schemas.avro import parse
from schemas.decode import SchemaCatalogue, decode_batch
from wardstream.errors import Invalid
from wardstream.names import GroupName, ProjectName

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GROUP = FeatureGroup(
    ProjectName("icu"),
    GroupName("mixed"),
    1,
    ("patient", "bed"),
    "at",
    (
        Feature("patient", FeatureType.STRING),
        Feature("bed", FeatureType.INT),
        Feature("at", FeatureType.TIMESTAMP),
        *(Feature(f"a_{kind}", kind) for kind in FeatureType),
    ),
)


def rows(**columns: pa.Array | list[object]) -> pa.Table:
    count = len(next(iter(columns.values()))) if columns else 1
    return pa.table({"patient": ["p"] * count, "bed": [1] * count, "at": pa.array([NOW] * count), **columns})


def reason(**columns: pa.Array | list[object]) -> str:
    found = validate(GROUP, rows(**columns), now=NOW)
    assert found.table.num_rows == 0
    [reject] = found.rejects
    return reject.reason


def test_rows_that_fit_come_in_the_groups_columns_and_types() -> None:
    wide = {
        "a_double": pa.array([1.5, None]),
        "a_float": pa.array([1, 2], pa.int64()),
        "a_int": pa.array([7.0, None]),
        "a_string": pa.array(["x", "y"]).dictionary_encode(),
        "a_timestamp": pa.array([NOW, None], pa.timestamp("s")),
        "unknown": pa.array([1, 2]),
    }
    found = validate(GROUP, rows(**wide), now=NOW)
    assert found.rejects == ()
    assert found.table.schema == GROUP.arrow_schema()
    assert found.table.to_pylist()[0] == {
        **{feature.name: None for feature in GROUP.features},
        **{"patient": "p", "bed": 1, "at": NOW, "a_double": 1.5, "a_float": 1.0, "a_int": 7, "a_string": "x", "a_timestamp": NOW},
    }


def test_only_the_rows_that_do_not_fit_are_refused() -> None:
    found = validate(GROUP, rows(a_float=pa.array([1.0, math.nan, None, math.inf, 2.0])), now=NOW)
    assert found.table["a_float"].to_pylist() == [1.0, None, 2.0]
    assert found.row_of.tolist() == [0, 2, 4]
    assert [reject.index for reject in found.rejects] == [1, 3]


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"patient": pa.array([None], pa.string())}, "patient is null; key and event time are required"),
        ({"at": pa.array([None], pa.timestamp("ms"))}, "at is null"),
        ({"a_float": pa.array([math.nan])}, "a_float is NaN, infinite or too large"),
        ({"a_double": pa.array([-math.inf])}, "a_double is NaN"),
        ({"a_float": pa.array([1e300])}, "too large for float"),
        ({"a_int": pa.array([2**31])}, "a_int is not a whole number that int can hold"),
        ({"a_int": pa.array([0.5])}, "a_int is not a whole number"),
        ({"a_bigint": pa.array([2**63], pa.uint64())}, "a_bigint is not a whole number"),
        ({"a_bigint": pa.array([math.nan])}, "a_bigint is not a whole number"),
        ({"a_string": pa.array([1])}, "a_string is of type int64; string is expected"),
        ({"a_double": pa.array(["1"])}, "a_double is of type string; double is expected"),
        ({"a_boolean": pa.array([1])}, "a_boolean is of type int64; boolean is expected"),
        ({"at": pa.array([1_793_491_200_000])}, "at is of type int64; timestamp is expected"),
        ({"at": pa.array([NOW + timedelta(minutes=11)])}, "at is more than 10 minutes ahead"),
        ({"at": pa.array([datetime(1899, 12, 31, tzinfo=UTC)])}, "at is before 1900"),
        ({"a_timestamp": pa.array([2**62], pa.timestamp("us", tz="UTC"))}, "between the years 1 and 9999"),
        ({"a_timestamp": pa.array([-(2**60)], pa.timestamp("ms", tz="UTC"))}, "between the years 1 and 9999"),
        ({"a_timestamp": pa.array([2**62], pa.timestamp("s"))}, "between the years 1 and 9999"),
    ],
)
def test_a_reject_says_what_is_wrong_without_the_value(columns: dict[str, pa.Array], hint: str) -> None:
    assert hint in reason(**columns)


def test_a_missing_key_column_refuses_every_row() -> None:
    found = validate(GROUP, rows().drop_columns(["bed"]), now=NOW)
    assert [(each.index, each.reason) for each in found.rejects] == [(0, "it has no field bed, which is required")]


def test_the_first_reason_of_a_row_stays() -> None:
    found = validate(GROUP, rows(patient=pa.array([None], pa.string()), a_float=pa.array([math.nan])), now=NOW)
    assert len(found.rejects) == 1
    assert "patient" in found.rejects[0].reason


def test_the_clock_is_judged_by_the_time_of_arrival() -> None:
    arrived = rows(at=pa.array([NOW, NOW]), _ingested_at=pa.array([NOW, NOW - timedelta(minutes=11)]))
    found = validate(GROUP, arrived, now=NOW - timedelta(days=1))
    assert found.row_of.tolist() == [0]
    assert "ahead of the time of arrival" in found.rejects[0].reason


def test_times_are_cut_to_milliseconds() -> None:
    found = validate(GROUP, rows(at=pa.array([NOW + timedelta(microseconds=1999)]), _offset=pa.array([5])), now=NOW)
    assert found.table["at"].to_pylist() == [NOW + timedelta(milliseconds=1)]
    assert found.table["_offset"].to_pylist() == [5]


def test_no_rows_are_no_rejects() -> None:
    assert validate(GROUP, rows().slice(0, 0), now=NOW).rejects == ()


def test_records_decode_to_the_rows_they_were_made_of() -> None:
    table = validate(
        GROUP,
        rows(
            a_int=pa.array([1, None]), a_string=pa.array(["ä", None]), a_timestamp=pa.array([NOW, None]), a_boolean=pa.array([None, True])
        ),
        now=NOW,
    ).table
    keys, values = encode_rows(GROUP, table, 7)
    assert keys == [record_key((1, "p"))] * 2
    assert {value[:5] for value in values} == {b"\0\0\0\0\x07"}
    schema = record_schema(GROUP)
    decoded = decode_batch(values, SchemaCatalogue(lambda _: schema.text), reader=schema)
    assert np.array_equal(decoded.row_of, [0, 1])
    again = validate(GROUP, decoded.table, now=NOW)
    assert again.rejects == ()
    assert again.table.equals(table)


def test_the_record_schema_is_the_groups() -> None:
    assert record_schema(GROUP).equality_text == parse(record_schema(GROUP).text).equality_text


def test_inserted_columns_must_be_the_groups() -> None:
    require_columns(GROUP, rows(a_int=[1]))
    with pytest.raises(Invalid, match="has no feature 'pulse'"):
        require_columns(GROUP, rows(pulse=[1]))
    with pytest.raises(Invalid, match="lack bed"):
        require_columns(GROUP, rows().drop_columns(["bed"]))
