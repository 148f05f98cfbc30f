"""A processor without Kafka, and a reference to compare every runtime with. For tests of processors, ours and a project's.

`run` uses the same windows as the Faust worker, fed record by record. `reference` says the same thing by brute force: it looks at
all records at once, for each window again, and shares no code with the windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.aggregates import summarise
from streams.model import Key, Measurement, ProcessorKind, ProcessorSpec, Unusable, WindowShape, kind_named
from streams.runtimes.decoding import RecordDecoder
from streams.windows import Closed, PartitionWindows, Placed, Window

# What one partition holds: a measurement, or why there is none. The place in the list is the offset.
Entry = Measurement | Unusable
Place = tuple[int, int]
RowKey = tuple[Key, int]


@dataclass
class Outcome:
    """Rows by key and event time (the window's end), and the places (partition, offset) of records that ended as dead letters."""

    rows: dict[RowKey, Mapping[str, Any]] = field(default_factory=dict)
    late: set[Place] = field(default_factory=set)
    unusable: dict[Place, str] = field(default_factory=dict)

    @property
    def dead_letters(self) -> set[Place]:
        """All places of dead letters."""
        return self.late | set(self.unusable)


@dataclass(frozen=True)
class Logged:
    """A record as a partition holds it: its value, the broker's time, and whether its header ends a replay."""

    value: bytes | None
    arrived_ms: int
    closing: bool = False


def entries(decoder: RecordDecoder, records: Sequence[Logged]) -> list[Entry]:
    """Return what the decoder makes of one partition's records."""
    found: list[Entry] = []
    for record in records:
        try:
            found.append(decoder.decode(record.value, arrived_ms=record.arrived_ms, closing=record.closing))
        except Unusable as error:
            found.append(error)
    return found


def run(spec: ProcessorSpec, partitions: Sequence[Sequence[Entry]]) -> Outcome:
    """Return what a worker does with these records, each partition by itself."""
    kind, outcome = kind_named(spec.kind), Outcome()
    for number, partition in enumerate(partitions):
        windows = PartitionWindows(spec.window)
        for offset, entry in enumerate(partition):
            if isinstance(entry, Unusable):
                windows.skip(offset)
                outcome.unusable[number, offset] = str(entry)
                continue
            step = windows.close(offset, entry.reached_ms) if entry.closing else windows.add(offset, entry)
            if step.late:
                outcome.late.add((number, offset))
            for closed in step.closed:
                outcome.rows[closed.key, closed.window.end_ms] = summarise(kind, closed, spec.parameters)
    return outcome


def reference(spec: ProcessorSpec, partitions: Sequence[Sequence[Entry]], *, joined: bool = False) -> Outcome:
    """Return what must come out, by brute force.

    `joined`: keys that lie in several partitions are brought together (Flink does; on Faust a key has one partition).
    Then a window is whole when every partition has closed it, and context around windows is not supported.
    """
    kind, shape, outcome = kind_named(spec.kind), spec.window, Outcome()
    collected: dict[tuple[Key, int], list[Placed]] = {}
    for number, partition in enumerate(partitions):
        for offset, entry in enumerate(partition):
            if isinstance(entry, Unusable):
                outcome.unusable[number, offset] = str(entry)
            elif not entry.closing and _late(shape, partition, offset, entry):
                outcome.late.add((number, offset))
        for key, start in _windows(shape, partition):
            end_offset = _closed_at(shape, partition, start)
            inside = [
                Placed(offset, entry)
                for offset, entry in enumerate(partition)
                if isinstance(entry, Measurement)
                and not entry.closing
                and entry.key == key
                and (end_offset is None or offset <= end_offset)
                and _overlaps(entry, start - shape.before_ms, start + shape.size_ms + shape.after_ms)
            ]
            own = [placed for placed in inside if _overlaps(placed.measurement, start, start + shape.size_ms)]
            if own and (end_offset is not None or joined):
                collected.setdefault((key, start), []).extend(inside)
    for (key, start), placed in collected.items():
        if joined and any(_closed_at(shape, partition, start) is None for partition in partitions if partition):
            continue
        outcome.rows[key, start + shape.size_ms] = _summary(kind, spec, key, start, placed)
    return outcome


def _summary(kind: ProcessorKind, spec: ProcessorSpec, key: Key, start: int, placed: Sequence[Placed]) -> Mapping[str, Any]:
    firsts: dict[str, Placed] = {}
    for each in sorted(placed, key=lambda one: (one.measurement.event_ms, one.offset)):
        firsts.setdefault(each.measurement.identity or f"{id(each)}", each)
    return summarise(kind, Closed(key, Window(start, start + spec.window.size_ms), tuple(firsts.values())), spec.parameters)


def _watermark_before(shape: WindowShape, partition: Sequence[Entry], offset: int) -> float:
    """The newest event time before `offset` less the lateness, or what a closing record said; a fast clock counts as the broker's."""
    marks = [float("-inf")]
    for entry in partition[:offset]:
        if isinstance(entry, Measurement):
            reached = entry.event_ms
            if entry.arrived_ms is not None and entry.arrived_ms < reached:
                reached = entry.arrived_ms
            window_end = (reached // shape.size_ms + 1) * shape.size_ms
            marks.append(window_end + shape.after_ms if entry.closing else reached - shape.lateness_ms)
    return max(marks)


def _late(shape: WindowShape, partition: Sequence[Entry], offset: int, entry: Measurement) -> bool:
    window_end = (entry.event_ms // shape.size_ms + 1) * shape.size_ms
    return window_end + shape.after_ms <= _watermark_before(shape, partition, offset)


def _closed_at(shape: WindowShape, partition: Sequence[Entry], start: int) -> int | None:
    """The offset of the record that closes the window, None if it stays open."""
    for offset in range(len(partition)):
        if _watermark_before(shape, partition, offset + 1) >= start + shape.size_ms + shape.after_ms:
            return offset
    return None


def _windows(shape: WindowShape, partition: Sequence[Entry]) -> set[tuple[Key, int]]:
    return {
        (entry.key, start)
        for entry in partition
        if isinstance(entry, Measurement) and not entry.closing
        for start in range(entry.event_ms // shape.size_ms * shape.size_ms, entry.event_ms + max(entry.span_ms, 1), shape.size_ms)
    }


def _overlaps(entry: Measurement, start: int, end: int) -> bool:
    return entry.event_ms < end and entry.event_ms + max(entry.span_ms, 1) > start
