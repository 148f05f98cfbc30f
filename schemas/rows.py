"""Decoding one datum at a time, strictly: for schemas that columns cannot hold, and to say what is wrong with a record.

By hand because the reasons go to a dead-letter topic for people to read, and because fastavro takes a negative branch or
symbol number for one counted from the end, an `int` of any size, and bytes left over. Tests hold it against fastavro.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson

from schemas.arrow import MAX_DECIMAL_PRECISION, limits_of, union_columns
from schemas.avro import Array, Enum, Fixed, Map, Primitive, Record, Resolved, Schema, Type, Union, nullable_of, type_name

# A datum of a recursive schema may nest as deep as it is long; Python's stack may not.
_MAX_NESTING = 64


class Malformed(Exception):
    """A datum that its schema does not allow; the message names the field and no value."""


class _Datum:
    __slots__ = ("at", "buffer", "nesting")

    def __init__(self, buffer: bytes, start: int) -> None:
        self.buffer = buffer
        self.at = start
        self.nesting = 0

    def take(self, length: int) -> bytes:
        left = len(self.buffer) - self.at
        if not 0 <= length <= left:
            raise Malformed(f"{length} bytes are announced and {left} are left")
        self.at += length
        return self.buffer[self.at - length : self.at]

    def long(self) -> int:
        buffer, at, shift, number = self.buffer, self.at, 0, 0
        while True:
            if at >= len(buffer):
                raise Malformed("the record ends within a number")
            byte = buffer[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise Malformed("a number of more than 10 bytes")
        if number >> 64:
            raise Malformed("a number of more than 64 bits")
        self.at = at
        return (number >> 1) ^ -(number & 1)


_Read = Callable[[_Datum], Any]


def row_decoder(schema: Schema) -> Callable[[bytes, int], dict[str, Any]]:
    """Return what decodes a datum that begins at an offset of a buffer and ends with it, as values that Arrow takes.

    The decoder raises `Malformed` with the reason, also for bytes left over.
    """
    root = schema.resolve(schema.root)
    compiler = _Compiler(schema)
    read = compiler.reader(root, frozenset())

    def decode(buffer: bytes, start: int) -> dict[str, Any]:
        datum = _Datum(buffer, start)
        value = read(datum)
        if datum.at != len(buffer):
            raise Malformed(f"{len(buffer) - datum.at} bytes are left over after the record")
        return value if isinstance(root, Record) else {"value": value}

    return decode


class _Compiler:
    """Readers of one schema; inside a recursion values are made for JSON."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._json_records: dict[str, _Read] = {}

    def reader(self, named: Type, inside: frozenset[str], *, as_json: bool = False) -> _Read:
        kind = self._schema.resolve(named)
        if isinstance(kind, Record):
            return self._record(kind, inside, as_json)
        if isinstance(kind, Union):
            return self._union(kind, inside, as_json)
        if isinstance(kind, Array):
            return _array(self.reader(kind.items, inside, as_json=as_json))
        if isinstance(kind, Map):
            pairs = _map(self.reader(kind.values, inside, as_json=as_json))
            return (lambda datum: dict(pairs(datum))) if as_json else pairs
        return _scalar(kind)

    def _record(self, kind: Record, inside: frozenset[str], as_json: bool) -> _Read:
        if as_json:
            return self._json_record(kind)
        if kind.name in inside:
            read_inner = self._json_record(kind)
            return lambda datum: orjson.dumps(read_inner(datum), default=_for_json).decode()
        return _fields([(part.name, self.reader(part.type, inside | {kind.name})) for part in kind.fields])

    def _json_record(self, kind: Record) -> _Read:
        if kind.name not in self._json_records:
            # Known before it is made: its own fields refer to it.
            made: list[_Read] = []

            def nested(datum: _Datum) -> Any:
                datum.nesting += 1
                if datum.nesting > _MAX_NESTING:
                    raise Malformed(f"{kind.name} inside itself more than {_MAX_NESTING} times")
                value = made[0](datum)
                datum.nesting -= 1
                return value

            self._json_records[kind.name] = nested
            made.append(_fields([(part.name, self.reader(part.type, frozenset(), as_json=True)) for part in kind.fields]))
        return self._json_records[kind.name]

    def _union(self, kind: Union, inside: frozenset[str], as_json: bool) -> _Read:
        readers = [self.reader(branch, inside, as_json=as_json) for branch in kind.branches]
        flat = as_json or nullable_of(kind) is not None
        names = {id(branch): name for name, branch in union_columns(self._schema, kind)}
        columns = [names.get(id(self._schema.resolve(branch))) for branch in kind.branches]

        def read(datum: _Datum) -> Any:
            number = datum.long()
            if not 0 <= number < len(readers):
                raise Malformed(f"branch {number} of a union of {len(readers)}")
            value = readers[number](datum)
            column = columns[number]
            return value if flat or column is None else {column: value}

        return read


