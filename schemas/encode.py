"""Arrow rows as records: the wire format's prefix and an Avro datum each, made column by column.

A column becomes one run of bytes with a length for each row; rows are put together from the runs by numpy.
Nothing here loops over rows in Python but decimals and the last cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrow import arrow_type, union_columns
from schemas.avro import Array, Enum, Fixed, Map, Primitive, Record, Schema, Type, Union, is_recursive, nullable_of
from wardstream.errors import Invalid

Bytes = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Run:
    """The bytes of all rows after each other, and how many belong to each."""

    data: Bytes
    lengths: Lengths


def encode_table(table: pa.Table, schema_id: int, schema: Schema) -> list[bytes]:
    """Return one record value for each row, in order, with the five-byte prefix.

    Columns are found by name and cast where nothing is lost. Raises `Invalid` naming a column that is missing, does not
    fit its type or has nulls that the schema does not allow.
    """
    root = schema.resolve(schema.root)
    if not isinstance(root, Record):
        raise Invalid("only records can be written from a table")
    if is_recursive(schema):
        raise Invalid(f"{root.name} contains itself: such records cannot be written from a table")
    rows = len(table)
    if rows == 0:
        return []
    prefix = b"\x00" + schema_id.to_bytes(4, "big")
    runs = [_constant(prefix, rows)]
    for field in root.fields:
        if field.name not in table.column_names:
            raise Invalid(f"column {field.name} is missing: the schema has {', '.join(part.name for part in root.fields)}")
        column = table.column(field.name)
        runs.append(
            _encoded(schema, field.type, _fitted(column, arrow_type(schema, field.type, frozenset({root.name})), field.name), field.name)
        )
    whole = _joined(runs)
    ends = np.cumsum(whole.lengths)
    raw = whole.data.tobytes()
    return [raw[start:end] for start, end in zip((ends - whole.lengths).tolist(), ends.tolist(), strict=True)]


def _fitted(column: pa.ChunkedArray, target: pa.DataType, name: str) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if array.type == target:
        return array
    try:
        return array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        # Arrow's message quotes the value.
        raise Invalid(f"column {name} is {array.type} and does not fit {target} without loss") from error


def _encoded(schema: Schema, named: Type, array: pa.Array, where: str) -> _Run:
    """Encode every slot of `array`; null slots of types that allow no null are refused."""
    kind = schema.resolve(named)
    if isinstance(kind, Union):
        return _union(schema, kind, array, where)
    if kind == Primitive("null"):
        return _Run(np.empty(0, np.uint8), np.zeros(len(array), np.int64))
    if array.null_count:
        raise Invalid(f"column {where} has {array.null_count} nulls and its schema allows none")
    if isinstance(kind, Record):
        parts = [_encoded(schema, part.type, pc.struct_field(array, part.name), f"{where}.{part.name}") for part in kind.fields]
        return _joined(parts) if parts else _Run(np.empty(0, np.uint8), np.zeros(len(array), np.int64))
    if isinstance(kind, Array):
        counts = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
        return _blocks(counts, _encoded(schema, kind.items, array.flatten(), where))
    if isinstance(kind, Map):
        # Keys and items of a slice are those of the whole array.
        offsets = array.offsets.to_numpy()
        keys, items = array.keys[offsets[0] : offsets[-1]], array.items[offsets[0] : offsets[-1]]
        pairs = _joined([_text(keys.cast(pa.binary())), _encoded(schema, kind.values, items, where)])
        return _blocks(np.diff(offsets).astype(np.int64), pairs)
    if isinstance(kind, Enum):
        places = pc.index_in(array, value_set=pa.array(kind.symbols, pa.string()))
        if places.null_count:
            raise Invalid(f"column {where} has values that are none of {', '.join(kind.symbols)}")
        return _longs(places.to_numpy(zero_copy_only=False).astype(np.int64))
    if pa.types.is_decimal(array.type):
        return _decimals(kind, array)
    if isinstance(kind, Fixed):
        flat = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * kind.size : (array.offset + len(array)) * kind.size]
        return _Run(flat, np.full(len(array), kind.size, np.int64))
    return _primitive(kind, array)


def _primitive(kind: Primitive, array: pa.Array) -> _Run:
    if kind.kind in ("string", "bytes"):
        return _text(array if kind.kind == "bytes" else array.cast(pa.binary()))
    if kind.kind == "boolean":
        return _Run(array.cast(pa.uint8()).to_numpy(zero_copy_only=False), np.ones(len(array), np.int64))
    if kind.kind in ("float", "double"):
        width = 4 if kind.kind == "float" else 8
        numbers = np.ascontiguousarray(array.to_numpy(zero_copy_only=False).astype(f"<f{width}", copy=False))
        return _Run(numbers.view(np.uint8), np.full(len(array), width, np.int64))
    if pa.types.is_date32(array.type) or pa.types.is_time32(array.type):
        array = array.cast(pa.int32())
    return _longs(array.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _union(schema: Schema, kind: Union, array: pa.Array, where: str) -> _Run:
    null_at = next((number for number, branch in enumerate(kind.branches) if branch == Primitive("null")), None)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    if null_at is None and not present.all():
        raise Invalid(f"column {where} has nulls and its schema allows none")
    chosen = np.full(len(array), null_at if null_at is not None else 0, np.int64)
    inner = nullable_of(kind)
    if inner is not None:
        chosen[present] = 1 - (null_at or 0)
        values = _spread(_encoded(schema, inner, array.drop_null(), where), present)
        return _joined([_longs(chosen), values])
    runs = []
    for name, branch in union_columns(schema, kind):
        number = next(i for i, candidate in enumerate(kind.branches) if schema.resolve(candidate) is branch)
        column = pc.struct_field(array, name)
        here = column.is_valid().to_numpy(zero_copy_only=False) & present
        chosen[here] = number
        runs.append(_spread(_encoded(schema, branch, column.filter(pa.array(here)), where), here))
    if sum(int((run.lengths > 0).sum()) for run in runs) > len(array):
        raise Invalid(f"column {where} has rows with more than one branch of its union")
    return _joined([_longs(chosen), *runs])


def _spread(run: _Run, present: npt.NDArray[np.bool_]) -> _Run:
    """Give the rows that are not present no bytes."""
    lengths = np.zeros(len(present), np.int64)
    lengths[present] = run.lengths
    return _Run(run.data, lengths)


def _blocks(counts: Lengths, items: _Run) -> _Run:
    """Arrays and maps: the number of items, the items, and a zero; an empty one is the zero alone."""
    ends = np.concatenate(([0], np.cumsum(items.lengths)))
    borders = np.concatenate(([0], np.cumsum(counts)))
    held = _Run(items.data, ends[borders[1:]] - ends[borders[:-1]])
    filled = counts > 0
    heads = _spread(_longs(counts[filled]), filled)
    return _joined([heads, held, _constant(b"\x00", len(counts))])


def _text(array: pa.Array) -> _Run:
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    buffer = array.buffers()[2]
    data = np.frombuffer(buffer, np.uint8)[offsets[0] : offsets[-1]] if buffer is not None else np.empty(0, np.uint8)
    lengths = np.diff(offsets)
    return _joined([_longs(lengths), _Run(data, lengths)])


def _longs(numbers: npt.NDArray[np.int64]) -> _Run:
    """Zigzag varints."""
    coded = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    lengths = np.ones(len(coded), np.int64)
    for shift in range(7, 64, 7):
        longer = coded >> np.uint64(shift) != 0
        if not longer.any():
            break
        lengths += longer
    width = int(lengths.max(initial=1))
    parts = np.empty((len(coded), width), np.uint8)
    for place in range(width):
        parts[:, place] = (coded >> np.uint64(7 * place)).astype(np.uint8) & 0x7F
        parts[:, place] |= np.where(lengths > place + 1, 0x80, 0).astype(np.uint8)
    return _Run(parts[np.arange(width) < lengths[:, None]], lengths)


def _decimals(kind: Fixed | Primitive, array: pa.Array) -> _Run:
    size = kind.size if isinstance(kind, Fixed) else None
    made = [_signed(_unscaled(value), size) for value in array.to_pylist()]
    lengths = np.array([len(one) for one in made], np.int64)
    data = _Run(np.frombuffer(b"".join(made), np.uint8), lengths)
    return data if isinstance(kind, Fixed) else _joined([_longs(lengths), data])


def _unscaled(value: Decimal) -> int:
    """The digits as a number: arithmetic on the decimal itself would round to 28 of them."""
    parts = value.as_tuple()
    number = int("".join(map(str, parts.digits)))
    return -number if parts.sign else number


def _signed(number: int, size: int | None) -> bytes:
    try:
        return number.to_bytes(size if size is not None else number.bit_length() // 8 + 1, "big", signed=True)
    except OverflowError as error:
        raise Invalid("a decimal has more digits than its fixed type has bytes for") from error


def _constant(value: bytes, rows: int) -> _Run:
    return _Run(np.frombuffer(value * rows, np.uint8), np.full(rows, len(value), np.int64))


def _joined(runs: Sequence[_Run]) -> _Run:
    """Put the runs behind each other within each row."""
    lengths = np.sum([run.lengths for run in runs], axis=0)
    out = np.empty(int(lengths.sum()), np.uint8)
    start = np.cumsum(lengths) - lengths
    for run in runs:
        _place(out, start, run)
        start = start + run.lengths
    return _Run(out, lengths)


def _place(out: Bytes, start: Lengths, run: _Run) -> None:
    if not len(run.data):
        return
    least, most = int(run.lengths.min()), int(run.lengths.max())
    if least == most:
        # One column of a matrix after the other: no index for each byte.
        matrix = run.data.reshape(-1, most)
        for place in range(most) if most <= 16 else ():
            out[start + place] = matrix[:, place]
        if most <= 16:
            return
    source = np.cumsum(run.lengths) - run.lengths
    out[np.repeat(start - source, run.lengths) + np.arange(len(run.data))] = run.data
