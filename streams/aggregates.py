"""Aggregates of one window, each in Python and, where Flink runs it, in SQL. Both give the same value, in any order of the records.

Sums of whole numbers are exact in both. Sums of fractions are made by `math.fsum`, which rounds once, so their order does not matter;
Flink's SUM does not, and therefore gathers such columns and calls the function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from streams.model import Parameter, ProcessorKind, resolve
from streams.windows import Closed
from wardstream.errors import Invalid

Number = int | float


def count(rows: int) -> int:
    """Return the number of rows."""
    return rows


def total(values: Sequence[int]) -> int:
    """Return the sum of whole numbers."""
    return sum(values)


def mean(values: Sequence[Number]) -> float | None:
    """Return the arithmetic mean, None of nothing."""
    return math.fsum(values) / len(values) if values else None


def sdnn(intervals: Sequence[Number]) -> float | None:
    """Return the standard deviation (of a sample) of beat-to-beat intervals, in their unit; None of fewer than two."""
    if len(intervals) < 2:
        return None
    centre = math.fsum(intervals) / len(intervals)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in intervals) / (len(intervals) - 1))


def rmssd(intervals: Sequence[Number]) -> float | None:
    """Return the root mean square of successive differences of intervals, in their unit; None of fewer than two."""
    steps = _steps(intervals)
    return math.sqrt(math.fsum(step**2 for step in steps) / len(steps)) if steps else None


def pnn50(intervals_ms: Sequence[Number]) -> float | None:
    """Return the percentage of successive differences of intervals that exceed 50 ms; None of fewer than two intervals."""
    steps = _steps(intervals_ms)
    return 100.0 * sum(abs(step) > 50 for step in steps) / len(steps) if steps else None


def n50(lengths: Sequence[int]) -> int | None:
    """Return the length at which half of all bases lie in reads at least as long; None of nothing or of empty reads."""
    half, reached = sum(lengths), 0
    for length in sorted(lengths, reverse=True):
        reached += length
        if length and 2 * reached >= half:
            return length
    return None


def mean_quality(lengths: Sequence[int], qualities: Sequence[float]) -> float | None:
    """Return the Phred quality of the mean error probability, each read weighing as many bases as it has; None without bases.

    The plain mean of qualities flatters: one base in ten wrong and nine perfect are Q10, not Q40.
    Rounded to six decimals: the logarithms of two languages may differ in the last bit.
    """
    bases = sum(lengths)
    if not bases:
        return None
    errors = math.fsum(length * 10.0 ** (-quality / 10.0) for length, quality in zip(lengths, qualities, strict=True))
    return round(-10.0 * math.log10(errors / bases), 6) if errors > 0 else None


def ratio(parts: Sequence[int], wholes: Sequence[int]) -> float | None:
    """Return the sum of `parts` over the sum of `wholes`, such as GC content; None where there is no whole."""
    whole = sum(wholes)
    return sum(parts) / whole if whole else None


@dataclass(frozen=True)
class AggregateFunction:
    """One aggregate: `compute` from columns of equal length; `sql` with {0}, {1} for the columns; what Flink must call in Python."""

    columns: int
    compute: Callable[[int, Sequence[Sequence[Number]]], Number | None]
    sql: str
    python_function: str | None = None


FUNCTIONS: Mapping[str, AggregateFunction] = MappingProxyType(
    {
        "count": AggregateFunction(0, lambda rows, _: count(rows), "COUNT(*)"),
        "sum": AggregateFunction(1, lambda _, columns: total([int(value) for value in columns[0]]), "SUM({0})"),
        "n50": AggregateFunction(1, lambda _, columns: n50([int(value) for value in columns[0]]), "ws_n50(ARRAY_AGG({0}))", "ws_n50"),
        "mean": AggregateFunction(1, lambda _, columns: mean(columns[0]), "ws_mean(ARRAY_AGG({0}))", "ws_mean"),
        "mean_quality": AggregateFunction(
            2,
            lambda _, columns: mean_quality([int(value) for value in columns[0]], columns[1]),
            "ws_mean_quality(ARRAY_AGG({0}), ARRAY_AGG({1}))",
            "ws_mean_quality",
        ),
        "ratio": AggregateFunction(
            2,
            lambda _, columns: ratio([int(value) for value in columns[0]], [int(value) for value in columns[1]]),
            "CAST(SUM({0}) AS DOUBLE) / NULLIF(CAST(SUM({1}) AS DOUBLE), 0.0)",
        ),
    }
)


def summarise(kind: ProcessorKind, closed: Closed, parameters: Mapping[str, Parameter]) -> Mapping[str, Number | None]:
    """Return the features of one closed window: by the kind's own function, or by its aggregates over the window's measurements."""
    if kind.window_function is not None:
        found: Mapping[str, Number | None] = resolve(kind.window_function)(closed, parameters)
        return found
    measured = [placed.measurement.values for placed in closed.own]
    row: dict[str, Number | None] = {}
    for aggregate in kind.aggregates:
        columns = [[values[name] for values in measured] for name in aggregate.columns]
        row[aggregate.feature] = function_named(aggregate.function, len(columns)).compute(len(measured), columns)
    return row


def function_named(name: str, columns: int) -> AggregateFunction:
    """Return an aggregate; raises `Invalid` for an unknown one or another number of columns."""
    found = FUNCTIONS.get(name)
    if found is None:
        raise Invalid(f"there is no aggregate {ascii(name)[:40]}; there are {', '.join(sorted(FUNCTIONS))}")
    if found.columns != columns:
        raise Invalid(f"the aggregate {name} takes {found.columns} columns, got {columns}")
    return found


def _steps(values: Sequence[Number]) -> list[Number]:
    return [after - before for before, after in pairwise(values)]
