"""Records of a topic as Arrow: which lane, and what becomes of records that are not right."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from schemas.avro import parse
from schemas.columns import zigzag
from schemas.decode import Codec, SchemaCatalogue, decode_batch
from wardstream.errors import NotFound, Unavailable

VITAL = {
    "type": "record",
    "name": "Vital",
    "fields": [
        {"name": "patient", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "rate", "type": ["null", "int"], "default": None},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["ECG", "PPG"]}},
    ],
}
NOW = 1_793_491_200_000


def prefix(schema_id: int) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big")


def values(rows: Sequence[dict[str, Any]], schema: dict[str, Any] = VITAL, schema_id: int = 1) -> list[bytes]:
    made = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
        made.append(prefix(schema_id) + out.getvalue())
    return made


def vitals(count: int) -> list[dict[str, Any]]:
    return [{"patient": f"p{i}", "at": NOW + i, "rate": i if i % 3 else None, "kind": "ECG" if i % 2 else "PPG"} for i in range(count)]


class Registry:
    """Schemas by id; counts what it is asked."""

    def __init__(self, **schemas: dict[str, Any]) -> None:
        self.texts = {int(name.removeprefix("id")): json.dumps(schema) for name, schema in schemas.items()}
        self.asked: list[int] = []

    def fetch(self, schema_id: int) -> str:
        self.asked.append(schema_id)
        if schema_id not in self.texts:
            raise NotFound("Schema not found")
        return self.texts[schema_id]


@pytest.mark.parametrize(
    ("kind", "lane"),
    [
        ("long", "columns"),
        ("null", "columns"),
        (["null", {"type": "enum", "name": "E", "symbols": ["A"]}], "columns"),
        ({"type": "map", "values": "double"}, "columns"),
        ({"type": "array", "items": {"type": "record", "name": "I", "fields": [{"name": "x", "type": "float"}]}}, "columns"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, "columns"),
        (["long", "string"], "rows"),
        (["string"], "rows"),
        (["null", "T"], "rows"),
        ({"type": "array", "items": "null"}, "refused"),
    ],
)
def test_a_schema_is_classified_by_what_columns_can_hold(kind: Any, lane: str) -> None:
    assert Codec(parse(json.dumps({"type": "record", "name": "T", "fields": [{"name": "f", "type": kind}]}))).lane == lane


def test_rows_have_the_schema_s_columns_and_types() -> None:
    batch = decode_batch(values(vitals(2)), SchemaCatalogue(Registry(id1=VITAL).fetch))
    assert batch.table.schema == pa.schema(
        [("patient", pa.string()), ("at", pa.timestamp("ms", "UTC")), ("rate", pa.int32()), ("kind", pa.string())]
    )
    assert batch.table.column("rate").to_pylist() == [None, 1]
    assert batch.table.column("kind").to_pylist() == ["PPG", "ECG"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"", "the value does not begin with 0x00 and a schema id"),
        (b"\x01" + prefix(1)[1:] + b"\x02a", "the value does not begin with 0x00 and a schema id"),
        (prefix(99) + b"\x02a", "schema id 99 is not one of this project's"),
        (prefix(1), "field patient: the record ends within a number"),
        (prefix(1) + zigzag(1 << 40), "field patient: 1099511627776 bytes are announced and 0 are left"),
        (prefix(1) + zigzag(-3), "field patient: -3 bytes are announced"),
        (prefix(1) + zigzag(2) + b"\xff\xfe", "field patient: text that is not UTF-8"),
        (prefix(1) + zigzag(1) + b"a" + b"\xff" * 11, "field at: a number of more than 10 bytes"),
        (prefix(1) + zigzag(1) + b"a" + zigzag((1 << 63) - 1), "field at: a number outside what timestamp-millis can be"),
        (prefix(1) + zigzag(1) + b"a" + zigzag(NOW) + zigzag(2), "field rate: branch 2 of a union of 2"),
        (prefix(1) + zigzag(1) + b"a" + zigzag(NOW) + zigzag(1) + zigzag(1 << 31), "field rate: a number outside what int can be"),
        (prefix(1) + zigzag(1) + b"a" + zigzag(NOW) + zigzag(0) + zigzag(-1), "field kind: symbol -1 of an enum of 2"),
        (prefix(1) + zigzag(1) + b"a" + zigzag(NOW) + zigzag(0) + zigzag(0) + b"!!", "2 bytes are left over after the record"),
    ],
)
@pytest.mark.parametrize("others", [0, 3, 500])
def test_a_record_that_is_not_right_is_rejected_alone_with_its_reason(damage: bytes, reason: str, others: int) -> None:
    good = values(vitals(others))
    place = others // 2
    batch = decode_batch([*good[:place], damage, *good[place:]], SchemaCatalogue(Registry(id1=VITAL).fetch))
    assert [reject.index for reject in batch.rejects] == [place]
    assert batch.rejects[0].reason.startswith(reason)
    assert batch.row_of.tolist() == [i for i in range(others + 1) if i != place]
    assert (batch.table.column("patient").to_pylist() if others else []) == [f"p{i}" for i in range(others)]


def test_a_record_cannot_swallow_its_neighbour() -> None:
    # The first announces as much text as the second has bytes; the third stands in for the second, so that the count is right.
    swallowed, stand_in = values(
        [{"patient": "victim", "at": NOW, "rate": 1, "kind": "ECG"}, {"patient": "b", "at": NOW, "rate": 2, "kind": "ECG"}]
    )
    tail = stand_in[5:].removeprefix(b"\x02b")
    thief = prefix(1) + zigzag(len(swallowed))
    batch = decode_batch([thief, swallowed, prefix(1) + tail], SchemaCatalogue(Registry(id1=VITAL).fetch))
    assert batch.table.column("patient").to_pylist() == ["victim"]
    assert [reject.index for reject in batch.rejects] == [0, 2]


def test_a_record_without_a_value_is_rejected() -> None:
    batch = decode_batch([None, *values(vitals(1)), None], SchemaCatalogue(Registry(id1=VITAL).fetch))
    assert [(r.index, r.reason) for r in batch.rejects] == [(0, "the record has no value"), (2, "the record has no value")]
    assert batch.row_of.tolist() == [1]


def test_an_endless_array_is_never_decoded() -> None:
    schema = {"type": "record", "name": "T", "fields": [{"name": "f", "type": {"type": "array", "items": "null"}}]}
    batch = decode_batch([prefix(1) + zigzag(1 << 60) + b"\x00"], SchemaCatalogue(Registry(id1=schema).fetch))
    assert "take no bytes" in batch.rejects[0].reason


def test_a_fixed_of_which_ten_bytes_would_reserve_gigabytes_is_never_decoded() -> None:
    kept = [{"name": f"f{each}", "type": ["null", {"type": "fixed", "name": f"F{each}", "size": 512}]} for each in range(3)]
    catalogue = SchemaCatalogue(
        Registry(
            id1={
                "type": "record",
                "name": "T",
                "fields": [{"name": "f", "type": ["null", {"type": "fixed", "name": "F", "size": 2**31 - 1}]}],
            },
            id2={"type": "record", "name": "T", "fields": kept},
            id3={"type": "record", "name": "T", "fields": kept[:2]},
        ).fetch
    )
    batch = decode_batch([prefix(1) + b"\x00"] * 2 + [prefix(2) + b"\x00\x00\x00", prefix(3) + b"\x00\x00"], catalogue)
    assert [each.index for each in batch.rejects] == [0, 1, 2]
    assert all("more than 1024 bytes a row" in each.reason for each in batch.rejects)
    assert batch.row_of.tolist() == [3]


def test_records_without_fields_are_rejected() -> None:
    batch = decode_batch([prefix(1)] * 2, SchemaCatalogue(Registry(id1={"type": "record", "name": "E", "fields": []}).fetch))
    assert [(r.index, r.reason) for r in batch.rejects] == [(0, "its schema has no fields"), (1, "its schema has no fields")]


def test_a_recursion_deeper_than_any_use_is_rejected() -> None:
    schema = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}
    deep, flat = prefix(1) + b"\x02" * 100_000 + b"\x00", prefix(1) + b"\x02\x00"
    batch = decode_batch([deep, flat], SchemaCatalogue(Registry(id1=schema).fetch))
    assert "inside itself more than 64 times" in batch.rejects[0].reason
    assert batch.table.to_pylist() == [{"next": '{"next":null}'}]


def test_a_union_of_several_types_becomes_a_column_for_each() -> None:
    schema = {"type": "record", "name": "T", "fields": [{"name": "f", "type": ["null", "long", "string"]}]}
    batch = decode_batch(values([{"f": 5}, {"f": "x"}, {"f": None}], schema), SchemaCatalogue(Registry(id1=schema).fetch))
    assert batch.table.column("f").to_pylist() == [{"long": 5, "string": None}, {"long": None, "string": "x"}, None]


def test_an_empty_batch_is_an_empty_table() -> None:
    batch = decode_batch([], SchemaCatalogue(Registry().fetch))
    assert (len(batch.table), len(batch.row_of), batch.rejects) == (0, 0, ())


OLD = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "gone", "type": "string"}]}
NEW = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "b", "type": "double", "aliases": ["a"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["none"]},
        {"name": "unit", "type": ["null", "string"], "default": None},
    ],
}


def test_records_of_earlier_schemas_are_resolved_to_the_newest_in_order() -> None:
    old = values([{"a": 1, "gone": "x"}, {"a": 3, "gone": "y"}], OLD, 1)
    new = values([{"b": 2.5, "tags": ["t"], "unit": "mV"}], NEW, 2)
    batch = decode_batch([old[0], new[0], old[1]], SchemaCatalogue(Registry(id1=OLD, id2=NEW).fetch))
    assert batch.table.to_pylist() == [
        {"b": 1.0, "tags": ["none"], "unit": None},
        {"b": 2.5, "tags": ["t"], "unit": "mV"},
        {"b": 3.0, "tags": ["none"], "unit": None},
    ]
    assert batch.row_of.tolist() == [0, 1, 2]


def test_records_that_do_not_resolve_to_the_reader_are_rejected() -> None:
    batch = decode_batch(
        values([{"b": 2.5, "tags": [], "unit": None}], NEW, 2), SchemaCatalogue(Registry(id2=NEW).fetch), reader=parse(json.dumps(OLD))
    )
    assert batch.rejects[0].reason.startswith("schema id 2 cannot be read as this dataset's schema: ")
    assert batch.table.column_names == ["a", "gone"]


def test_bytes_that_are_no_text_are_rejected_where_the_reader_wants_text() -> None:
    writer = {"type": "record", "name": "R", "fields": [{"name": "t", "type": "bytes"}]}
    reader = parse('{"type":"record","name":"R","fields":[{"name":"t","type":"string"}]}')
    batch = decode_batch(
        values([{"t": b"ok"}, {"t": b"\xff"}, {"t": b"fine"}], writer), SchemaCatalogue(Registry(id1=writer).fetch), reader=reader
    )
    assert batch.table.to_pylist() == [{"t": "ok"}, {"t": "fine"}]
    assert batch.row_of.tolist() == [0, 2]
    assert [r.index for r in batch.rejects] == [1]


def test_nested_records_and_enums_are_resolved() -> None:
    def nested(fields: list[dict[str, Any]], symbols: list[str], default: dict[str, str]) -> dict[str, Any]:
        inner = {"type": "record", "name": "I", "fields": fields}
        kind = {"type": "enum", "name": "E", "symbols": symbols, **default}
        return {
            "type": "record",
            "name": "R",
            "fields": [{"name": "i", "type": {"type": "array", "items": inner}}, {"name": "e", "type": kind}],
        }

    old = nested([{"name": "x", "type": "int"}, {"name": "y", "type": "int"}], ["A", "B"], {})
    new = nested([{"name": "y", "type": "long"}, {"name": "z", "type": "int", "default": 9}], ["A"], {"default": "A"})
    rows: list[dict[str, Any]] = [{"i": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "e": "B"}, {"i": [], "e": "A"}]
    batch = decode_batch(values(rows, old), SchemaCatalogue(Registry(id1=old).fetch), reader=parse(json.dumps(new)))
    assert batch.table.to_pylist() == [{"i": [{"y": 2, "z": 9}, {"y": 4, "z": 9}], "e": "A"}, {"i": [], "e": "A"}]


def test_a_schema_is_fetched_once_and_an_unknown_id_is_asked_again_only_later() -> None:
    registry, time = Registry(id1=VITAL), [0.0]
    catalogue = SchemaCatalogue(registry.fetch, monotonic=lambda: time[0])
    for _ in range(3):
        decode_batch([*values(vitals(1)), prefix(5) + b"x"], catalogue)
    assert registry.asked == [1, 5]
    registry.texts[5] = registry.texts[1]
    time[0] = 31.0
    assert decode_batch(values(vitals(1), schema_id=5), catalogue).rejects == ()


def test_a_registry_that_does_not_answer_rejects_nothing() -> None:
    def fetch(_: int) -> str:
        raise Unavailable("the registry does not answer")

    with pytest.raises(Unavailable):
        decode_batch(values(vitals(1)), SchemaCatalogue(fetch))


def test_a_field_may_have_the_name_of_the_guards() -> None:
    schema = {"type": "record", "name": "T", "fields": [{"name": "head", "type": "int"}, {"name": "tail", "type": "int"}]}
    batch = decode_batch(values([{"head": 1, "tail": 2}], schema), SchemaCatalogue(Registry(id1=schema).fetch))
    assert batch.table.to_pylist() == [{"head": 1, "tail": 2}]
