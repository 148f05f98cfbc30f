"""Avro schemas as values: parsing by the specification, canonical forms, and what may be asked of a tree.

Own parser, because the libraries' ones accept what the specification refuses (defaults that do not fit, empty unions)
and give dictionaries, while compatibility, decoding and Arrow types all want one checked tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from schemas.errors import InvalidSchema, SchemaTooLarge

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
# Named types may be used many times, so that a small text can stand for an enormous tree:
# decoders that write the tree out (polars, Arrow) would follow it.
MAX_EXPANDED = 5_000
# Columns keep room for a fixed in every row, also where a union leaves it out with one byte.
MAX_FIXED_BYTES = 1024

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_INT = range(-(2**31), 2**31)
_LONG = range(-(2**63), 2**63)

# Which logical types stand on which types; any other is ignored, as the specification wants.
_LOGICAL: Mapping[str, frozenset[str]] = {
    "date": frozenset({"int"}),
    "time-millis": frozenset({"int"}),
    "time-micros": frozenset({"long"}),
    "timestamp-millis": frozenset({"long"}),
    "timestamp-micros": frozenset({"long"}),
    "timestamp-nanos": frozenset({"long"}),
    "local-timestamp-millis": frozenset({"long"}),
    "local-timestamp-micros": frozenset({"long"}),
    "local-timestamp-nanos": frozenset({"long"}),
    "decimal": frozenset({"bytes", "fixed"}),
    "uuid": frozenset({"string"}),
}


@dataclass(frozen=True)
class Logical:
    """A logical type; precision and scale for decimals."""

    name: str
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True)
class Primitive:
    """null, boolean, int, long, float, double, bytes or string."""

    kind: str
    logical: Logical | None = None


@dataclass(frozen=True)
class Array:
    """A list."""

    items: Type


@dataclass(frozen=True)
class Map:
    """A map from strings."""

    values: Type


@dataclass(frozen=True)
class Union:
    """One of several types."""

    branches: tuple[Type, ...]


@dataclass(frozen=True)
class Named:
    """A type defined elsewhere in the schema: `Schema.resolve` gives it."""

    name: str


@dataclass(frozen=True)
class Fixed:
    """So many bytes."""

    name: str
    size: int
    aliases: tuple[str, ...] = ()
    logical: Logical | None = None


@dataclass(frozen=True)
class Enum:
    """One of the symbols, written as its index."""

    name: str
    symbols: tuple[str, ...]
    default: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """A field of a record; `default` is the JSON value where `has_default`."""

    name: str
    type: Type
    has_default: bool = False
    default: Any = field(default=None, hash=False)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """Fields in the order in which they are written."""

    name: str
    fields: tuple[Field, ...]
    aliases: tuple[str, ...] = ()


Resolved: TypeAlias = Primitive | Array | Map | Union | Fixed | Enum | Record
Type: TypeAlias = Resolved | Named


@dataclass(frozen=True)
class Schema:
    """A parsed schema. `text` is what was registered, without insignificant white space.

    `equality_text` is equal for schemas that differ only in white space, the order of attributes,
    or in how a namespace is written; documentation and defaults count.
    """

    text: str
    root: Type
    names: Mapping[str, Record | Enum | Fixed] = field(hash=False)
    equality_text: str = field(repr=False)

    def resolve(self, kind: Type) -> Resolved:
        """Return the type that a name stands for; any other type is returned as it is."""
        return self.names[kind.name] if isinstance(kind, Named) else kind


def parse(text: str | bytes) -> Schema:
    """Return the schema that `text` holds.

    Raises `InvalidSchema` saying where it breaks the Avro specification, and `SchemaTooLarge` beyond
    64 KiB of text, 32 levels, or 5,000 fields when every named type is written out.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        raise SchemaTooLarge(f"a schema may have {MAX_BYTES} bytes, this has {len(raw)}")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # A bare name is what some clients send for a primitive schema.
        if raw.decode("ascii", "replace") in PRIMITIVES:
            value = raw.decode("ascii")
        else:
            raise InvalidSchema(f"Invalid schema: not JSON: {error.msg} at character {error.pos}") from error
    parser = _Parser()
    root, plain = parser.parse(value, namespace="", depth=1, where="")
    schema = Schema(
        text=orjson.dumps(value).decode(),
        root=root,
        names=parser.names,
        equality_text=orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode(),
    )
    if (size := expanded_size(schema, schema.root)) > MAX_EXPANDED:
        raise SchemaTooLarge(f"a schema may have {MAX_EXPANDED} fields with every named type written out, this has {size} or more")
    return schema


def canonical(schema: Schema) -> str:
    """Return the specification's Parsing Canonical Form: equal for schemas whose data are written alike."""
    return orjson.dumps(_canonical(schema.root)).decode()


