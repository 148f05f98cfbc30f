"""The fast lane: datums of one schema, joined into an object container in memory, read by polars in one call.

Two things make that exact where a plain container is not:

- *Types are rewritten to what polars reads without loss.* The bytes stay: an enum is written like a long, a map like an array of
  pairs, a time like its number; an `int` is read as a long, so that one that is too large is noticed rather than cut.
  What the rewritten columns mean is put back in Arrow.
- *A random word stands before and behind each datum,* as a field of the container's schema. A datum that is too long or too
  short would shift all records after it, silently, also those of other devices; here the word is then not where it must be.
  It also carries the record's prefix, so the prefixes are checked and need not be cut off.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrow import MAX_DECIMAL_PRECISION, arrow_schema, arrow_type, limits_of
from schemas.avro import Array, Enum, Fixed, Map, Primitive, Record, Resolved, Schema, Type, Union, is_recursive, nullable_of

PREFIX_BYTES = 5
_SYNC = bytes(16)
_HEAD_NOISE, _TAIL_NOISE = 3, 8

_Finish = Callable[[pa.Array], pa.Array]


class Doubtful(Exception):
    """Some datum is not as the schema says; which one is for the row decoder to find."""


@dataclass(frozen=True)
class _Column:
    name: str
    wire: Any
    """Avro type for polars, None where nothing is written (null)."""
    finish: _Finish
    target: pa.DataType


class ColumnDecoder:
    """Decodes batches of one schema; made once per schema."""

    def __init__(self, columns: Sequence[_Column], target: pa.Schema) -> None:
        self._columns = columns
        self._target = target
        self._header = _container_header(columns)

    def decode(self, values: Sequence[bytes]) -> pa.Table:
        """Return the rows of `values`, which carry the wire format's prefix; raises `Doubtful` if any is not right.

        All must begin with the prefix of the first.
        """
        noise = secrets.token_bytes(_HEAD_NOISE + _TAIL_NOISE)
        head, tail = noise[:_HEAD_NOISE], noise[_HEAD_NOISE:]
        body = b"".join((head, (tail + head).join(values), tail))
        block = b"".join((self._header, zigzag(len(values)), zigzag(len(body)), body, _SYNC))
        table = _read(block)
        if len(table) != len(values):
            raise Doubtful
        _require_all(table.column(0), head + values[0][:PREFIX_BYTES])
        _require_all(table.column(table.num_columns - 1), tail)
        made, position = [], 1
        for column in self._columns:
            if column.wire is None:
                made.append(pa.nulls(len(values), column.target))
                continue
            try:
                made.append(column.finish(_one(table.column(position))))
            except pa.ArrowException as error:
                raise Doubtful from error
            position += 1
        return pa.Table.from_arrays(made, schema=self._target)


def column_decoder(schema: Schema) -> ColumnDecoder | None:
    """Return the fast decoder of `schema`, or None where its values do not fit into columns without loss."""
    root = schema.resolve(schema.root)
    if not isinstance(root, Record) or not root.fields or is_recursive(schema):
        return None
    columns = []
    for field in root.fields:
        column = _column(schema, field.name, field.type)
        if column is None:
            return None
        columns.append(column)
    return ColumnDecoder(columns, arrow_schema(schema))


def zigzag(number: int) -> bytes:
    """Return an Avro long."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read(block: bytes) -> pa.Table:
    try:
        return pl.read_avro(io.BytesIO(block)).to_arrow()
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise Doubtful from error
    except BaseException as error:
        # A Rust panic reaches Python as a BaseException of a class that cannot be imported.
        if type(error).__name__ == "PanicException":
            raise Doubtful from error
        raise


def _require_all(column: pa.ChunkedArray, word: bytes) -> None:
    found = column.to_numpy().view(np.uint64)
    if not (found == np.frombuffer(word, np.uint64)[0]).all():
        raise Doubtful


def _container_header(columns: Sequence[_Column]) -> bytes:
    taken = {column.name for column in columns}
    head, tail = _free_name("head", taken), _free_name("tail", taken)
    fields = [{"name": column.name, "type": column.wire} for column in columns if column.wire is not None]
    guarded = [{"name": head, "type": "double"}, *fields, {"name": tail, "type": "double"}]
    text = orjson.dumps({"type": "record", "name": "Row", "fields": guarded})
    entries = b"".join(zigzag(len(part)) + part for part in (b"avro.schema", text, b"avro.codec", b"null"))
    return b"Obj\x01" + zigzag(2) + entries + zigzag(0) + _SYNC


def _free_name(wish: str, taken: set[str]) -> str:
    while wish in taken:
        wish += "_"
    return wish


def _column(schema: Schema, name: str, named: Type) -> _Column | None:
    kind = schema.resolve(named)
    target = arrow_type(schema, kind)
    inner = nullable_of(kind)
    bare = schema.resolve(inner) if inner is not None else kind
    if bare == Primitive("null"):
        return _Column(name, None, lambda array: array, target) if inner is None else None
    made = _finished(schema, bare, target)
    if made is None:
        return None
    wire, finish = made
    if inner is not None and isinstance(kind, Union):
        wire = ["null", wire] if kind.branches[0] == Primitive("null") else [wire, "null"]
    return _Column(name, wire, finish, target)


