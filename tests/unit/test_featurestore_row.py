"""The bytes of an online row."""

import struct
from datetime import UTC, datetime
from typing import Any

import ormsgpack
import pyarrow as pa

from featurestore.model import Feature, FeatureGroup, FeatureType
from featurestore.online.row import RowCodec
from wardstream.names import GroupName, ProjectName

KEY = (Feature("patient", FeatureType.STRING), Feature("at", FeatureType.TIMESTAMP))
VITALS = FeatureGroup(
    ProjectName("icu"),
    GroupName("vitals"),
    1,
    ("patient",),
    "at",
    (*KEY, *(Feature(name, FeatureType.FLOAT) for name in ("hr", "spo2", "rr", "sbp", "dbp", "temp"))),
)
MIXED = FeatureGroup(
    ProjectName("icu"),
    GroupName("mixed"),
    1,
    ("patient",),
    "at",
    (*KEY, *(Feature(f"a_{kind}", kind) for kind in FeatureType), Feature("nulls", FeatureType.STRING)),
)
AT = datetime(2026, 11, 1, 0, 0, 0, 5000, tzinfo=UTC)


def table(group: FeatureGroup, **columns: Any) -> pa.Table:
    arrays = {name: pa.array(values, group.table_schema().field(name).type) for name, values in columns.items()}
    return pa.table({"patient": ["p"], "at": pa.array([AT]), "_ingested_at": pa.array([AT]), **arrays})


def test_six_floats_make_46_bytes_in_the_documented_order() -> None:
    [row] = RowCodec(VITALS).pack(table(VITALS, hr=[80.5], spo2=[None], rr=[17.0], sbp=[125.0], dbp=[75.0], temp=[None]))
    milliseconds = 1_793_491_200_005
    head = struct.pack("<BIqqB", 1, VITALS.fingerprint(), milliseconds, milliseconds, 0b100010)
    assert row == head + struct.pack("<6f", 80.5, 0, 17, 125, 75, 0)
    assert len(row) == 46


def test_strings_stand_behind_the_fixed_values_as_one_msgpack_list() -> None:
    values = {
        "a_string": ["Grüße"],
        "a_int": [-1],
        "a_bigint": [2**62],
        "a_float": [0.5],
        "a_double": [1e300],
        "a_boolean": [True],
        "a_timestamp": [AT],
        "nulls": [None],
    }
    [row] = RowCodec(MIXED).pack(table(MIXED, **values))
    fixed = struct.pack("<iqfdBq", -1, 2**62, 0.5, 1e300, 1, 1_793_491_200_005)
    assert row[21:] == bytes([0b10000000]) + fixed + ormsgpack.packb(["Grüße", None])


def test_unpacking_gives_what_was_packed_and_null_for_what_is_not_there() -> None:
    codec = RowCodec(MIXED)
    values: dict[str, list[Any]] = {
        "a_string": ["x"],
        "a_int": [None],
        "a_bigint": [7],
        "a_float": [None],
        "a_double": [2.5],
        "a_boolean": [False],
    }
    packed = codec.pack(table(MIXED, **values, a_timestamp=[AT], nulls=[None]))
    found = codec.unpack([None, *packed])
    assert found.found.tolist() == [False, True]
    assert found.values.to_pylist()[1] == {**{key: value[0] for key, value in values.items()}, "a_timestamp": AT, "nulls": None}
    assert set(found.values.to_pylist()[0].values()) == {None}
    assert found.event_time.to_pylist() == [None, AT]
    assert found.values.schema == pa.schema([(each.name, each.type.arrow) for each in MIXED.value_features])


def test_a_row_of_another_schema_or_format_counts_as_missing() -> None:
    [row] = RowCodec(VITALS).pack(table(VITALS, **{each.name: [None] for each in VITALS.value_features}))
    strangers = [row[:1] + b"\0\0\0\0" + row[5:], b"\2" + row[1:], row[:20], b""]
    assert RowCodec(VITALS).unpack(strangers).found.tolist() == [False] * 4


def test_a_group_without_values_has_rows_of_a_head_alone() -> None:
    bare = FeatureGroup(ProjectName("icu"), GroupName("seen"), 1, ("patient",), "at", KEY)
    [row] = RowCodec(bare).pack(table(bare))
    assert len(row) == 21
    assert RowCodec(bare).unpack([row, None]).found.tolist() == [True, False]


def test_times_before_1970_and_finer_ones_are_cut_downwards() -> None:
    old = table(VITALS, **{each.name: [None] for each in VITALS.value_features})
    old = old.set_column(1, "at", pa.array([-1], pa.timestamp("us", tz="UTC")))
    [row] = RowCodec(VITALS).pack(old)
    assert struct.unpack_from("<q", row, 5) == (-1,)


def test_nothing_packs_to_nothing() -> None:
    codec = RowCodec(MIXED)
    assert codec.pack(MIXED.table_schema().empty_table()) == []
    assert codec.unpack([]).values.num_rows == 0