def fixed_bytes(schema: Schema) -> int:
    """Return how many bytes a row's fixed types have together, every named type written out; counted as `expanded_size` counts."""
    return expanded_size(schema, schema.root, weight=lambda kind: kind.size if isinstance(kind, Fixed) else 0)


def expanded_size(schema: Schema, kind: Type, *, weight: Callable[[Resolved], int] = lambda _: 1) -> int:
    """Return how many types the tree has with every named type written out; a recursion counts once and counting stops past the limit.

    `weight` says what a type counts by itself.
    """
    known: dict[str, int] = {}
    open_names: set[str] = set()

    def size(named: Type) -> int:
        part = schema.resolve(named)
        if isinstance(part, Record):
            if part.name in open_names:
                return weight(part)
            if part.name not in known:
                open_names.add(part.name)
                # Capped, so that the numbers stay small where doubling types double 32 times.
                known[part.name] = min(weight(part) + sum(size(inner.type) for inner in part.fields), MAX_EXPANDED * 2)
                open_names.discard(part.name)
            return known[part.name]
        return weight(part) + sum(size(inner) for inner in children(part))

    return size(kind)


def is_recursive(schema: Schema) -> bool:
    """Tell whether some record contains itself."""
    done: set[str] = set()

    def visit(named: Type, path: frozenset[str]) -> bool:
        kind = schema.resolve(named)
        if isinstance(kind, Record):
            if kind.name in path:
                return True
            if kind.name in done:
                return False
            found = any(visit(inner.type, path | {kind.name}) for inner in kind.fields)
            done.add(kind.name)
            return found
        return any(visit(inner, path) for inner in children(kind))

    return visit(schema.root, frozenset())


def writes_nothing(schema: Schema, kind: Type, path: frozenset[str] = frozenset()) -> bool:
    """Tell whether a value of `kind` takes no bytes: then a block of such items may claim any length."""
    found = schema.resolve(kind)
    if isinstance(found, Record):
        return found.name not in path and all(writes_nothing(schema, inner.type, path | {found.name}) for inner in found.fields)
    return (isinstance(found, Primitive) and found.kind == "null") or (isinstance(found, Fixed) and found.size == 0)


def holds_endless_array(schema: Schema) -> bool:
    """Tell whether the schema has an array whose items take no bytes: a ten-byte datum can hold 2⁶³ of them."""
    return any(isinstance(kind, Array) and writes_nothing(schema, kind.items) for kind in walk(schema))


def walk(schema: Schema) -> Iterator[Type]:
    """Yield every type of the schema once, outermost first."""
    waiting: list[Type] = [schema.root]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting.extend(inner.type for inner in kind.fields) if isinstance(kind, Record) else waiting.extend(children(kind))


def children(kind: Type) -> tuple[Type, ...]:
    """Return the types directly inside an array, map or union."""
    if isinstance(kind, Array):
        return (kind.items,)
    if isinstance(kind, Map):
        return (kind.values,)
    return kind.branches if isinstance(kind, Union) else ()


def nullable_of(kind: Type) -> Type | None:
    """Return X where `kind` is a union of null and X, in either order; else None."""
    if isinstance(kind, Union) and len(kind.branches) == 2:
        first, second = kind.branches
        if first == Primitive("null"):
            return second
        if second == Primitive("null"):
            return first
    return None


def type_name(kind: Type) -> str:
    """Return the word for a type in messages: its kind, or its full name."""
    if isinstance(kind, Primitive):
        return kind.kind
    if isinstance(kind, Fixed | Enum | Record | Named):
        return kind.name
    return type(kind).__name__.lower()


