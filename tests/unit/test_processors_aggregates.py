"""What the aggregates of a window say, by hand."""

from __future__ import annotations

import math

import pytest

from streams import aggregates
from streams.model import PROCESSOR_KINDS, Measurement
from streams.windows import Closed, Placed, Window
from wardstream.errors import Invalid


def test_rmssd_looks_at_successive_differences() -> None:
    assert aggregates.rmssd([1000, 1010, 990]) == pytest.approx(math.sqrt((10**2 + 20**2) / 2))
    assert aggregates.rmssd([800, 800, 800]) == 0


def test_sdnn_is_the_deviation_of_a_sample() -> None:
    assert aggregates.sdnn([800, 900, 1000]) == 100


def test_pnn50_counts_differences_above_50_ms() -> None:
    assert aggregates.pnn50([800, 851, 900, 850]) == pytest.approx(100 / 3)


def test_variability_needs_two_intervals() -> None:
    assert aggregates.rmssd([800]) is aggregates.sdnn([800]) is aggregates.pnn50([]) is None


def test_half_of_all_bases_lie_in_reads_of_n50_or_more() -> None:
    assert aggregates.n50([2, 2, 2, 3, 3, 4, 8, 8]) == 8
    assert aggregates.n50([10, 1, 1]) == 10
    assert aggregates.n50([]) is aggregates.n50([0, 0]) is None


def test_mean_quality_is_of_errors_and_weighs_by_bases() -> None:
    # Ten percent and one in a million: about one error in twenty bases, not Q35.
    assert aggregates.mean_quality([100, 100], [10.0, 60.0]) == pytest.approx(13.0103, abs=1e-4)
    assert aggregates.mean_quality([300, 100], [10.0, 60.0]) == pytest.approx(-10 * math.log10(0.075), abs=1e-4)
    assert aggregates.mean_quality([], []) is aggregates.mean_quality([0], [10.0]) is None


def test_a_ratio_of_nothing_is_unknown() -> None:
    assert aggregates.ratio([], []) is aggregates.ratio([0], [0]) is None
    assert aggregates.ratio([1, 2], [4, 4]) == 0.375


def test_means_do_not_depend_on_the_order() -> None:
    values = [1e16, 1.0, -1e16, 1.0]
    assert aggregates.mean(values) == aggregates.mean(values[::-1]) == 0.5


def test_an_aggregate_is_asked_for_by_name_and_number_of_columns() -> None:
    with pytest.raises(Invalid, match="no aggregate 'median'; there are count"):
        aggregates.function_named("median", 1)
    with pytest.raises(Invalid, match="mean_quality takes 2 columns, got 1"):
        aggregates.function_named("mean_quality", 1)


def test_a_minute_of_reads_becomes_a_row() -> None:
    def placed(offset: int, length: int, quality: float) -> Placed:
        values = {"length": length, "mean_quality": quality, "gc_bases": length // 2, "acgt_bases": length}
        return Placed(offset, Measurement(("nanopore-1", "1-128"), 1000 * offset, f"r {offset}", values=values))

    closed = Closed(("nanopore-1", "1-128"), Window(0, 60_000), (placed(0, 100, 10.0), placed(1, 300, 10.0)))
    row = aggregates.summarise(PROCESSOR_KINDS["reads_1m"], closed, {})
    assert row == {"reads": 2, "bases": 400, "n50": 300, "mean_quality": 10.0, "gc": 0.5}
