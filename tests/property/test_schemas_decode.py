"""Decoded columns hold what fastavro reads, for any schema and any records, and a damaged record rejects itself alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.arrow import arrow_schema, union_columns
from schemas.avro import Array, Map, Primitive, Record, Schema, Type, Union, nullable_of, parse
from schemas.decode import SchemaCatalogue, decode_batch
from schemas.encode import encode_table

PREFIX = b"\x00\x00\x00\x00\x07"

Shown = dict[str, Any] | list[Any] | str


@dataclass
class Drawn:
    """A type and how to draw its values."""

    shown: Shown
    values: st.SearchStrategy[Any]


@dataclass
class Names:
    count: int = field(default=0)

    def next(self) -> str:
        self.count += 1
        return f"T{self.count}"


def _logical(kind: str, name: str, low: int, high: int) -> Drawn:
    return Drawn({"type": kind, "logicalType": name}, st.integers(low, high))


def _scalars() -> list[Drawn]:
    text = st.text(st.characters(codec="utf-8"), max_size=12)
    return [
        Drawn("boolean", st.booleans()),
        Drawn("int", st.integers(-(2**31), 2**31 - 1)),
        Drawn("long", st.integers(-(2**63), 2**63 - 1)),
        Drawn("float", st.floats(width=32, allow_nan=False)),
        Drawn("double", st.floats(allow_nan=False)),
        Drawn("bytes", st.binary(max_size=12)),
        Drawn("string", text),
        _logical("int", "date", -700_000, 2_900_000),
        _logical("int", "time-millis", 0, 86_399_999),
        _logical("long", "time-micros", 0, 86_399_999_999),
        _logical("long", "timestamp-millis", -62_135_596_800_000, 253_402_300_799_999),
        _logical("long", "timestamp-micros", -62_135_596_800_000_000, 253_402_300_799_999_999),
        _logical("long", "timestamp-nanos", -(2**63), 2**63 - 1),
        _logical("long", "local-timestamp-millis", -62_135_596_800_000, 253_402_300_799_999),
        Drawn({"type": "string", "logicalType": "uuid"}, st.uuids().map(str)),
    ]


@st.composite
def types(draw: st.DrawFn, names: Names, depth: int = 2) -> Drawn:
    kinds = ["scalar"] * 4 + ["enum", "fixed", "decimal", "nullable"] + (["array", "map", "record", "union"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "enum":
        symbols = ["A", "B", "C_1"]
        return Drawn({"type": "enum", "name": names.next(), "symbols": symbols}, st.sampled_from(symbols))
    if kind == "fixed":
        size = draw(st.integers(1, 6))
        return Drawn({"type": "fixed", "name": names.next(), "size": size}, st.binary(min_size=size, max_size=size))
    if kind == "decimal":
        precision = draw(st.sampled_from([4, 18, 38]))
        scale = draw(st.integers(0, precision))
        unscaled = st.integers(-(10**precision) + 1, 10**precision - 1)
        return Drawn({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}, unscaled.map(signed_bytes))
    if kind == "nullable":
        inner = draw(types(names, depth).filter(lambda d: not isinstance(d.shown, list)))
        branches = draw(st.permutations(["null", inner.shown]))
        return Drawn(list(branches), st.none() | inner.values)
    if kind == "array":
        items = draw(types(names, depth - 1))
        return Drawn({"type": "array", "items": items.shown}, st.lists(items.values, max_size=3))
    if kind == "map":
        held = draw(types(names, depth - 1))
        return Drawn({"type": "map", "values": held.shown}, st.dictionaries(st.text("abc", max_size=3), held.values, max_size=3))
    if kind == "record":
        return draw(records(names, depth - 1))
    if kind == "union":
        return Drawn(["long", "null", "string"], st.none() | st.integers(-5, 5) | st.text("xyz", max_size=3))
    return draw(st.sampled_from(_scalars()))


@st.composite
def records(draw: st.DrawFn, names: Names, depth: int = 2) -> Drawn:
    name = names.next()
    fields = draw(st.lists(types(names, depth), min_size=1, max_size=5))
    shown = {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": f.shown} for i, f in enumerate(fields)]}
    return Drawn(shown, st.fixed_dictionaries({f"f{i}": f.values for i, f in enumerate(fields)}))


@st.composite
def schemas_and_records(draw: st.DrawFn) -> tuple[Schema, list[dict[str, Any]]]:
    drawn = draw(records(Names()))
    return parse(json.dumps(drawn.shown)), draw(st.lists(drawn.values, min_size=1, max_size=40))


def signed_bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() // 8) + 1, "big", signed=True)


def bare(shown: Any) -> Any:
    """The schema without logical types: fastavro then writes and reads what stands in the bytes."""
    if isinstance(shown, dict):
        return {key: bare(value) for key, value in shown.items() if key not in ("logicalType", "precision", "scale")}
    return [bare(part) for part in shown] if isinstance(shown, list) else shown


def written(schema: Schema, rows: list[dict[str, Any]]) -> list[bytes]:
    parsed = fastavro.parse_schema(bare(json.loads(schema.text)))
    values = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, row)
        values.append(PREFIX + out.getvalue())
    return values


def in_arrow(schema: Schema, named: Type, value: Any) -> Any:
    """What fastavro read, in the shape that Arrow takes."""
    kind = schema.resolve(named)
    if isinstance(kind, Union):
        inner = nullable_of(kind)
        if value is None:
            return None
        if inner is not None:
            return in_arrow(schema, inner, value)
        words = {int: "long", str: "string"}
        name, branch = next((n, b) for n, b in union_columns(schema, kind) if n == words[type(value)])
        return {name: in_arrow(schema, branch, value)}
    if isinstance(kind, Record):
        return {part.name: in_arrow(schema, part.type, value[part.name]) for part in kind.fields}
    if isinstance(kind, Array):
        return [in_arrow(schema, kind.items, item) for item in value]
    if isinstance(kind, Map):
        return [(key, in_arrow(schema, kind.values, item)) for key, item in value.items()]
    if isinstance(kind, Primitive) and kind.logical is not None and kind.logical.name == "decimal":
        number = int.from_bytes(value, "big", signed=True)
        return Decimal((int(number < 0), tuple(int(d) for d in str(abs(number))), -kind.logical.scale))
    return value


def expected(schema: Schema, values: list[bytes]) -> pa.Table:
    parsed = fastavro.parse_schema(bare(json.loads(schema.text)))
    rows = [in_arrow(schema, schema.root, fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed, None)) for value in values]
    return pa.Table.from_pylist(rows, schema=arrow_schema(schema))


def catalogue(schema: Schema) -> SchemaCatalogue:
    return SchemaCatalogue(lambda _: schema.text)


def rows_only(schema: Schema) -> Callable[[list[bytes]], pa.Table]:
    return lambda values: catalogue(schema).codec(7).one_by_one(values)[0]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=150)
@given(schemas_and_records())
def test_decoding_equals_fastavro(case: tuple[Schema, list[dict[str, Any]]]) -> None:
    schema, rows = case
    values = written(schema, rows)
    batch = decode_batch(values, catalogue(schema))
    assert batch.rejects == ()
    assert batch.row_of.tolist() == list(range(len(values)))
    assert batch.table.equals(expected(schema, values))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=100)
@given(schemas_and_records())
def test_row_by_row_equals_fastavro(case: tuple[Schema, list[dict[str, Any]]]) -> None:
    schema, rows = case
    values = written(schema, rows)
    assert rows_only(schema)(values).equals(expected(schema, values))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=150)
@given(schemas_and_records(), st.data())
def test_a_damaged_record_never_changes_another(case: tuple[Schema, list[dict[str, Any]]], data: st.DataObject) -> None:
    schema, rows = case
    values = written(schema, rows * 3)
    place = data.draw(st.integers(0, len(values) - 1))
    cut = data.draw(st.integers(5, len(values[place])))
    damaged = values[place][:cut] + data.draw(st.binary(max_size=8))
    batch = decode_batch([*values[:place], damaged, *values[place + 1 :]], catalogue(schema))
    others = [i for i in range(len(values)) if i != place]
    rejected = [r.index for r in batch.rejects]
    assert sorted([*batch.row_of.tolist(), *rejected]) == list(range(len(values)))
    assert set(rejected) <= {place}
    kept = [i for i, row in enumerate(batch.row_of.tolist()) if row != place]
    assert batch.table.take(kept).equals(expected(schema, [values[i] for i in others]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=100)
@given(schemas_and_records())
def test_encoding_a_decoded_table_gives_the_same_records(case: tuple[Schema, list[dict[str, Any]]]) -> None:
    schema, rows = case
    values = written(schema, rows)
    table = decode_batch(values, catalogue(schema)).table
    again = decode_batch(encode_table(table, 7, schema), catalogue(schema))
    assert again.rejects == ()
    assert again.table.equals(table)
