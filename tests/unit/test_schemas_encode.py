"""Rows of a table as records."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from schemas.avro import Schema, parse
from schemas.encode import encode_table
from wardstream.errors import Invalid


def schema_of(kind: Any) -> Schema:
    return parse(json.dumps({"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]}))


def read(values: list[bytes], schema: Schema) -> list[Any]:
    parsed = fastavro.parse_schema(json.loads(schema.text))
    rows: list[Any] = [fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed, None) for value in values]
    return [row["f"] for row in rows]


def test_each_value_begins_with_the_schema_id() -> None:
    assert encode_table(pa.table({"f": [1]}), 258, schema_of("int")) == [b"\x00\x00\x00\x01\x02\x02"]


def test_columns_are_cast_where_nothing_is_lost() -> None:
    moments = pa.array([datetime(2026, 11, 24, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    schema = schema_of({"type": "long", "logicalType": "timestamp-millis"})
    assert read(encode_table(pa.table({"f": moments}), 1, schema), schema) == [datetime(2026, 11, 24, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("kind", "column", "complaint"),
    [
        ("int", pa.array([1 << 40]), "column f is int64 and does not fit int32"),
        ("long", pa.array(["x"]), "column f is string and does not fit int64"),
        ("long", pa.array([1, None]), "column f has 1 nulls"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, pa.array(["B"]), "none of A"),
        ({"type": "array", "items": "int"}, pa.array([[1, None]]), "column f has 1 nulls"),
        ({"type": "fixed", "name": "F", "size": 2}, pa.array([b"abc"]), "does not fit"),
    ],
)
def test_a_column_that_does_not_fit_is_named(kind: Any, column: pa.Array, complaint: str) -> None:
    with pytest.raises(Invalid) as refusal:
        encode_table(pa.table({"f": column}), 1, schema_of(kind))
    assert complaint in refusal.value.message


def test_a_missing_column_is_named() -> None:
    with pytest.raises(Invalid, match="column f is missing"):
        encode_table(pa.table({"g": [1]}), 1, schema_of("int"))


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("string", pa.array(["a", "bc", "", "def", "g"])),
        (["null", "string"], pa.array(["a", None, "", None, "g"])),
        ({"type": "array", "items": "long"}, pa.array([[1], [], [2, 3], [1 << 60], [-1]])),
        ({"type": "map", "values": "int"}, pa.array([{"a": 1}, {}, {"b": 2, "c": 3}, {"d": 4}, {}], pa.map_(pa.string(), pa.int32()))),
        ({"type": "fixed", "name": "F", "size": 2}, pa.array([b"ab", b"cd", b"ef", b"gh", b"ij"], pa.binary(2))),
        (["long", "null"], pa.array([1, None, 2, None, 3])),
    ],
)
def test_a_slice_is_written_as_its_own_rows(kind: Any, column: pa.Array) -> None:
    schema = schema_of(kind)
    whole = read(encode_table(pa.table({"f": column}), 1, schema), schema)
    assert read(encode_table(pa.table({"f": column.slice(1, 3)}), 1, schema), schema) == whole[1:4]


def test_chunks_are_written_in_order() -> None:
    column = pa.chunked_array([pa.array(["a"]), pa.array([], pa.string()), pa.array(["b", "c"])])
    schema = schema_of("string")
    assert read(encode_table(pa.table({"f": column}), 1, schema), schema) == ["a", "b", "c"]


def test_no_rows_are_no_records() -> None:
    assert encode_table(pa.table({"f": pa.array([], pa.int32())}), 1, schema_of("int")) == []


def test_a_recursive_record_cannot_be_written_from_a_table() -> None:
    with pytest.raises(Invalid, match="contains itself"):
        encode_table(pa.table({"f": [None]}), 1, schema_of(["null", "R"]))
