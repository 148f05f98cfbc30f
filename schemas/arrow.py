"""Avro types as Arrow types, and the values of one schema version as those of another.

Times keep their unit; times with an instant are UTC. Enums are text. A union of several types that are not null is a struct
with one nullable field for each branch. Where a record contains itself, the inner one is JSON text.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.avro import Array, Enum, Fixed, Logical, Map, Primitive, Record, Resolved, Schema, Type, Union, nullable_of, type_name
from schemas.compatibility.avro import unreadable, writer_field
from wardstream.errors import Conflict

_PLAIN = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "timestamp-nanos": pa.timestamp("ns", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "local-timestamp-nanos": pa.timestamp("ns"),
    "uuid": pa.string(),
}
MAX_DECIMAL_PRECISION = 38

# Years 1 to 9999: what Python, Delta and SQL can show. Nanoseconds end by themselves in 1677 and 2262.
_DAYS = (-719_162, 2_932_896)
_SECONDS = (-62_135_596_800, 253_402_300_799)
_LIMITS: dict[str, tuple[int, int]] = {
    "date": _DAYS,
    "time-millis": (0, 86_400_000 - 1),
    "time-micros": (0, 86_400_000_000 - 1),
    "timestamp-millis": (_SECONDS[0] * 10**3, _SECONDS[1] * 10**3 + 999),
    "timestamp-micros": (_SECONDS[0] * 10**6, _SECONDS[1] * 10**6 + 999_999),
    "local-timestamp-millis": (_SECONDS[0] * 10**3, _SECONDS[1] * 10**3 + 999),
    "local-timestamp-micros": (_SECONDS[0] * 10**6, _SECONDS[1] * 10**6 + 999_999),
}


def limits_of(kind: Type) -> tuple[int, int] | None:
    """Return the least and greatest number that a value of `kind` may be written as, or None where any fits."""
    if not isinstance(kind, Primitive):
        return None
    if kind.logical is not None and kind.logical.name in _LIMITS:
        return _LIMITS[kind.logical.name]
    return (-(2**31), 2**31 - 1) if kind.kind == "int" else None


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return the columns of decoded records; a schema that is not a record has one column `value`.

    Every column is nullable, whatever the schema says: types then stay equal when a field becomes optional.
    """
    root = schema.resolve(schema.root)
    if isinstance(root, Record):
        return pa.schema([pa.field(part.name, arrow_type(schema, part.type, frozenset({root.name}))) for part in root.fields])
    return pa.schema([pa.field("value", arrow_type(schema, root))])


def arrow_type(schema: Schema, named: Type, inside: frozenset[str] = frozenset()) -> pa.DataType:
    """Return the Arrow type of an Avro type; `inside` names the records around it."""
    kind = schema.resolve(named)
    if isinstance(kind, Primitive):
        return _decimal(kind.logical) or _logical(kind.logical) or _PLAIN[kind.kind]
    if isinstance(kind, Fixed):
        return _decimal(kind.logical) or pa.binary(kind.size)
    if isinstance(kind, Enum):
        return pa.string()
    if isinstance(kind, Array):
        return pa.list_(arrow_type(schema, kind.items, inside))
    if isinstance(kind, Map):
        return pa.map_(pa.string(), arrow_type(schema, kind.values, inside))
    if isinstance(kind, Union):
        inner = nullable_of(kind)
        if inner is not None:
            return arrow_type(schema, inner, inside)
        return pa.struct([pa.field(name, arrow_type(schema, branch, inside)) for name, branch in union_columns(schema, kind)])
    if kind.name in inside:
        return pa.string()
    return pa.struct([pa.field(part.name, arrow_type(schema, part.type, inside | {kind.name})) for part in kind.fields])


def union_columns(schema: Schema, union: Union) -> list[tuple[str, Type]]:
    """Return the struct fields that stand for a union's branches other than null: short names, made different where they clash."""
    branches = [schema.resolve(branch) for branch in union.branches if branch != Primitive("null")]
    short = [type_name(branch).rpartition(".")[2] for branch in branches]
    return [
        (name if short.count(name) == 1 else type_name(branch).replace(".", "_"), branch)
        for name, branch in zip(short, branches, strict=True)
    ]


def default_value(schema: Schema, named: Type, value: Any) -> Any:
    """Return a field's default, given as JSON, as the value that the slow lane would decode."""
    kind = schema.resolve(named)
    if isinstance(kind, Union):
        inner = nullable_of(kind)
        if inner is not None:
            return None if value is None else default_value(schema, inner, value)
        return None if value is None else _union_default(schema, kind, value)
    if isinstance(kind, Primitive | Fixed):
        return _scalar_default(kind, value)
    if isinstance(kind, Array):
        return [default_value(schema, kind.items, item) for item in value]
    if isinstance(kind, Map):
        return [(key, default_value(schema, kind.values, item)) for key, item in value.items()]
    if isinstance(kind, Record):
        return {part.name: default_value(schema, part.type, value.get(part.name, part.default)) for part in kind.fields}
    return value