class _Parser:
    """One parse: the names defined so far, in the order of the text."""

    def __init__(self) -> None:
        self.names: dict[str, Record | Enum | Fixed] = {}
        self._open: set[str] = set()

    def parse(self, value: object, *, namespace: str, depth: int, where: str) -> tuple[Type, Any]:
        """Return the type, and its JSON with names in full and without redundant forms."""
        if depth > MAX_DEPTH:
            raise SchemaTooLarge(f"a schema may be {MAX_DEPTH} levels deep")
        if isinstance(value, str):
            return self._by_name(value, namespace, where)
        if isinstance(value, list):
            return self._union(value, namespace, depth, where)
        if not isinstance(value, dict):
            raise _wrong(where, "a type is a name, an object or a list")
        kind = value.get("type")
        if isinstance(kind, dict | list):
            # {"type": {"type": "string"}}: allowed by the specification's parsers, means the inner type.
            return self.parse(kind, namespace=namespace, depth=depth + 1, where=where)
        if not isinstance(kind, str):
            raise _wrong(where, 'an object without "type"')
        if kind in ("record", "error"):
            return self._record(value, namespace, depth, where)
        if kind == "enum":
            return self._enum(value, namespace, where)
        if kind == "fixed":
            return self._fixed(value, namespace, where)
        if kind in ("array", "map"):
            inner_key = "items" if kind == "array" else "values"
            if inner_key not in value:
                raise _wrong(where, f'{kind} without "{inner_key}"')
            inner, plain = self.parse(value[inner_key], namespace=namespace, depth=depth + 1, where=f"{where}/{inner_key}")
            return (Array(inner) if kind == "array" else Map(inner)), {**_others(value), "type": kind, inner_key: plain}
        if kind not in PRIMITIVES:
            return self._by_name(kind, namespace, where)
        others = _others(value)
        return Primitive(kind, _logical(value, kind, where)), ({"type": kind, **others} if others else kind)

    def _by_name(self, name: str, namespace: str, where: str) -> tuple[Type, Any]:
        if name in PRIMITIVES:
            return Primitive(name), name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full not in self.names and full not in self._open:
            raise _wrong(where, f"no type named {_shown(full)} is defined before this place")
        return Named(full), full

    def _union(self, value: list[object], namespace: str, depth: int, where: str) -> tuple[Type, Any]:
        if not value:
            raise _wrong(where, "a union without branches")
        parsed = [
            self.parse(branch, namespace=namespace, depth=depth + 1, where=f"{where}/{number}") for number, branch in enumerate(value)
        ]
        words = []
        for kind, _ in parsed:
            if isinstance(kind, Union):
                raise _wrong(where, "a union directly inside a union")
            words.append(type_name(kind))
        if len(set(words)) != len(words):
            raise _wrong(where, "a union with the same type twice")
        return Union(tuple(kind for kind, _ in parsed)), [plain for _, plain in parsed]

    def _define(self, value: dict[str, Any], namespace: str, where: str) -> tuple[str, str, tuple[str, ...], dict[str, Any]]:
        name, space = value.get("name"), value.get("namespace", namespace)
        if not isinstance(name, str) or not _FULL_NAME.fullmatch(name):
            raise _wrong(where, f"{value['type']} without a name of letters, digits and '_'")
        if space is None:
            space = ""
        if not isinstance(space, str) or (space and not _FULL_NAME.fullmatch(space)):
            raise _wrong(where, "a namespace is names joined by dots")
        full = name if "." in name or not space else f"{space}.{name}"
        inner = full.rpartition(".")[0]
        if full in self.names or full in self._open:
            raise _wrong(where, f"{_shown(full)} is defined twice")
        if full in PRIMITIVES:
            raise _wrong(where, f"{_shown(full)} is the name of a primitive type")
        aliases = tuple(a if "." in a or not inner else f"{inner}.{a}" for a in _strings(value.get("aliases", []), where, "aliases"))
        plain = {**_others(value), "type": value["type"], "name": full}
        if aliases:
            plain["aliases"] = list(aliases)
        return full, inner, aliases, plain

    def _record(self, value: dict[str, Any], namespace: str, depth: int, where: str) -> tuple[Type, Any]:
        name, inner_space, aliases, plain = self._define(value, namespace, where)
        listed = value.get("fields")
        if not isinstance(listed, list):
            raise _wrong(where, "a record without a list of fields")
        self._open.add(name)
        fields: list[Field] = []
        plain_fields: list[Any] = []
        pending: list[tuple[Field, str]] = []
        for number, given in enumerate(listed):
            place = f"{where}/fields/{number}"
            if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not _NAME.fullmatch(given["name"]):
                raise _wrong(place, "a field is an object with a name of letters, digits and '_'")
            if "type" not in given:
                raise _wrong(place, 'a field without "type"')
            kind, plain_kind = self.parse(given["type"], namespace=inner_space, depth=depth + 1, where=f"{place}/type")
            made = Field(
                given["name"], kind, "default" in given, given.get("default"), _strings(given.get("aliases", []), place, "aliases")
            )
            fields.append(made)
            pending.append((made, place))
            plain_fields.append({**given, "type": plain_kind})
        if len({made.name for made in fields}) != len(fields):
            raise _wrong(where, "a record with the same field twice")
        self._open.discard(name)
        record = Record(name, tuple(fields), aliases)
        self.names[name] = record
        for made, place in pending:
            if made.has_default and not self._fits(made.type, made.default):
                raise _wrong(place, f"the default of field {_shown(made.name)} does not fit its type")
        return record, {**plain, "fields": plain_fields}

    def _enum(self, value: dict[str, Any], namespace: str, where: str) -> tuple[Type, Any]:
        name, _, aliases, plain = self._define(value, namespace, where)
        symbols = _strings(value.get("symbols"), where, "symbols")
        if len(set(symbols)) != len(symbols) or any(not _NAME.fullmatch(symbol) for symbol in symbols):
            raise _wrong(where, "the symbols of an enum are different names of letters, digits and '_'")
        default = value.get("default")
        if default is not None and default not in symbols:
            raise _wrong(where, "the default of an enum is one of its symbols")
        made = Enum(name, symbols, default, aliases)
        self.names[name] = made
        return made, {**plain, "symbols": list(symbols)}

    def _fixed(self, value: dict[str, Any], namespace: str, where: str) -> tuple[Type, Any]:
        name, _, aliases, plain = self._define(value, namespace, where)
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size not in range(2**31):
            raise _wrong(where, 'a fixed has a "size" of 0 or more bytes')
        made = Fixed(name, size, aliases, _logical(value, "fixed", where))
        self.names[name] = made
        return made, {**plain, "size": size}

    def _fits(self, kind: Type, value: Any) -> bool:
        if isinstance(kind, Named):
            # A type that is still open contains this field; checking it when the outermost closes would need a second pass for
            # a default that holds its own record, which nobody can write down without an end.
            found = self.names.get(kind.name)
            return True if found is None else self._fits(found, value)
        if isinstance(kind, Primitive):
            return _primitive_fits(kind.kind, value)
        if isinstance(kind, Fixed):
            return isinstance(value, str) and len(value) == kind.size and _is_latin(value)
        if isinstance(kind, Enum):
            return value in kind.symbols
        if isinstance(kind, Array):
            return isinstance(value, list) and all(self._fits(kind.items, item) for item in value)
        if isinstance(kind, Map):
            return isinstance(value, dict) and all(self._fits(kind.values, item) for item in value.values())
        if isinstance(kind, Union):
            # Specification 1.12: the first branch that fits; before, only the first branch. Writers of both exist.
            return any(self._fits(branch, value) for branch in kind.branches)
        return isinstance(value, dict) and all(
            self._fits(inner.type, value[inner.name]) if inner.name in value else inner.has_default for inner in kind.fields
        )


