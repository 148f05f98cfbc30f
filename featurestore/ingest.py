"""The way into a feature group: which rows fit, why the others do not, and the records that rows become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, FeatureGroup, FeatureType, record_key
from schemas.avro import Schema, parse
from schemas.decode import Reject
from schemas.encode import encode_table
from wardstream.errors import Invalid

# Clocks of bedside devices drift by minutes; a row from further in the future would hide all that come after it.
MOST_AHEAD = timedelta(minutes=10)
# Nothing that happened in a hospital with streams happened before; it is where devices with a broken clock are.
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)

_MILLISECONDS = pa.timestamp("ms", tz="UTC")
# What Python, Delta and SQL can show: years 1 to 9999.
_SHOWN = (-62_135_596_800_000, 253_402_300_799_999)
_INTEGER_BOUNDS = {FeatureType.INT: (-(2**31), 2**31 - 1), FeatureType.BIGINT: (-(2**63), 2**63 - 1)}

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Validated:
    """Rows that fit, in the group's columns and types; `row_of[i]` is the number that row i had. Every row is here or in `rejects`."""

    table: pa.Table
    row_of: npt.NDArray[np.int64]
    rejects: tuple[Reject, ...]


def validate(group: FeatureGroup, table: pa.Table, *, now: datetime) -> Validated:
    """Divide `table` into rows that fit the group and rejects, each with its first reason, which names no value.

    Refused: a null in key or event time, a column of a type that the feature's cannot hold, NaN and infinity, times outside
    years 1 to 9999, event times before 1900 or more than `MOST_AHEAD` after `_ingested_at` (where there is none: `now`).
    Columns that the group does not have are left out, absent ones are null; times are cut to milliseconds.
    The columns `_ingested_at`, `_partition` and `_offset` pass where they are there.
    """
    reasons: dict[int, str] = {}

    def refuse(rows: _Mask, reason: str) -> None:
        for row in np.flatnonzero(rows):
            reasons.setdefault(int(row), reason)

    columns: list[pa.Array] = []
    for feature in group.features:
        if feature.name not in table.column_names:
            column = pa.nulls(table.num_rows, feature.type.arrow)
            if group.required(feature.name):
                refuse(np.ones(table.num_rows, np.bool_), f"it has no field {feature.name}, which is required")
        else:
            column = _typed(_one(table[feature.name]), feature.name, feature.type, refuse)
            if group.required(feature.name) and column.null_count:
                refuse(_mask(pc.is_null(column)), f"{feature.name} is null; key and event time are required")
        columns.append(column)
    _require_clock(group, columns, table, now, refuse)
    names = [feature.name for feature in group.features]
    for name in (INGESTED_AT, PARTITION, OFFSET):
        if name in table.column_names:
            names.append(name)
            columns.append(_one(table[name]).cast(group.table_schema().field(name).type))
    fitting = pa.table(columns, names=names)
    rows = np.arange(table.num_rows)
    if reasons:
        rows = np.delete(rows, list(reasons))
        fitting = fitting.take(pa.array(rows))
    schema = group.table_schema()
    fitting = fitting.cast(pa.schema([schema.field(name) for name in names]))
    return Validated(fitting, rows, tuple(Reject(row, reasons[row]) for row in sorted(reasons)))


def require_columns(group: FeatureGroup, table: pa.Table) -> None:
    """Raise `Invalid` where rows that somebody inserts have columns that the group does not have, or lack a required one."""
    known = [feature.name for feature in group.features]
    if unknown := [name for name in table.column_names if name not in known]:
        raise Invalid(f"{group.dataset} has no feature {', '.join(ascii(name[:70]) for name in unknown)}; it has {', '.join(known)}")
    if missing := [name for name in known if group.required(name) and name not in table.column_names]:
        raise Invalid(f"the rows lack {', '.join(missing)}: key and event time are required")
    if len(set(table.column_names)) < table.num_columns:
        raise Invalid("the rows' columns must have different names")


def encode_rows(group: FeatureGroup, table: pa.Table, schema_id: int) -> tuple[list[bytes], list[bytes]]:
    """Return keys and values of the records that validated rows become; `schema_id` is that of `group.avro_schema()`."""
    keys = [record_key(values) for values in zip(*(table[key].to_pylist() for key in group.key_columns), strict=True)]
    return keys, encode_table(table.select([feature.name for feature in group.features]), schema_id, record_schema(group))


