"""Can data written with one Avro schema be read with another: the specification's schema resolution, decided without data.

By hand because the one library verdict (Apache avro's) belongs to a package that servers do not need, keeps verdicts
that were only assumed inside a recursion, and says yes where two time units differ. Tests hold this against
what fastavro reads and against that library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.avro import Array, Enum, Field, Fixed, Logical, Map, Primitive, Record, Schema, Type, Union, type_name
from schemas.model import Level

# writer -> readers that promote it
_PROMOTIONS: dict[str, frozenset[str]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}

_BACKWARD = frozenset({Level.BACKWARD, Level.BACKWARD_TRANSITIVE, Level.FULL, Level.FULL_TRANSITIVE})
_FORWARD = frozenset({Level.FORWARD, Level.FORWARD_TRANSITIVE, Level.FULL, Level.FULL_TRANSITIVE})
_TRANSITIVE = frozenset({Level.BACKWARD_TRANSITIVE, Level.FORWARD_TRANSITIVE, Level.FULL_TRANSITIVE})


def incompatibilities(level: Level, new: Schema, earlier: Sequence[Schema]) -> list[str]:
    """Return why `new` cannot follow `earlier` (oldest first) at `level`; empty where it can."""
    found: list[str] = []
    for old in earlier if level in _TRANSITIVE else earlier[-1:]:
        if level in _BACKWARD:
            found += [f"the new schema cannot read data of the old: {problem}" for problem in unreadable(reader=new, writer=old)]
        if level in _FORWARD:
            found += [f"the old schema cannot read data of the new: {problem}" for problem in unreadable(reader=old, writer=new)]
    return found


def unreadable(*, reader: Schema, writer: Schema) -> list[str]:
    """Return why some data of `writer` cannot be read with `reader`, each as KIND at place: reason; empty where all can."""
    # The greatest fixed point: every pair of records is compatible until shown otherwise. A verdict reached under an
    # assumption that fails is thrown away with the round.
    failed: set[tuple[str, str]] = set()
    while True:
        comparison = _Comparison(reader, writer, failed)
        problems = comparison.compare(reader.root, writer.root, "")
        if comparison.failed == failed:
            return problems
        failed = comparison.failed


@dataclass
class _Comparison:
    reader: Schema
    writer: Schema
    known_bad: set[tuple[str, str]]
    failed: set[tuple[str, str]] = field(init=False)
    _seen: dict[tuple[str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.failed = set(self.known_bad)

    def compare(self, reader: Type, writer: Type, where: str) -> list[str]:
        reader, writer = self.reader.resolve(reader), self.writer.resolve(writer)
        if isinstance(writer, Union):
            return [
                problem for number, branch in enumerate(writer.branches) for problem in self.compare(reader, branch, f"{where}/{number}")
            ]
        if isinstance(reader, Union):
            if any(not self.compare(branch, writer, where) for branch in reader.branches):
                return []
            return [f"MISSING_UNION_BRANCH at {where or '/'}: the reader's union has no branch for {type_name(writer)}"]
        if isinstance(reader, Primitive) and isinstance(writer, Primitive):
            return _primitives(reader, writer, where)
        if isinstance(reader, Array) and isinstance(writer, Array):
            return self.compare(reader.items, writer.items, f"{where}/items")
        if isinstance(reader, Map) and isinstance(writer, Map):
            return self.compare(reader.values, writer.values, f"{where}/values")
        if isinstance(reader, Enum) and isinstance(writer, Enum):
            return _names(reader, writer, where) + _symbols(reader, writer, where)
        if isinstance(reader, Fixed) and isinstance(writer, Fixed):
            problems = _names(reader, writer, where) + _logicals(reader.logical, writer.logical, where)
            if reader.size != writer.size:
                problems.append(f"FIXED_SIZE_MISMATCH at {where or '/'}: expected {writer.size} bytes, found {reader.size}")
            return problems
        if isinstance(reader, Record) and isinstance(writer, Record):
            return self._records(reader, writer, where)
        return [_mismatch(reader, writer, where)]

    def _records(self, reader: Record, writer: Record, where: str) -> list[str]:
        pair = (reader.name, writer.name)
        if pair in self.known_bad and pair in self._seen:
            return [f"TYPE_MISMATCH at {where or '/'}: {writer.name} cannot be read as {reader.name}"]
        if pair in self._seen:
            return [] if self._seen[pair] else [f"TYPE_MISMATCH at {where or '/'}: {writer.name} cannot be read as {reader.name}"]
        self._seen[pair] = True
        problems = _names(reader, writer, where)
        for number, wanted in enumerate(reader.fields):
            place = f"{where}/fields/{number}"
            given = writer_field(wanted, writer)
            if given is not None:
                problems += self.compare(wanted.type, given.type, f"{place}/type")
            elif not wanted.has_default:
                problems.append(f"READER_FIELD_MISSING_DEFAULT_VALUE at {place}: {wanted.name} is not written and has no default")
        if problems:
            self.failed.add(pair)
            self._seen[pair] = False
        return problems


def writer_field(wanted: Field, writer: Record) -> Field | None:
    """Return the field of `writer` that the reader's field takes its value from: by name, else by the reader's aliases."""
    by_name = {given.name: given for given in writer.fields}
    for name in (wanted.name, *wanted.aliases):
        if name in by_name:
            return by_name[name]
    return None


def _primitives(reader: Primitive, writer: Primitive, where: str) -> list[str]:
    if reader.kind != writer.kind and reader.kind not in _PROMOTIONS.get(writer.kind, frozenset()):
        return [_mismatch(reader, writer, where)]
    return _logicals(reader.logical, writer.logical, where)


def _logicals(reader: Logical | None, writer: Logical | None, where: str) -> list[str]:
    # Stricter than Avro's resolution, which passes over logical types: the same long as milliseconds and as
    # microseconds would be read, wrongly, without a word.
    if reader is not None and writer is not None and reader != writer:
        return [f"TYPE_MISMATCH at {where or '/'}: logical type {_shown(reader)} not compatible with {_shown(writer)}"]
    return []


def _symbols(reader: Enum, writer: Enum, where: str) -> list[str]:
    missing = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
    if missing and reader.default is None:
        return [f"MISSING_ENUM_SYMBOLS at {where or '/'}: {reader.name} lacks {', '.join(missing)}"]
    return []


def _names(reader: Record | Enum | Fixed, writer: Record | Enum | Fixed, where: str) -> list[str]:
    same = reader.name.rpartition(".")[2] == writer.name.rpartition(".")[2] or writer.name in reader.aliases
    return [] if same else [f"NAME_MISMATCH at {where or '/'}: expected {writer.name}, found {reader.name}"]


def _mismatch(reader: Type, writer: Type, where: str) -> str:
    return f"TYPE_MISMATCH at {where or '/'}: reader type {type_name(reader)} not compatible with writer type {type_name(writer)}"


def _shown(logical: Logical) -> str:
    return f"decimal({logical.precision},{logical.scale})" if logical.name == "decimal" else logical.name
