"""Python functions that run inside Flink's task manager, in thread mode. Imported there and by the submitting process alone.

Thread mode of Flink 2.3 cannot carry a null in a number of a row, so a row that stands for an unusable record has zeros there and its
reason; every other row has all its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pyflink.common import Row
from pyflink.table import DataTypes
from pyflink.table.types import DataType
from pyflink.table.udf import FunctionContext, ScalarFunction

from featurestore.model import record_key
from streams import aggregates
from streams.letters import fits
from streams.model import Column, Unusable, kind_named
from streams.runtimes.decoding import RecordDecoder, ResultEncoder, registry_of
from streams.runtimes.job import job_from
from streams.windows import Window, closing_watermark

_ZERO = {"string": "", "bigint": 0, "double": 0.0}


class Decode(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """(value, closing, arrived) -> a row of reason, times, identity, key and measured values.

    Raises when the registry is away: Flink tries again.
    """

    def __init__(self, job: str) -> None:
        self._job = job

    def open(self, function_context: FunctionContext) -> None:
        """Reach the registry; called once in the task manager."""
        job = job_from(orjson.loads(self._job))
        self._spec = job.spec
        self._kind = kind_named(job.spec.kind)
        registry = registry_of(job.connection)
        self._decoder = RecordDecoder(self._kind, job.spec.parameters, registry.schema)
        columns = (*self._kind.primary_key, *self._kind.values)
        self._zeros = [_ZERO[column.type] for column in columns]

    def eval(self, value: bytes | None, closing: bool, arrived_ms: int) -> Any:
        """Return the row of one record."""
        try:
            found = self._decoder.decode(value, arrived_ms=arrived_ms, closing=closing)
        except Unusable as error:
            # Time zero never moves a watermark forward.
            return Row(str(error), 0, 0, False, "", *self._zeros)
        if found.closing:
            ends = closing_watermark(self._spec.window, found.reached_ms) + self._spec.window.lateness_ms
            return Row("", found.event_ms, ends, True, "", *self._zeros)
        values = [found.values[column.name] for column in self._kind.values]
        return Row("", found.event_ms, found.reached_ms, False, found.identity, *found.key, *values)


class RecordKey(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """Primary key values, in the order of a record key -> the record's key."""

    def eval(self, *values: str) -> bytes:
        """Return the key's bytes."""
        return record_key(values)


class RecordValue(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """End of a window (ms), primary key values, features in the order of the kind's aggregates -> the value of the result's record."""

    def __init__(self, job: str, number: int, schema: str) -> None:
        self._job = job
        self._number = number
        self._schema = schema

    def open(self, function_context: FunctionContext) -> None:
        """Parse the schema; called once in the task manager."""
        spec = job_from(orjson.loads(self._job)).spec
        kind = kind_named(spec.kind)
        self._encoder = ResultEncoder(spec, self._number, self._schema)
        self._size_ms = spec.window.size_ms
        self._keys = len(kind.primary_key)
        self._features = [aggregate.feature for aggregate in kind.aggregates]

    def eval(self, end_ms: int, *values: Any) -> bytes:
        """Return the value's bytes."""
        features = dict(zip(self._features, values[self._keys :], strict=True))
        return self._encoder.encode(values[: self._keys], Window(end_ms - self._size_ms, end_ms), features)[1]


class Fits(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """(key, value) -> whether a dead letter can hold them."""

    def eval(self, key: bytes | None, value: bytes | None) -> bool:
        """See `streams.letters.fits`."""
        return fits(key, value)


class N50(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """Lengths -> N50."""

    def eval(self, lengths: Sequence[int]) -> int | None:
        """Return N50 of one window."""
        return aggregates.n50(list(lengths))


class Mean(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """Values -> their mean."""

    def eval(self, values: Sequence[float]) -> float | None:
        """Return the mean of one window."""
        return aggregates.mean(list(values))


class MeanQuality(ScalarFunction):  # type: ignore[misc]  # pyflink has no types
    """Lengths and qualities -> the quality of the mean error."""

    def eval(self, lengths: Sequence[int], qualities: Sequence[float]) -> float | None:
        """Return the mean quality of one window."""
        return aggregates.mean_quality(list(lengths), list(qualities))


def decoded_type(columns: Sequence[Column]) -> DataType:
    """Return the type of `Decode`'s row for these key and value columns."""
    fields = [
        DataTypes.FIELD("ws_reason", DataTypes.STRING()),
        DataTypes.FIELD("ws_event_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("ws_reached_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("ws_closing", DataTypes.BOOLEAN()),
        DataTypes.FIELD("ws_identity", DataTypes.STRING()),
    ]
    return DataTypes.ROW([*fields, *(DataTypes.FIELD(column.name, _TYPES[column.type]()) for column in columns)])


_TYPES = {"string": DataTypes.STRING, "bigint": DataTypes.BIGINT, "double": DataTypes.DOUBLE}