def _finished(schema: Schema, kind: Resolved, target: pa.DataType) -> tuple[Any, _Finish] | None:
    """Return how polars is to read the type, and what makes the wanted array of the outcome."""
    if isinstance(kind, Enum):
        return "long", _symbols(kind)
    if isinstance(kind, Map):
        values = _wire(schema, kind.values, _Names())
        return None if values is None else ({"type": "array", "items": _pair(values)}, _map(schema, kind, target))
    if isinstance(kind, Primitive | Fixed) and kind.logical is not None and kind.logical.name == "decimal":
        return _decimal(kind, target)
    if isinstance(kind, Primitive) and pa.types.is_integer(pa.int32()) and _is_small(kind):
        return "long", lambda array: _limited(schema, kind, array).cast(pa.int32()).cast(target)
    wire = _wire(schema, kind, _Names())
    return None if wire is None else (wire, lambda array: _limited(schema, kind, array).cast(target))


def _is_small(kind: Primitive) -> bool:
    """An int, which also carries dates and times of day in milliseconds."""
    return kind.kind == "int"


class _Names:
    """Fresh names: a named type that is used twice is written out twice."""

    def __init__(self) -> None:
        self._given = 0

    def next(self) -> str:
        self._given += 1
        return f"N{self._given}"


def _wire(schema: Schema, named: Type, names: _Names) -> Any:
    """Return the type for polars inside a column; None where something in it needs more than a cast."""
    kind = schema.resolve(named)
    if isinstance(kind, Primitive):
        if kind.kind == "null" or (kind.kind == "int" and kind.logical is not None):
            return None
        if kind.logical is not None and kind.logical.name == "decimal":
            return None
        return "long" if kind.kind == "int" else kind.kind
    if isinstance(kind, Array):
        items = _wire(schema, kind.items, names)
        return None if items is None else {"type": "array", "items": items}
    if isinstance(kind, Fixed):
        return {"type": "fixed", "name": names.next(), "size": kind.size} if kind.size and kind.logical is None else None
    if isinstance(kind, Union):
        inner = nullable_of(kind)
        wire = _wire(schema, inner, names) if inner is not None else None
        if wire is None:
            return None
        return ["null", wire] if kind.branches[0] == Primitive("null") else [wire, "null"]
    if isinstance(kind, Record) and kind.fields:
        name = names.next()
        fields = [{"name": part.name, "type": _wire(schema, part.type, names)} for part in kind.fields]
        return None if any(part["type"] is None for part in fields) else {"type": "record", "name": name, "fields": fields}
    return None


def _pair(values: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Pair", "fields": [{"name": "key", "type": "string"}, {"name": "value", "type": values}]}


def _symbols(kind: Enum) -> _Finish:
    symbols = pa.array(kind.symbols, pa.string())

    def finish(array: pa.Array) -> pa.Array:
        _require_within(array, 0, len(symbols) - 1)
        return symbols.take(array)

    return finish


def _map(schema: Schema, kind: Map, target: pa.MapType) -> _Finish:
    def finish(array: pa.Array) -> pa.Array:
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), mask=_null_offsets(array))
        pairs = array.flatten()
        keys = pc.struct_field(pairs, "key").cast(pa.string())
        values = _limited(schema, kind.values, pc.struct_field(pairs, "value")).cast(target.item_type)
        return pa.MapArray.from_arrays(offsets, keys, values).cast(target)

    return finish


def _null_offsets(array: pa.Array) -> Any:
    """A map is null where its own offset is."""
    return np.append(pc.is_null(array).to_numpy(zero_copy_only=False), False) if array.null_count else None


def _decimal(kind: Primitive | Fixed, target: pa.DataType) -> tuple[Any, _Finish] | None:
    logical = kind.logical
    if logical is None or logical.precision > MAX_DECIMAL_PRECISION or (isinstance(kind, Fixed) and not 0 < kind.size <= 16):
        return None
    words = {"logicalType": "decimal", "precision": logical.precision, "scale": logical.scale}
    wire = {"type": "fixed", "name": "D", "size": kind.size, **words} if isinstance(kind, Fixed) else {"type": "bytes", **words}

    def finish(array: pa.Array) -> pa.Array:
        made = array.cast(target)
        made.validate(full=True)  # polars takes more digits than the precision allows
        return made

    return wire, finish


def _limited(schema: Schema, named: Type, array: pa.Array) -> pa.Array:
    """Return `array`; raises `Doubtful` where a number in it, at any depth, is out of its type's range."""
    kind = schema.resolve(named)
    inner = nullable_of(kind)
    if inner is not None:
        return _limited(schema, inner, array)
    limits = limits_of(kind)
    if limits is not None:
        _require_within(array, *limits)
    elif isinstance(kind, Array):
        _limited(schema, kind.items, array.flatten())
    elif isinstance(kind, Record):
        for part in kind.fields:
            _limited(schema, part.type, pc.struct_field(array, part.name))
    return array


def _require_within(array: pa.Array, low: int, high: int) -> None:
    ends = pc.min_max(array)
    least, most = ends["min"].as_py(), ends["max"].as_py()
    if least is not None and (least < low or most > high):
        raise Doubtful


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
