"""Records of a topic as Arrow: each value is 0x00, the writer schema's id in four bytes, and an Avro datum.

Each writer schema is classified once, by its content: *columns* (the fast lane, `columns.py`), *rows* (`rows.py`, for what
columns cannot hold), or *refused*. Where the fast lane stumbles, the part of the batch around the stumble is decoded row by
row, so that one bad record rejects itself alone, with the reason. There is no lane for a second native reader: polars_avro
loops for ever on a block with bytes left over, and rewriting the types makes it unnecessary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.arrow import arrow_schema, projection
from schemas.avro import MAX_FIXED_BYTES, Schema, fixed_bytes, holds_endless_array, parse
from schemas.columns import PREFIX_BYTES, ColumnDecoder, Doubtful, column_decoder
from schemas.errors import InvalidSchema, SchemaTooLarge
from schemas.rows import Malformed, row_decoder
from wardstream.errors import Conflict, Denied, NotFound

_MAGIC = 0
# How finely a batch is divided to find what is wrong with it: at most this many failed calls of the fast lane.
_PARTS = 16
_SMALL = 32
# A record with an unknown id is asked about again after this long: its schema may be registered late, never early.
_UNKNOWN_SECONDS = 30.0
# Ids that the registry did not know are remembered so that a flood of them does not become a flood of questions.
_UNKNOWN_KEPT = 10_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reject:
    """A record that could not be used: its index in what was handed in, and why, without any value of it."""

    index: int
    reason: str


@dataclass(frozen=True)
class DecodedBatch:
    """Decoded rows in the order of the records; `row_of[i]` is the index of the record that row i came from.

    Every record is in `row_of` or in `rejects`, once.
    """

    table: pa.Table
    row_of: Rows
    rejects: tuple[Reject, ...]


class Codec:
    """How records of one writer schema are decoded."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.arrow_schema = arrow_schema(schema)
        self.refusal = _refusal(schema, self.arrow_schema)
        self._columns: ColumnDecoder | None = None if self.refusal else column_decoder(schema)
        self._row = row_decoder(schema)

    @property
    def lane(self) -> str:
        """columns, rows or refused."""
        if self.refusal:
            return "refused"
        return "columns" if self._columns is not None else "rows"

    def all_at_once(self, values: Sequence[bytes]) -> pa.Table | None:
        """Return the rows of all values, or None if this lane cannot or any of them is not right; a None among them raises TypeError."""
        if self._columns is None:
            return None
        try:
            return self._columns.decode(values)
        except Doubtful:
            return None

    def one_by_one(self, values: Sequence[bytes]) -> tuple[pa.Table, list[int], list[Reject]]:
        """Return the rows that could be decoded, the indexes of their values, and the rejects."""
        if self.refusal:
            return self.arrow_schema.empty_table(), [], [Reject(i, self.refusal) for i in range(len(values))]
        rows, kept, rejects = [], [], []
        for index, value in enumerate(values):
            try:
                rows.append(self._row(value, PREFIX_BYTES))
                kept.append(index)
            except Malformed as error:
                rejects.append(Reject(index, str(error)))
        return pa.Table.from_pylist(rows, schema=self.arrow_schema), kept, rejects