def _fields(readers: list[tuple[str, _Read]]) -> _Read:
    def read(datum: _Datum) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, one in readers:
            try:
                made[name] = one(datum)
            except Malformed as error:
                text = str(error)
                raise Malformed(f"{name}.{text.removeprefix('field ')}" if text.startswith("field ") else f"{name}: {text}") from error
        return made

    def named(datum: _Datum) -> dict[str, Any]:
        try:
            return read(datum)
        except Malformed as error:
            raise Malformed(f"field {error}") from error

    return named


def _array(item: _Read) -> _Read:
    def read(datum: _Datum) -> list[Any]:
        made: list[Any] = []
        while count := _block(datum):
            for _ in range(count):
                made.append(item(datum))
        return made

    return read


def _map(value: _Read) -> _Read:
    def read(datum: _Datum) -> list[tuple[str, Any]]:
        made: dict[str, Any] = {}
        while count := _block(datum):
            for _ in range(count):
                key = _string(datum)
                made[key] = value(datum)
        return list(made.items())

    return read


def _block(datum: _Datum) -> int:
    count = datum.long()
    if count < 0:
        count = -count
        datum.long()  # the block's size in bytes, for readers that skip it
    left = len(datum.buffer) - datum.at
    if count > left:
        # Every item takes a byte at least: schemas where one does not are refused before.
        raise Malformed(f"{count} items are announced and {left} bytes are left")
    return count


def _string(datum: _Datum) -> str:
    try:
        return datum.take(datum.long()).decode()
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error


def _boolean(datum: _Datum) -> bool:
    byte = datum.take(1)[0]
    if byte > 1:
        raise Malformed("a boolean that is neither 0 nor 1")
    return byte == 1


_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


def _number_within(low: int, high: int, what: str) -> _Read:
    def read(datum: _Datum) -> int:
        number = datum.long()
        if not low <= number <= high:
            raise Malformed(f"a number outside what {what} can be")
        return number

    return read


def _decimal(read: Callable[[_Datum], bytes], precision: int, scale: int) -> _Read:
    def decode(datum: _Datum) -> Decimal:
        unscaled = int.from_bytes(read(datum), "big", signed=True)
        if abs(unscaled) >= 10**precision:
            raise Malformed(f"a decimal of more than {precision} digits")
        # Not by context: that would round to 28 digits.
        return Decimal((int(unscaled < 0), tuple(int(digit) for digit in str(abs(unscaled))), -scale))

    return decode


def _scalar(kind: Resolved) -> _Read:
    if isinstance(kind, Enum):
        symbols = kind.symbols

        def symbol(datum: _Datum) -> str:
            number = datum.long()
            if not 0 <= number < len(symbols):
                raise Malformed(f"symbol {number} of an enum of {len(symbols)}")
            return symbols[number]

        return symbol
    logical = kind.logical if isinstance(kind, Primitive | Fixed) else None
    if isinstance(kind, Fixed):
        size = kind.size
        raw: Callable[[_Datum], bytes] = lambda datum: datum.take(size)  # noqa: E731  # one expression, used twice below
    else:
        raw = _bytes
    is_bytes = isinstance(kind, Fixed) or (isinstance(kind, Primitive) and kind.kind == "bytes")
    if is_bytes:
        if logical is not None and logical.name == "decimal" and logical.precision <= MAX_DECIMAL_PRECISION:
            return _decimal(raw, logical.precision, logical.scale)
        return raw
    word = kind.kind if isinstance(kind, Primitive) else type_name(kind)
    if word in ("int", "long"):
        limits = limits_of(kind)
        return _number_within(*limits, logical.name if logical else word) if limits else _Datum.long
    plain: dict[str, _Read] = {
        "null": lambda _: None,
        "boolean": _boolean,
        "float": lambda datum: _FLOAT.unpack(datum.take(4))[0],
        "double": lambda datum: _DOUBLE.unpack(datum.take(8))[0],
        "string": _string,
    }
    return plain[word]


def _bytes(datum: _Datum) -> bytes:
    return datum.take(datum.long())


def _for_json(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
