"""The bytes of an online row. All of them are little-endian:

    offset  bytes   content
    0       1       format, 1
    1       4       fingerprint of the feature group
    5       8       event time, milliseconds, signed
    13      8       ingest time, milliseconds, signed: the broker's, so that a replay writes the same bytes
    21      ⌈n/8⌉   null bitmap: bit i is set where value feature i is null
    …               fixed-width values in schema order (a timestamp is 8 bytes of milliseconds), null = zero bytes
    …               msgpack list of the strings in schema order, null = nil; nothing where the group has no strings

Key and event time are not among the values. The first 21 bytes stay the same in every later format: functions.lua reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ormsgpack
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.model import INGESTED_AT, FeatureGroup, FeatureType

FORMAT = 1
HEAD_BYTES = 21
_TIMES, _TIMES_AT = struct.Struct("<qq"), 5

_NUMPY = {
    FeatureType.INT: "<i4",
    FeatureType.BIGINT: "<i8",
    FeatureType.FLOAT: "<f4",
    FeatureType.DOUBLE: "<f8",
    FeatureType.BOOLEAN: "u1",
    FeatureType.TIMESTAMP: "<i8",
}
_MILLISECONDS = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True)
class UnpackedRows:
    """Rows read back, one for each that was asked for: `found` says which exist, the others are null throughout."""

    values: pa.Table
    event_time: pa.Array
    ingested_at: pa.Array
    found: npt.NDArray[np.bool_]


class RowCodec:
    """Packs and unpacks the rows of one feature group, column by column."""

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        self._features = group.value_features
        self._fingerprint = group.fingerprint()
        self._fixed = [each for each in self._features if each.type is not FeatureType.STRING]
        self._texts = [each for each in self._features if each.type is FeatureType.STRING]
        bitmap = -(-len(self._features) // 8)
        self._layout = np.dtype(
            [
                ("format", "u1"),
                ("fingerprint", "<u4"),
                ("event_time", "<i8"),
                ("ingested_at", "<i8"),
                ("nulls", "u1", (bitmap,)),
                # Named by place: NumPy wants names, and a feature may be called as one of the above.
                *((f"v{place}", _NUMPY[each.type]) for place, each in enumerate(self._fixed)),
            ]
        )

    def pack(self, table: pa.Table) -> list[bytes]:
        """Return the row of each of the table's, in order. `table` has passed `ingest.validate` and has `_ingested_at`."""
        rows = np.zeros(table.num_rows, self._layout)
        rows["format"] = FORMAT
        rows["fingerprint"] = self._fingerprint
        rows["event_time"] = _milliseconds(table[self.group.event_time])
        rows["ingested_at"] = _milliseconds(table[INGESTED_AT])
        nulls = np.zeros((table.num_rows, len(self._features)), np.bool_)
        for place, feature in enumerate(self._features):
            if table[feature.name].null_count:
                nulls[:, place] = pc.is_null(table[feature.name]).to_numpy()
        if self._features:
            rows["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
        for place, feature in enumerate(self._fixed):
            rows[f"v{place}"] = _numbers(table[feature.name], feature.type)
        width, whole = self._layout.itemsize, rows.tobytes()
        fixed = [whole[start : start + width] for start in range(0, len(whole), width)]
        if not self._texts:
            return fixed
        tails = zip(*(table[feature.name].to_pylist() for feature in self._texts), strict=True)
        return [head + ormsgpack.packb(tail) for head, tail in zip(fixed, tails, strict=True)]

    def unpack(self, rows: Sequence[bytes | None]) -> UnpackedRows:
        """Return what the rows hold. A row of another format or fingerprint is not one of this group and counts as missing."""
        width = self._layout.itemsize
        head = bytes((FORMAT,)) + self._fingerprint.to_bytes(4, "little")
        known = [row is not None and len(row) >= width and row.startswith(head) for row in rows]
        empty = bytes(width)
        body = b"".join([row[:width] if ok and row is not None else empty for ok, row in zip(known, rows, strict=True)])
        found = np.array(known, np.bool_)
        numbers = np.frombuffer(body, self._layout)
        nulls = np.unpackbits(numbers["nulls"], axis=1, bitorder="little", count=len(self._features)).astype(np.bool_) | ~found[:, None]
        columns: dict[str, pa.Array] = {}
        masks = {feature.name: nulls[:, place] for place, feature in enumerate(self._features)}
        for place, feature in enumerate(self._fixed):
            columns[feature.name] = _column(np.ascontiguousarray(numbers[f"v{place}"]), feature.type, masks[feature.name])
        if self._texts:
            nothing = (None,) * len(self._texts)
            tails = [ormsgpack.unpackb(row[width:]) if ok and row is not None else nothing for ok, row in zip(known, rows, strict=True)]
            for place, feature in enumerate(self._texts):
                columns[feature.name] = pa.array([tail[place] for tail in tails], pa.string())
        schema = pa.schema([(feature.name, feature.type.arrow) for feature in self._features])
        return UnpackedRows(
            values=pa.table([columns[name] for name in schema.names], schema=schema),
            event_time=_times(numbers["event_time"], ~found),
            ingested_at=_times(numbers["ingested_at"], ~found),
            found=found,
        )


def is_newer(row: bytes, than: bytes) -> bool:
    """Return whether `row` would replace `than` for its times; of equal times the place in the topic decides, which no row holds."""
    return len(row) >= HEAD_BYTES and _TIMES.unpack_from(row, _TIMES_AT) > _TIMES.unpack_from(than, _TIMES_AT)


def _milliseconds(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    # Rounded down where somebody measured finer, also before 1970.
    if column.type.unit != "ms":
        column = pc.floor_temporal(column, unit="millisecond").cast(pa.timestamp("ms", tz=column.type.tz))
    numbers: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return numbers


def _numbers(column: pa.ChunkedArray, kind: FeatureType) -> npt.NDArray[np.generic]:
    if kind is FeatureType.TIMESTAMP:
        column = pa.chunked_array([_filled(pc.floor_temporal(column, unit="millisecond").cast(_MILLISECONDS).cast(pa.int64()))])
    elif kind is FeatureType.BOOLEAN:
        column = column.cast(pa.uint8())
    found: npt.NDArray[np.generic] = pc.fill_null(column, 0).to_numpy() if column.null_count else column.to_numpy()
    return found


def _filled(column: pa.ChunkedArray) -> pa.Array:
    return pc.fill_null(column, 0).combine_chunks()


def _column(numbers: npt.NDArray[np.generic], kind: FeatureType, mask: npt.NDArray[np.bool_]) -> pa.Array:
    if kind is FeatureType.TIMESTAMP:
        return _times(numbers, mask).cast(kind.arrow)
    if kind is FeatureType.BOOLEAN:
        return pa.array(numbers.astype(np.bool_), mask=mask)
    return pa.array(numbers, type=kind.arrow, mask=mask)


def _times(numbers: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(np.ascontiguousarray(numbers), pa.int64(), mask=mask).cast(_MILLISECONDS)
