"""Windows against brute force: any order, repeats, late records, restarts at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.aggregates import summarise
from streams.model import PROCESSOR_KINDS, Measurement, ProcessorSpec, Runtime, Unusable, WindowShape
from streams.runtimes.decoding import placed_in_time
from streams.testing import Entry, RowKey, reference, run
from streams.windows import PartitionWindows
from wardstream.names import DatasetName, MemberName, ProjectName

_KIND = PROCESSOR_KINDS["reads_1m"]


def _spec(shape: WindowShape) -> ProcessorSpec:
    return ProcessorSpec(
        ProjectName("virology"), MemberName("reads"), "reads_1m", DatasetName("reads"), DatasetName("reads_1m_1"), Runtime.FAUST, shape
    )


def _read(key: str, event_ms: int, number: int, span_ms: int = 0, arrived_ms: int | None = None) -> Measurement:
    values = {"length": 10 + number, "mean_quality": float(number % 30), "gc_bases": number % 10, "acgt_bases": 10}
    return Measurement((key, "1-128"), event_ms, f"{key} {number}", span_ms, values=values, arrived_ms=arrived_ms)


shapes = st.builds(
    WindowShape, size_ms=st.integers(1, 20), lateness_ms=st.integers(0, 15), before_ms=st.integers(0, 15), after_ms=st.integers(0, 8)
)
plain_shapes = st.builds(WindowShape, size_ms=st.integers(1, 20), lateness_ms=st.integers(0, 15))
# Some clocks are behind the broker's, some ahead of it.
arrivals = st.one_of(st.none(), st.integers(0, 110))
measurements = st.builds(_read, st.sampled_from("ab"), st.integers(0, 100), st.integers(0, 12), st.integers(0, 6), arrivals)
closings = st.builds(lambda at, arrived_ms: Measurement(("", ""), at, closing=True, arrived_ms=arrived_ms), st.integers(0, 110), arrivals)
sent = st.lists(st.tuples(st.one_of(measurements, measurements, closings), st.integers(0, 110)), max_size=40)
partitions = st.lists(st.one_of(measurements, measurements, measurements, closings, st.just(Unusable("broken"))), max_size=40)


@given(shapes, st.lists(partitions, min_size=1, max_size=2))
def test_windows_say_what_brute_force_says(shape: WindowShape, logs: list[list[Entry]]) -> None:
    # Two partitions never share a key, as on Faust.
    logs = [[_renamed(entry, str(number)) for entry in log] for number, log in enumerate(logs)]
    spec = _spec(shape)
    assert run(spec, logs) == reference(spec, logs)


@given(plain_shapes, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.floats(0, 1)), max_size=40))
def test_disorder_within_the_lateness_changes_no_row(shape: WindowShape, drawn: list[tuple[int, int, float]]) -> None:
    reads = [_read("a", event_ms, number) for number, (event_ms, _, _) in enumerate(drawn)]
    delayed = sorted(zip(reads, drawn, strict=True), key=lambda pair: pair[0].event_ms + pair[1][2] * shape.lateness_ms)
    end = Measurement(("", ""), 400, closing=True)
    in_order = run(_spec(shape), [[*sorted(reads, key=lambda read: read.event_ms), end]])
    disordered = run(_spec(shape), [[*(read for read, _ in delayed), end]])
    assert not disordered.late
    assert disordered.rows == in_order.rows


@given(plain_shapes, partitions, st.data())
def test_repeats_change_no_row(shape: WindowShape, log: list[Entry], data: st.DataObject) -> None:
    once = run(_spec(shape), [log])
    twice: list[Entry] = []
    for entry in log:
        twice += [entry] * data.draw(st.integers(1, 3))
    assert run(_spec(shape), [twice]).rows == once.rows


@given(shapes, sent, st.data())
def test_a_kill_at_any_moment_loses_nothing_and_contradicts_nothing(
    shape: WindowShape, log: list[tuple[Measurement, int]], data: st.DataObject
) -> None:
    spec = _spec(shape)
    expected = run(spec, [[_judged(*record) for record in log]])
    rows: dict[RowKey, Mapping[str, Any]] = {}
    late: list[int] = []
    windows = PartitionWindows(shape)
    committed = (windows.needed_from, windows.progress)
    offset = 0
    kills = data.draw(st.integers(0, 6))
    while offset < len(log):
        judged = windows.progress.position
        # Read again after each kill, at whatever time that is.
        entry = _judged(*log[offset])
        if isinstance(entry, Unusable):
            assert str(entry) == expected.unusable[0, offset]
            windows.skip(offset)
        else:
            assert (0, offset) not in expected.unusable
            step = windows.close(offset, entry.reached_ms) if entry.closing else windows.add(offset, entry)
            if step.late:
                assert offset >= judged, "a record that was judged before was called late again"
                late.append(offset)
            for closed in step.closed:
                row = summarise(_KIND, closed, {})
                key = (closed.key, closed.window.end_ms)
                assert rows.setdefault(key, row) == row, "a row was written again with another value"
        offset += 1
        if data.draw(st.booleans()):
            committed = (windows.needed_from, windows.progress)
        if kills and data.draw(st.booleans()):
            kills -= 1
            windows = PartitionWindows(shape, committed[1])
            offset = committed[0]
    assert rows == expected.rows
    assert {(0, each) for each in late} == expected.late


@given(plain_shapes, st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10)), max_size=40), st.lists(st.integers(0, 10)))
def test_a_clock_that_is_ahead_makes_no_other_record_late(shape: WindowShape, right: list[tuple[int, int]], ahead: list[int]) -> None:
    # Right clocks: a record arrives at most the lateness after its time. Each is followed by one whose clock is ahead.
    log: list[Entry] = []
    for number, (arrived_ms, delay) in enumerate(sorted(right)):
        log.append(_read("a", max(0, arrived_ms - min(delay, shape.lateness_ms)), number, arrived_ms=arrived_ms))
        if number < len(ahead):
            log.append(_read("fast", arrived_ms + 1000 * ahead[number], number, arrived_ms=arrived_ms))
    assert not run(_spec(shape), [log]).late


@given(shapes, partitions)
def test_progress_never_goes_back(shape: WindowShape, log: list[Entry]) -> None:
    windows = PartitionWindows(shape)
    needed, watermark = 0, float("-inf")
    for offset, entry in enumerate(log):
        if isinstance(entry, Unusable):
            windows.skip(offset)
        elif entry.closing:
            windows.close(offset, entry.reached_ms)
        else:
            windows.add(offset, entry)
        assert windows.needed_from >= needed
        assert windows.progress.watermark_ms is None or windows.progress.watermark_ms >= watermark
        needed, watermark = windows.needed_from, windows.progress.watermark_ms or watermark


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_lasts_some_time(size: int) -> None:
    with pytest.raises(Exception, match="at least 1 ms"):
        WindowShape(size, 0)


def _renamed(entry: Entry, suffix: str) -> Entry:
    if isinstance(entry, Unusable) or entry.closing:
        return entry
    return replace(entry, key=(entry.key[0] + suffix, entry.key[1]))


def _judged(measurement: Measurement, arrived_ms: int) -> Entry:
    """What a worker makes of a record: the clocks of devices may be ahead by no more than 30 ms."""
    try:
        return placed_in_time(measurement, arrived_ms, 30)
    except Unusable as error:
        return error