def _primitive_fits(kind: str, value: Any) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("int", "long"):
        return isinstance(value, int) and not isinstance(value, bool) and value in (_INT if kind == "int" else _LONG)
    if kind in ("float", "double"):
        # "NaN" and "Infinity" as text are what Java writes for them.
        return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("NaN", "Infinity", "-Infinity")
    return isinstance(value, str) and (kind == "string" or _is_latin(value))


def _is_latin(value: str) -> bool:
    """Bytes stand in JSON as characters U+0000 to U+00FF."""
    return all(ord(character) < 256 for character in value)


def _logical(value: Mapping[str, Any], kind: str, where: str) -> Logical | None:
    name = value.get("logicalType")
    if not isinstance(name, str) or kind not in _LOGICAL.get(name, frozenset()):
        return None
    if name != "decimal":
        return Logical(name)
    precision, scale = value.get("precision"), value.get("scale", 0)
    if not isinstance(precision, int) or isinstance(precision, bool) or precision < 1:
        raise _wrong(where, "a decimal has a precision of at least 1")
    if not isinstance(scale, int) or isinstance(scale, bool) or not 0 <= scale <= precision:
        raise _wrong(where, "the scale of a decimal is between 0 and its precision")
    return Logical(name, precision, scale)


def _others(value: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is not structure: documentation, logical types, properties."""
    structure = {"type", "name", "namespace", "aliases", "fields", "symbols", "size", "items", "values"}
    return {key: inner for key, inner in value.items() if key not in structure}


def _strings(value: object, where: str, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
        raise _wrong(where, f'"{what}" is a list of names')
    return tuple(value)


def _canonical(kind: Type) -> Any:
    if isinstance(kind, Primitive):
        return kind.kind
    if isinstance(kind, Named):
        return kind.name
    if isinstance(kind, Array):
        return {"type": "array", "items": _canonical(kind.items)}
    if isinstance(kind, Map):
        return {"type": "map", "values": _canonical(kind.values)}
    if isinstance(kind, Union):
        return [_canonical(branch) for branch in kind.branches]
    if isinstance(kind, Enum):
        return {"name": kind.name, "type": "enum", "symbols": list(kind.symbols)}
    if isinstance(kind, Fixed):
        return {"name": kind.name, "type": "fixed", "size": kind.size}
    fields = [{"name": inner.name, "type": _canonical(inner.type)} for inner in kind.fields]
    return {"name": kind.name, "type": "record", "fields": fields}


def _wrong(where: str, what: str) -> InvalidSchema:
    return InvalidSchema(f"Invalid schema: {what}" + (f" (at {where})" if where else ""))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
