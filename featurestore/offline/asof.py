"""Point-in-time joins: for each row of a spine, the values that were known at its time, and nothing later.

Two passes per source. The first joins keys and times alone, which is all that an ASOF join has to sort; the second
fetches the features of the rows found and settles repeats there, so that nothing is sorted or deduplicated that no
row of the spine asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from featurestore.model import FeatureGroup, FeatureType
from featurestore.offline.engine import define_stored, engine, listed, quoted
from featurestore.offline.table import NEWEST_FIRST
from wardstream.errors import Invalid

# No feature's name begins with '_'.
_ROW, _TIME = "_row", "_time"
_UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class AsOfSource:
    """Features of one group's offline table (`files` of the version that is read).

    `ttl_seconds`: a value older than this at the label's time counts as missing. `known_at`: a timestamp feature of the
    group that says when a row became known; a row is used only from then on (null: known at its event time).
    `prefix` goes before the features' names in the result.
    """

    files: Sequence[Path]
    group: FeatureGroup
    features: tuple[str, ...]
    ttl_seconds: int | None = None
    known_at: str | None = None
    prefix: str = ""


def point_in_time_join(
    spine: pa.Table, sources: Sequence[AsOfSource], label_time: str, *, memory_mb: int = 1024, threads: int | None = None
) -> pa.RecordBatchReader:
    """Return `spine` in its order, each row followed by the features of `sources` as they were known at its `label_time`.

    Of each source a row gets the one with equal keys and the newest event time not after the label's time; where several
    share that event time, the one ingested last. Null where there is none. Label times without a zone are taken as UTC.
    `memory_mb` bounds the join's own memory, beyond which it goes to disk; batches are made as they are read, and the
    reader must be read to its end or closed. Raises `Invalid` naming a column that is missing, doubled or of a wrong type.
    """
    asked, schema = _asked(spine, sources, label_time), _result_schema(spine, sources)
    return pa.RecordBatchReader.from_batches(schema, _batches(spine, asked, sources, schema, memory_mb=memory_mb, threads=threads))


def _batches(
    spine: pa.Table, asked: pa.Table, sources: Sequence[AsOfSource], schema: pa.Schema, *, memory_mb: int, threads: int | None
) -> Iterator[pa.RecordBatch]:
    with engine(memory_mb=memory_mb, threads=threads) as connection:
        connection.register("asked", asked)
        columns, joins = [f"a.{_ROW}"], []
        for number, source in enumerate(sources):
            _find(connection, number, source)
            columns += [f"v{number}.{quoted(name)} AS {quoted(source.prefix + name)}" for name in source.features]
            joins.append(
                f"LEFT JOIN found_{number} f{number} ON f{number}.{_ROW} = a.{_ROW} "
                f"LEFT JOIN value_{number} v{number} ON {_same(source.group, 'a', f'v{number}')} AND v{number}._at = f{number}._at"
            )
        statement = f"SELECT {', '.join(columns)} FROM asked a {' '.join(joins)} ORDER BY a.{_ROW}"  # noqa: S608  # quoted names
        start = 0
        for found in connection.sql(statement).to_arrow_reader(_BATCH_ROWS):
            # One row for each of the spine's, in its order: its own columns need no way through the database.
            rows = spine.slice(start, found.num_rows).combine_chunks()
            start += found.num_rows
            columns_found = [found.column(place) for place in range(1, found.num_columns)]
            yield from pa.table([*rows.columns, *columns_found], names=schema.names).cast(schema).to_batches()


def _same(group: FeatureGroup, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quoted(key)} = {right}.{quoted(key)}" for key in group.key_columns)


def _find(connection: duckdb.DuckDBPyConnection, number: int, source: AsOfSource) -> None:
    """Make found_<n> (row of the spine, event time found) and value_<n> (key, event time, features; one row each)."""
    group, at, keys = source.group, quoted(source.group.event_time), source.group.key_columns
    define_stored(connection, f"stored_{number}", source.files, group.table_schema())
    if source.known_at is None:
        # Repeats share their event time, so whichever the join meets first finds the right time.
        times, since = f"(SELECT {listed(keys)}, {at} AS _at FROM stored_{number})", "_at"  # noqa: S608  # quoted names
    else:
        times, since = _known_times(number, source), "_from"
    fresh = f"WHERE s._at >= a.{_TIME} - INTERVAL {int(source.ttl_seconds)} SECONDS" if source.ttl_seconds is not None else ""
    connection.execute(
        f"CREATE TABLE found_{number} AS SELECT a.{_ROW}, s._at FROM asked a "  # noqa: S608  # quoted names
        f"ASOF JOIN {times} s ON {_same(group, 'a', 's')} AND a.{_TIME} >= s.{since} {fresh}"
    )
    features = [name for name in dict.fromkeys(source.features) if name not in keys]
    # Repeats are rare, and reading when each row was ingested costs a third more: only where one was found.
    firsts = "".join(f", first(s.{quoted(name)}) AS {quoted(name)}" for name in features)
    connection.execute(f"CREATE TABLE value_{number} AS {_wanted(number, source, f'count(*) AS _rows{firsts}')}")
    if connection.sql(f"SELECT 1 FROM value_{number} WHERE _rows > 1 LIMIT 1").fetchall():  # noqa: S608  # a number
        newest = listed(NEWEST_FIRST, "s")
        latest = "".join(f", arg_max_null(s.{quoted(name)}, row({newest})) AS {quoted(name)}" for name in features)
        connection.execute(f"CREATE OR REPLACE TABLE value_{number} AS {_wanted(number, source, f'count(*) AS _rows{latest}')}")


def _wanted(number: int, source: AsOfSource, columns: str) -> str:
    """Return SQL for (keys, _at, columns) of the rows found, one for each key and event time; `s` is the stored row."""
    keys, at = source.group.key_columns, quoted(source.group.event_time)
    return (
        f"SELECT {listed(keys, 's')}, s.{at} AS _at, {columns} FROM stored_{number} s SEMI JOIN ("  # noqa: S608  # quoted names
        f"SELECT {listed(keys, 'a')}, f._at FROM found_{number} f JOIN asked a USING ({_ROW})"
        f") w ON {_same(source.group, 's', 'w')} AND s.{at} = w._at GROUP BY {listed(keys, 's')}, s.{at}"
    )


def _known_times(number: int, source: AsOfSource) -> str:
    """Return SQL for (keys, _from, _at): from `_from` on, `_at` is the newest event time of a known row."""
    keys, at = listed(source.group.key_columns), quoted(source.group.event_time)
    known = quoted(source.known_at or "")
    # A repeat replaces the row of its identity for all readers, so its time of becoming known counts alone.
    rows = f"SELECT {keys}, {at}, arg_max_null({known}, row({listed(NEWEST_FIRST)})) AS _known FROM stored_{number} GROUP BY {keys}, {at}"  # noqa: S608
    return (
        f"(SELECT {keys}, _from, max({at}) OVER (PARTITION BY {keys} ORDER BY _from) AS _at FROM ("  # noqa: S608  # quoted names
        f"SELECT {keys}, {at}, greatest({at}, coalesce(_known, {at})) AS _from FROM ({rows})))"
    )


def _asked(spine: pa.Table, sources: Sequence[AsOfSource], label_time: str) -> pa.Table:
    """Return number, time and keys of the spine's rows, in the types of the tables."""
    if label_time not in spine.column_names or not pa.types.is_timestamp(spine.schema.field(label_time).type):
        raise Invalid(f"the spine needs a timestamp column {label_time[:70]!a}: the time for which each row asks")
    casts: dict[str, pa.DataType] = {}
    for source in sources:
        types, name = source.group.types, source.group.dataset
        if unknown := [each for each in (*source.features, *filter(None, [source.known_at])) if each not in types]:
            raise Invalid(f"{name} has no feature {', '.join(unknown)}; it has {', '.join(types)}")
        if source.known_at and types[source.known_at] is not FeatureType.TIMESTAMP:
            raise Invalid(f"{source.known_at} of {name} must be a timestamp to say when a row became known")
        for key in source.group.key_columns:
            if key not in spine.column_names:
                raise Invalid(f"the spine has no column {key}, the key of {name}; it has {', '.join(spine.column_names)}")
            if casts.setdefault(key, types[key].arrow) != types[key].arrow:
                raise Invalid(f"{key} is a key of several groups, of different types: join these groups one after the other")
    asked = {_ROW: pa.array(range(spine.num_rows), pa.int64())}
    # Rounded down: the tables have microseconds, and what happened after a label's time must not be seen.
    time = spine[label_time]
    asked[_TIME] = time.cast(pa.timestamp("us", tz=time.type.tz), safe=False).cast(_UTC_MICROSECONDS)
    for key, wanted in casts.items():
        try:
            asked[key] = spine[key].cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Invalid(f"column {key} of the spine is {spine[key].type}, which cannot be taken as {wanted}") from error
    return pa.table(asked)


def _result_schema(spine: pa.Table, sources: Sequence[AsOfSource]) -> pa.Schema:
    if len(set(spine.column_names)) < spine.num_columns:
        raise Invalid("the columns of the spine must have different names")
    fields = list(spine.schema)
    taken = dict.fromkeys(spine.column_names, "the spine")
    for source in sources:
        for name in source.features:
            shown = source.prefix + name
            if shown in taken:
                raise Invalid(f"{shown} would come from both {taken[shown]} and {source.group.dataset}; select it once, or give a prefix")
            taken[shown] = source.group.dataset
            fields.append(pa.field(shown, source.group.types[name].arrow))
    return pa.schema(fields)