@lru_cache(maxsize=1000)
def record_schema(group: FeatureGroup) -> Schema:
    """Return the parsed schema of the group's records; also what decoded records are resolved to."""
    return parse(orjson.dumps(group.avro_schema()))


def _typed(column: pa.Array, name: str, kind: FeatureType, refuse: Callable[[_Mask, str], None]) -> pa.Array:
    """Return the column in the feature's type; what does not fit is refused and null."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    found = column.type
    if pa.types.is_null(found):
        return pa.nulls(len(column), kind.arrow)
    if kind is FeatureType.TIMESTAMP and pa.types.is_timestamp(found):
        return _time(column, name, refuse)
    if kind in _INTEGER_BOUNDS and (pa.types.is_integer(found) or pa.types.is_floating(found)):
        return _integer(column, name, kind, refuse)
    if kind in (FeatureType.FLOAT, FeatureType.DOUBLE) and (pa.types.is_integer(found) or pa.types.is_floating(found)):
        column = column.cast(kind.arrow, safe=False)
        unusable = pc.invert(pc.is_finite(column))
        if not pc.any(unusable).as_py():
            return column
        refuse(_mask(unusable), f"{name} is NaN, infinite or too large for {kind}; null stands for a missing value")
        return _without(column, unusable)
    texts = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if (kind is FeatureType.STRING and texts) or (kind is FeatureType.BOOLEAN and pa.types.is_boolean(found)):
        return column.cast(kind.arrow)
    refuse(_mask(pc.is_valid(column)), f"{name} is of type {found}; {kind} is expected")
    return pa.nulls(len(column), kind.arrow)


def _integer(column: pa.Array, name: str, kind: FeatureType, refuse: Callable[[_Mask, str], None]) -> pa.Array:
    try:
        return column.cast(kind.arrow)
    except pa.ArrowInvalid:
        low, high = _INTEGER_BOUNDS[kind]
        # By hand, which is exact at the borders and only happens where something is wrong.
        fits = [value is None or (value == value and low <= value <= high and int(value) == value) for value in column.to_pylist()]
        unusable = pa.array([not each for each in fits])
        refuse(_mask(unusable), f"{name} is not a whole number that {kind} can hold")
        return _without(column, unusable).cast(kind.arrow)


def _time(column: pa.Array, name: str, refuse: Callable[[_Mask, str], None]) -> pa.Array:
    """A time without a zone is taken as UTC."""
    if column.type.unit != "ms":
        per_second = {"s": 1, "us": 10**6, "ns": 10**9}[column.type.unit]
        numbers = column.cast(pa.int64())
        low, high = (bound // 1000 * per_second for bound in _SHOWN)
        if per_second < 10**9:
            unusable = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
            column = _without(column, unusable)
            refuse(_mask(unusable), f"{name} is not between the years 1 and 9999")
        column = pc.floor_temporal(column, unit="millisecond").cast(pa.timestamp("ms", tz=column.type.tz))
    numbers = column.cast(pa.int64())
    unusable = pc.or_(pc.less(numbers, _SHOWN[0]), pc.greater(numbers, _SHOWN[1]))
    if pc.any(unusable).as_py():
        refuse(_mask(unusable), f"{name} is not between the years 1 and 9999")
        numbers = _without(numbers, unusable)
    return numbers.cast(_MILLISECONDS).cast(FeatureType.TIMESTAMP.arrow)


def _require_clock(
    group: FeatureGroup, columns: list[pa.Array], table: pa.Table, now: datetime, refuse: Callable[[_Mask, str], None]
) -> None:
    time = columns[[feature.name for feature in group.features].index(group.event_time)]
    arrived = _one(table[INGESTED_AT]).cast(time.type) if INGESTED_AT in table.column_names else pa.scalar(now, time.type)
    ahead = pc.greater(time, pc.add(arrived, pa.scalar(MOST_AHEAD, pa.duration("us"))))
    if pc.any(ahead).as_py():
        minutes = int(MOST_AHEAD / timedelta(minutes=1))
        refuse(_mask(ahead), f"{group.event_time} is more than {minutes} minutes ahead of the time of arrival: is the clock right?")
    early = pc.less(time, pa.scalar(EARLIEST, time.type))
    if pc.any(early).as_py():
        refuse(_mask(early), f"{group.event_time} is before {EARLIEST.year}: is the clock right?")


def _without(column: pa.Array, unusable: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(unusable, False), pa.scalar(None, column.type), column)


def _mask(array: pa.Array) -> _Mask:
    found: _Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return found


def _one(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )
