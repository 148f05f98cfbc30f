"""What readers may rely on of any online store, and when a row is too old to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.model import FeatureGroup
from featurestore.online.row import UnpackedRows
from wardstream.clock import to_ms
from wardstream.errors import Invalid


class OnlineStore(Protocol):
    """The newest row of each entity, per feature group."""

    def put_many(self, group: FeatureGroup, table: pa.Table) -> int:
        """Write the rows of `table` and return how many replaced what was there.

        Newer event time wins; equal: later ingest time; equal both: the later call. Repeating a call changes nothing.
        `table` has passed `ingest.validate` and has `_ingested_at`. Not promised: that the store survives its machine.
        """
        ...

    def get_many(self, groups: Sequence[FeatureGroup], entities: Mapping[str, Sequence[object]]) -> list[UnpackedRows]:
        """Return the stored row of each entity for each group, in order, however old it is."""
        ...


@dataclass(frozen=True)
class OnlineVectors:
    """What a reader sees of one group: features that are fresh, else null, and in any case how old they are."""

    group: FeatureGroup
    values: pa.Table
    event_time: pa.Array
    age_seconds: pa.Array


@dataclass(frozen=True)
class Selection:
    """Features of a group; all of them where `features` is None."""

    group: FeatureGroup
    features: tuple[str, ...] | None = None


def read_vectors(
    store: OnlineStore, selections: Sequence[Selection], entities: Mapping[str, Sequence[object]], *, now: datetime
) -> list[OnlineVectors]:
    """Return the newest values of each entity for each selection; raises `Invalid` naming a missing key or feature."""
    for each in selections:
        _require_known(each)
    entities = checked_entities([each.group for each in selections], entities)
    rows = store.get_many([each.group for each in selections], entities)
    return [fresh(each, found, now=now) for each, found in zip(selections, rows, strict=True)]


def fresh(selection: Selection, rows: UnpackedRows, *, now: datetime) -> OnlineVectors:
    """Return `rows` with every value null that is older than the group's TTL at `now`; event time and age stay."""
    group = selection.group
    names = selection.features if selection.features is not None else tuple(each.name for each in group.value_features)
    ages = pc.divide(pc.subtract(to_ms(now), rows.event_time.cast(pa.int64())).cast(pa.float64()), 1000.0)
    values = rows.values.select(names)
    if group.ttl_seconds is not None:
        current = pc.less_equal(ages, float(group.ttl_seconds))
        values = pa.table([pc.if_else(current, column, pa.scalar(None, column.type)) for column in values.columns], schema=values.schema)
    return OnlineVectors(group, values, rows.event_time, ages)


def checked_entities(groups: Sequence[FeatureGroup], entities: Mapping[str, Sequence[object]]) -> dict[str, list[object]]:
    """Return the key columns that `groups` need, equally long and without nulls; raises `Invalid`."""
    needed = dict.fromkeys(key for group in groups for key in group.key_columns)
    if missing := [key for key in needed if key not in entities]:
        raise Invalid(f"the entities lack the key {', '.join(missing)}; they have {', '.join(map(str, entities)) or 'nothing'}")
    types = {key: group.types[key].arrow for group in groups for key in group.key_columns}
    checked: dict[str, list[object]] = {}
    for key in needed:
        try:
            # Through Arrow, so that 7 and 7.0 or "7" mean the same thing here as in the records.
            column = pa.array(list(entities[key])).cast(types[key])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise Invalid(f"the entities' {key} must be {types[key]}") from error
        except UnicodeEncodeError:
            # Without the cause, which holds the text.
            raise Invalid(f"the entities' {key} must be whole Unicode characters; it has half of a surrogate pair") from None
        if column.null_count:
            raise Invalid(f"the entities' {key} has nulls; a key has none")
        checked[key] = column.to_pylist()
    if len({len(column) for column in checked.values()}) > 1:
        raise Invalid("the entities' columns must be equally long")
    return checked


def newest_of_batch(group: FeatureGroup, table: pa.Table, order: Sequence[str]) -> pa.Table:
    """Return of each entity the row that wins, in no particular order: greatest event time, then greatest by `order`, then the last."""
    if table.num_rows < 2:
        return table
    codes = _codes(group, table)
    sort_keys = [
        np.arange(table.num_rows),
        *(_integers(table[name]) for name in reversed(order)),
        _integers(table[group.event_time]),
        codes,
    ]
    ranked = np.lexsort(sort_keys)
    last = np.append(codes[ranked][1:] != codes[ranked][:-1], True)
    winners = ranked[last]
    return table if len(winners) == table.num_rows else table.take(pa.array(winners))


def _codes(group: FeatureGroup, table: pa.Table) -> npt.NDArray[np.int64]:
    """One number per entity: the same for the same key."""
    codes = np.zeros(table.num_rows, np.int64)
    for key in group.key_columns:
        column = table[key].combine_chunks().dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        # Numbered anew after each column, so that the product cannot overflow.
        codes = np.unique(codes * len(column.dictionary) + column.indices.to_numpy(), return_inverse=True)[1]
    return codes


def _integers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return numbers


def _require_known(selection: Selection) -> None:
    if selection.features is None:
        return
    known = [each.name for each in selection.group.value_features]
    if unknown := [name for name in selection.features if name not in known]:
        raise Invalid(f"{selection.group.dataset} has no feature {', '.join(unknown)} to read online; it has {', '.join(known)}")