class SchemaCatalogue:
    """Writer schemas by id, each fetched and classified once. Thread-safe.

    `fetch` returns the schema's text; it raises `NotFound` (or `Denied`) for an id that this process' principal may not know,
    and `Unavailable` where nobody can say now.
    """

    def __init__(self, fetch: Callable[[int], str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._codecs: dict[int, Codec] = {}
        self._by_content: dict[str, Codec] = {}
        self._unknown: dict[int, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def codec(self, schema_id: int) -> Codec:
        """Return the codec of an id; raises `NotFound` with the reason where there is none that can be used."""
        with self._lock:
            known = self._codecs.get(schema_id)
            refused = self._unknown.get(schema_id)
        if known is not None:
            return known
        if refused is not None and self._monotonic() < refused[0]:
            raise NotFound(refused[1])
        try:
            schema = parse(self._fetch(schema_id))
        except (NotFound, Denied):
            self._remember(schema_id, f"schema id {schema_id} is not one of this project's: register the schema, or use the id it has")
        except (InvalidSchema, SchemaTooLarge) as error:
            self._remember(schema_id, f"schema id {schema_id} cannot be used: {error.message}")
        else:
            with self._lock:
                codec = self._by_content.get(schema.text) or Codec(schema)
                self._by_content[schema.text] = codec
                self._codecs[schema_id] = codec
                self._unknown.pop(schema_id, None)
            return codec
        raise NotFound(self._unknown[schema_id][1])

    def schema(self, schema_id: int) -> Schema:
        """Return the parsed schema of an id; raises `NotFound`."""
        return self.codec(schema_id).schema

    def _remember(self, schema_id: int, reason: str) -> None:
        with self._lock:
            if len(self._unknown) >= _UNKNOWN_KEPT:
                self._unknown.clear()
            self._unknown[schema_id] = (self._monotonic() + _UNKNOWN_SECONDS, reason)


def decode_batch(values: Sequence[bytes | None], catalogue: SchemaCatalogue, *, reader: Schema | None = None) -> DecodedBatch:
    """Return the records as one table in the columns of `reader`, without it of the newest writer schema among them.

    Records of other writer schemas are resolved to it (names, aliases, defaults, promotions); those that do not resolve are
    rejected. Never raises for what a record holds; raises `Unavailable` when a schema cannot be fetched now.
    """
    at_once = _same_prefix(values, catalogue, reader)
    if at_once is not None:
        return at_once
    groups, rejects = _grouped(values)
    parts: list[tuple[pa.Table, Rows]] = []
    codecs: dict[int, Codec] = {}
    for schema_id, indexes in groups.items():
        try:
            codecs[schema_id] = catalogue.codec(schema_id)
        except NotFound as error:
            rejects += [Reject(int(index), error.message) for index in indexes]
    wanted = reader or (codecs[max(codecs)].schema if codecs else None)
    if not codecs or wanted is None:
        nothing = arrow_schema(wanted).empty_table() if wanted is not None else pa.table({})
        return DecodedBatch(nothing, np.empty(0, np.int64), tuple(sorted(rejects, key=lambda r: r.index)))
    for schema_id, codec in codecs.items():
        indexes = groups[schema_id]
        table, rows, refused = _decode_group(codec, [value for i in indexes if (value := values[i]) is not None])
        rejects += [Reject(int(indexes[r.index]), r.reason) for r in refused]
        fitted, kept, unfit = _projected(table, schema_id, codec.schema, wanted)
        rejects += [Reject(int(indexes[rows[r.index]]), r.reason) for r in unfit]
        parts.append((fitted, indexes[rows[kept]]))
    table = pa.concat_tables([part for part, _ in parts])
    row_of = np.concatenate([rows for _, rows in parts])
    if len(parts) > 1:
        order = np.argsort(row_of, kind="stable")
        table, row_of = table.take(pa.array(order)), row_of[order]
    return DecodedBatch(table.combine_chunks(), row_of, tuple(sorted(rejects, key=lambda r: r.index)))


def _refusal(schema: Schema, columns: pa.Schema) -> str | None:
    if holds_endless_array(schema):
        return "its schema has an array whose items take no bytes, which can stand for any number of them"
    if fixed_bytes(schema) > MAX_FIXED_BYTES:
        return f"its schema has fixed types of more than {MAX_FIXED_BYTES} bytes a row, room for which is taken where they are null too"
    return None if columns.names else "its schema has no fields"


def schema_id_of(value: bytes) -> int | None:
    """Return the writer schema's id from a record's value, or None where it has no prefix."""
    return int.from_bytes(value[1:PREFIX_BYTES], "big") if len(value) >= PREFIX_BYTES and value[0] == _MAGIC else None


def _same_prefix(values: Sequence[bytes | None], catalogue: SchemaCatalogue, reader: Schema | None) -> DecodedBatch | None:
    """The common case in one call: all records of one schema and right. None where anything is otherwise."""
    first, last = (values[0], values[-1]) if values else (None, None)
    if first is None or last is None or first[:PREFIX_BYTES] != last[:PREFIX_BYTES]:
        return None
    schema_id = schema_id_of(first)
    if schema_id is None:
        return None
    try:
        codec = catalogue.codec(schema_id)
        table = codec.all_at_once(values)  # type: ignore[arg-type]  # a None among them is the TypeError below
        if table is None:
            return None
        if reader is not None:
            table = projection(writer=codec.schema, reader=reader)(table)
    except (NotFound, Conflict, TypeError, pa.ArrowException):
        return None
    return DecodedBatch(table, np.arange(len(values)), ())


def _grouped(values: Sequence[bytes | None]) -> tuple[dict[int, Rows], list[Reject]]:
    groups: dict[int, list[int]] = {}
    rejects = []
    for index, value in enumerate(values):
        if value is None:
            rejects.append(Reject(index, "the record has no value"))
        elif (schema_id := schema_id_of(value)) is None:
            rejects.append(
                Reject(index, "the value does not begin with 0x00 and a schema id: is it written by a schema registry's serializer?")
            )
        else:
            groups.setdefault(schema_id, []).append(index)
    return {schema_id: np.array(indexes) for schema_id, indexes in groups.items()}, rejects


def _decode_group(codec: Codec, values: Sequence[bytes]) -> tuple[pa.Table, Rows, list[Reject]]:
    whole = codec.all_at_once(values)
    if whole is not None:
        return whole, np.arange(len(values)), []
    size = max(_SMALL, -(-len(values) // _PARTS)) if codec.lane == "columns" else len(values)
    tables, rows, rejects = [], [], []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        table = codec.all_at_once(part) if len(part) < len(values) else None
        kept, refused = list(range(len(part))), list[Reject]()
        if table is None:
            table, kept, refused = codec.one_by_one(part)
        tables.append(table)
        rows.append(np.array(kept, dtype=np.int64) + start)
        rejects += [Reject(start + r.index, r.reason) for r in refused]
    return pa.concat_tables(tables), np.concatenate(rows), rejects


def _projected(table: pa.Table, schema_id: int, writer: Schema, reader: Schema) -> tuple[pa.Table, Rows, list[Reject]]:
    """The rows in the reader's columns, which rows those are, and the ones whose values do not fit."""
    try:
        project = projection(writer=writer, reader=reader)
    except Conflict as error:
        reason = f"schema id {schema_id} cannot be read as this dataset's schema: {error.message}"
        return arrow_schema(reader).empty_table(), np.empty(0, np.int64), [Reject(i, reason) for i in range(len(table))]
    kept: list[int] = []
    rejects: list[Reject] = []

    def part(start: int, stop: int) -> list[pa.Table]:
        try:
            made = [project(table.slice(start, stop - start))]
        except pa.ArrowException:
            if stop - start == 1:
                rejects.append(Reject(start, f"a value written with schema id {schema_id} does not fit this dataset's schema"))
                return []
            middle = (start + stop) // 2
            return part(start, middle) + part(middle, stop)
        kept.extend(range(start, stop))
        return made

    tables = part(0, len(table))
    whole = pa.concat_tables(tables) if tables else arrow_schema(reader).empty_table()
    return whole, np.array(kept, dtype=np.int64), rejects