def projection(*, writer: Schema, reader: Schema) -> Callable[[pa.Table], pa.Table]:
    """Return what turns a table of `writer` into one of `reader`: fields by name or alias, defaults, promotions.

    Raises `Conflict` with the reasons where the schemas do not resolve.
    """
    if writer.equality_text == reader.equality_text:
        return lambda table: table
    problems = unreadable(reader=reader, writer=writer)
    if problems:
        raise Conflict("; ".join(problems))
    target = arrow_schema(reader)
    wanted, given = reader.resolve(reader.root), writer.resolve(writer.root)

    def project(table: pa.Table) -> pa.Table:
        table = table.combine_chunks()
        if isinstance(wanted, Record) and isinstance(given, Record):
            columns = _record_columns(reader, wanted, writer, given, lambda name: _one(table.column(name)), len(table), target)
        else:
            columns = [_convert(reader, wanted, writer, given, _one(table.column(0)), target.field(0).type)]
        return pa.Table.from_arrays(columns, schema=target)

    return project


def _record_columns(
    reader: Schema,
    wanted: Record,
    writer: Schema,
    given: Record,
    column: Callable[[str], pa.Array],
    rows: int,
    target: pa.Schema | pa.StructType,
) -> list[pa.Array]:
    columns = []
    for number, field in enumerate(wanted.fields):
        source, kind = writer_field(field, given), target.field(number).type
        if source is None:
            value = default_value(reader, field.type, field.default)
            columns.append(pa.array([value] * rows, type=kind) if rows else pa.array([], type=kind))
        else:
            columns.append(_convert(reader, field.type, writer, source.type, column(source.name), kind))
    return columns


def _convert(reader: Schema, wanted: Type, writer: Schema, given: Type, array: pa.Array, target: pa.DataType) -> pa.Array:
    """Resolve one column. Nothing is lost: a number that the wider type cannot hold exactly is rounded as Avro has it."""
    wanted, given = _without_null(reader, wanted), _without_null(writer, given)
    if isinstance(wanted, Enum) and isinstance(given, Enum):
        unknown = pc.invert(pc.is_in(array, value_set=pa.array(wanted.symbols, pa.string()), skip_nulls=True))
        return pc.if_else(pc.and_(unknown, pc.is_valid(array)), wanted.default, array) if wanted.default is not None else array
    if isinstance(wanted, Record) and isinstance(given, Record) and pa.types.is_struct(array.type) and pa.types.is_struct(target):
        fields = _record_columns(reader, wanted, writer, given, lambda name: _child(array, name), len(array), target)
        return pa.StructArray.from_arrays(fields, fields=list(target), mask=pc.is_null(array))
    if isinstance(wanted, Array) and isinstance(given, Array):
        offsets, values = _list_parts(array)
        items = _convert(reader, wanted.items, writer, given.items, values, target.value_type)
        return pa.ListArray.from_arrays(offsets, items, type=target, mask=pc.is_null(array))
    if array.type == target:
        return array
    # Rounding to a float is Avro's promotion; bytes that are not UTF-8 are no string.
    return array.cast(target, safe=not pa.types.is_floating(target))


def _without_null(schema: Schema, named: Type) -> Resolved:
    kind = schema.resolve(named)
    inner = nullable_of(kind)
    return kind if inner is None else schema.resolve(inner)


def _list_parts(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Offsets from zero and the values they point into, also of a slice."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)), array.flatten()


def _child(array: pa.StructArray, name: str) -> pa.Array:
    return pc.struct_field(array, name)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )


def _logical(logical: Logical | None) -> pa.DataType | None:
    return _LOGICAL.get(logical.name) if logical is not None else None


def _decimal(logical: Logical | None) -> pa.DataType | None:
    """Decimals that Arrow's 128 bits cannot hold stay bytes."""
    if logical is None or logical.name != "decimal" or logical.precision > MAX_DECIMAL_PRECISION:
        return None
    return pa.decimal128(logical.precision, logical.scale)


def _scalar_default(kind: Primitive | Fixed, value: Any) -> Any:
    if isinstance(value, str) and (isinstance(kind, Fixed) or kind.kind == "bytes"):
        raw = value.encode("latin-1")
        if _decimal(kind.logical) is not None and kind.logical is not None:
            return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-kind.logical.scale)
        return raw
    if isinstance(kind, Primitive) and kind.kind in ("float", "double"):
        return float(value.replace("Infinity", "inf")) if isinstance(value, str) else float(value)
    return value


def _union_default(schema: Schema, union: Union, value: Any) -> dict[str, Any]:
    for name, branch in union_columns(schema, union):
        try:
            pa.array([default_value(schema, branch, value)], type=arrow_type(schema, branch))
        except (pa.ArrowException, TypeError, ValueError, AttributeError):
            continue
        return {name: default_value(schema, branch, value)}
    return {}
