"""JSON records as Avro values, and why some are not."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest

from topics.records import encode_records
from wardstream.errors import Invalid


def schema_of(kind: Any) -> str:
    return json.dumps({"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]})


def decoded(values: list[bytes], schema: str) -> list[Any]:
    parsed = fastavro.parse_schema(json.loads(schema))
    return [fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed, None) for value in values]


def logical(kind: str, name: str, **others: int) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **others}


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        ("int", 5, 5),
        ("int", 5.0, 5),
        ("double", 5, 5.0),
        ("string", "å", "å"),
        ("boolean", True, True),
        ("bytes", "\x00ÿ", b"\x00\xff"),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", b"ab"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "A", "A"),
        ({"type": "array", "items": "int"}, [1, 2], [1, 2]),
        ({"type": "map", "values": "double"}, {"a": 1}, {"a": 1.0}),
        (["null", "int"], None, None),
        (["null", "int"], 3, 3),
        (["null", "string", "long"], 3, 3),
        (["null", {"type": "record", "name": "A", "fields": [{"name": "x", "type": "int"}]}], {"x": 1}, {"x": 1}),
        (
            {"type": "record", "name": "I", "fields": [{"name": "next", "type": ["null", "I"]}]},
            {"next": {"next": None}},
            {"next": {"next": None}},
        ),
    ],
)
def test_a_value_that_fits_is_written(kind: Any, given: Any, read: Any) -> None:
    made = encode_records([{"f": given}], 7, schema_of(kind))
    assert made.misfits == []
    assert made.values[0][:5] == b"\x00\x00\x00\x00\x07"
    assert decoded(made.values, schema_of(kind)) == [{"f": read}]


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        (logical("long", "timestamp-millis"), "2026-11-24T12:00:00.5+00:00", 1_795_521_600_500),
        (logical("long", "timestamp-micros"), "2026-11-24T12:00:00Z", 1_795_521_600_000_000),
        (logical("long", "local-timestamp-millis"), "2026-11-24T12:00:00", 1_795_521_600_000),
        (logical("int", "date"), "1970-01-11", 10),
        (logical("int", "time-millis"), "00:00:01.250", 1_250),
    ],
)
def test_a_time_is_text_or_its_number(kind: dict[str, Any], text: str, number: int) -> None:
    both = encode_records([{"f": text}, {"f": number}], 7, schema_of(kind))
    assert both.misfits == []
    assert both.values[0] == both.values[1]
    assert decoded(both.values, schema_of(kind["type"]))[0] == {"f": number}


@pytest.mark.parametrize(("given", "unscaled"), [("12.34", 1234), (12.5, 1250), (-3, -300), ("0", 0), ("1.200", 120), ("1E+2", 10_000)])
def test_a_decimal_keeps_its_digits(given: Any, unscaled: int) -> None:
    made = encode_records([{"f": given}], 7, schema_of(logical("bytes", "decimal", precision=6, scale=2)))
    assert made.misfits == []
    assert int.from_bytes(decoded(made.values, schema_of("bytes"))[0]["f"], "big", signed=True) == unscaled


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("int", "5", "f: a whole number is wanted, not text"),
        ("int", 5.5, "f: a whole number is wanted"),
        ("int", True, "f: a whole number is wanted, not true or false"),
        ("int", 2**31, "f: the number is too large for int"),
        ("long", 2**63, "f: the number is too large for long"),
        ("double", float("nan"), "f: not a finite number"),
        ("double", 10**400, "f: the number is too large"),
        ("float", 1e300, "f: the number is too large for float"),
        ("string", 5, "f: text is wanted, not a number"),
        ("string", "\ud800", "f: text with half of a surrogate pair"),
        ("string", None, "f: text is wanted, not null"),
        ("bytes", "€", "f: text with one character"),
        ({"type": "fixed", "name": "F", "size": 2}, "abc", "f: 2 bytes"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "C", "f: one of A, B is wanted"),
        ({"type": "array", "items": "int"}, [1, "x"], "f[1]: a whole number is wanted"),
        ({"type": "map", "values": "int"}, {"patient-name": "x"}, "f.*: a whole number is wanted"),
        (["null", "int"], "x", "f: a whole number is wanted"),
        (["null", "int", "boolean"], "x", "f: a value of one of its types is wanted"),
        (logical("long", "timestamp-millis"), "yesterday", "f: a time as ISO 8601 text or a number"),
        (logical("long", "timestamp-millis"), "2026-11-24T12:00:00", "f: the time must say its zone"),
        (logical("int", "date"), "24.11.2026", "f: a date such as"),
        (logical("bytes", "decimal", precision=4, scale=2), "123.45", "f: a number of at most 4 digits"),
        (logical("bytes", "decimal", precision=4, scale=2), "1.234", "f: a number of at most 4 digits"),
        (logical("bytes", "decimal", precision=4, scale=2), "1e999999", "f: a number of at most 4 digits"),
        (logical("bytes", "decimal", precision=4, scale=2), "9" * 5000, "f: a number of at most 4 digits"),
        (logical("bytes", "decimal", precision=4, scale=2), "many", "f: a number, best as text"),
    ],
)
def test_a_value_that_does_not_fit_is_named_without_itself(kind: Any, given: Any, reason: str) -> None:
    made = encode_records([{"f": given}], 7, schema_of(kind))
    assert made.values == []
    assert made.misfits[0].reason.startswith(reason)
    assert "patient" not in made.misfits[0].reason


def test_fields_are_named_when_missing_or_unknown() -> None:
    schema = json.dumps(
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "string", "default": "x"}]}
    )
    made = encode_records([{"a": 1}, {}, {"a": 1, "c": 2}, 5, {"a": 2, "b": "y"}], 7, schema)
    assert decoded(made.values, schema) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert made.rows == [0, 4]
    assert [(m.index, m.reason) for m in made.misfits] == [
        (1, "field a is missing"),
        (2, "field 'c' is not in the schema; its fields are a, b"),
        (3, "an object is wanted, not a number"),
    ]


def test_a_schema_that_cannot_be_used_is_said() -> None:
    with pytest.raises(Invalid, match="schema id 7"):
        encode_records([], 7, '{"type":"record"}')


def test_a_record_without_end_and_a_broken_key_cost_no_other_record() -> None:
    schema = schema_of(
        {"type": "map", "values": ["null", {"type": "record", "name": "I", "fields": [{"name": "next", "type": ["null", "I"]}]}]}
    )
    deep: dict[str, Any] = {"next": None}
    for _ in range(3000):
        deep = {"next": deep}
    made = encode_records([{"f": {"a": deep}}, {"f": {"\ud800": None}}, {"f": {"a": None}}], 1, schema)
    assert made.rows == [2]
    assert [(each.index, each.reason) for each in made.misfits] == [
        (0, "the record is nested too deeply"),
        (1, "f.*: text with half of a surrogate pair"),
    ]


def test_a_decimal_that_its_schema_lets_be_long_is_written_whole() -> None:
    schema = schema_of(logical("bytes", "decimal", precision=6000, scale=2))
    made = encode_records([{"f": "9" * 5000}], 1, schema)
    assert made.misfits == []
    assert int.from_bytes(made.values[0][7:], "big", signed=True) == (10**5000 - 1) * 100
