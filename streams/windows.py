"""Event-time windows of one partition, as values: no clock, no Kafka.

What comes out depends on the partition's records and their order alone, never on when the worker read them, how they were
batched or how often it was killed. `Progress` and the records from `needed_from` on are enough to continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.model import Key, Measurement, WindowShape
from streams.watermark import Progress


@dataclass(frozen=True)
class Window:
    """Event times from `start_ms` up to, but not including, `end_ms`."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Placed:
    """A measurement with the offset of its record."""

    offset: int
    measurement: Measurement


@dataclass(frozen=True)
class Closed:
    """A window of one key that will get no more records: its measurements in order of event time, context included, repeats removed."""

    key: Key
    window: Window
    placed: tuple[Placed, ...]

    @property
    def own(self) -> tuple[Placed, ...]:
        """Those that belong to the window itself, without the context before and after it."""
        return tuple(placed for placed in self.placed if _touches(placed.measurement, self.window.start_ms, self.window.end_ms))


@dataclass(frozen=True)
class Step:
    """What one record did. `late`: a window it belongs to was closed before it came, so it is missing there."""

    late: bool = False
    closed: tuple[Closed, ...] = ()


class PartitionWindows:
    """The open windows of one partition. Records are handed over in the order of their offsets."""

    def __init__(self, shape: WindowShape, progress: Progress | None = None) -> None:
        self._shape = shape
        self._progress = progress or Progress()
        self._kept: dict[Key, list[Placed]] = {}

    @property
    def progress(self) -> Progress:
        """How far the partition is."""
        return self._progress

    @property
    def needed_from(self) -> int:
        """The offset from which records must be read again after a restart: the oldest that an open window may still use."""
        # Records of a key are kept in the order of their offsets, and this is asked for at every record.
        return min((kept[0].offset for kept in self._kept.values()), default=self._progress.position)

    def add(self, offset: int, measurement: Measurement) -> Step:
        """Take one measurement; returns whether it came too late, and what it closed.

        A record before `progress.position` was judged before: it is never late again, and it fills open windows as it did then.
        """
        replayed = offset < self._progress.position
        late = not replayed and self._is_closed(self._window_of(measurement.event_ms))
        if self._is_needed(measurement):
            self._kept.setdefault(measurement.key, []).append(Placed(offset, measurement))
        return Step(late, self._advance(offset, measurement.reached_ms - self._shape.lateness_ms))

    def close(self, offset: int, reached_ms: int) -> Step:
        """Take a closing record: nothing up to the end of the window that holds `reached_ms` is expected any more."""
        return Step(False, self._advance(offset, closing_watermark(self._shape, reached_ms)))

    def skip(self, offset: int) -> None:
        """Take note of a record that could not be used."""
        self._progress = self._progress.seen(offset, None)

    def _advance(self, offset: int, watermark_ms: int) -> tuple[Closed, ...]:
        before = self._oldest_open()
        self._progress = self._progress.seen(offset, watermark_ms)
        after = self._oldest_open()
        if after is None or after == before:
            return ()
        closed = [
            found
            for key, kept in self._kept.items()
            for start in self._starts(kept)
            if (before is None or start >= before) and start < after and (found := self._close_one(key, kept, start)) is not None
        ]
        needed = {key: [placed for placed in kept if self._is_needed(placed.measurement)] for key, kept in self._kept.items()}
        self._kept = {key: kept for key, kept in needed.items() if kept}
        return tuple(sorted(closed, key=lambda each: (each.window.start_ms, each.key)))

    def _close_one(self, key: Key, kept: Sequence[Placed], start: int) -> Closed:
        end, shape = start + self._shape.size_ms, self._shape
        inside = [placed for placed in kept if _touches(placed.measurement, start - shape.before_ms, end + shape.after_ms)]
        inside.sort(key=lambda placed: (placed.measurement.event_ms, placed.offset))
        seen: set[str] = set()
        unique = []
        for placed in inside:
            identity = placed.measurement.identity
            if not identity or identity not in seen:
                unique.append(placed)
                seen.add(identity)
        return Closed(key, Window(start, end), tuple(unique))

    def _starts(self, kept: Sequence[Placed]) -> set[int]:
        """Starts of all windows that a kept measurement itself belongs to."""
        size = self._shape.size_ms
        return {
            start
            for placed in kept
            for start in range(self._window_of(placed.measurement.event_ms), _last_ms(placed.measurement) + 1, size)
        }

    def _window_of(self, event_ms: int) -> int:
        return event_ms // self._shape.size_ms * self._shape.size_ms

    def _oldest_open(self) -> int | None:
        watermark = self._progress.watermark_ms
        return None if watermark is None else self._window_of(watermark - self._shape.after_ms)

    def _is_closed(self, start: int) -> bool:
        oldest = self._oldest_open()
        return oldest is not None and start < oldest

    def _is_needed(self, measurement: Measurement) -> bool:
        oldest = self._oldest_open()
        return oldest is None or _last_ms(measurement) >= oldest - self._shape.before_ms


def closing_watermark(shape: WindowShape, reached_ms: int) -> int:
    """Return the watermark that closes the window which holds `reached_ms` and all before it."""
    return reached_ms // shape.size_ms * shape.size_ms + shape.size_ms + shape.after_ms


def _last_ms(measurement: Measurement) -> int:
    return measurement.event_ms + max(measurement.span_ms - 1, 0)


def _touches(measurement: Measurement, start: int, end: int) -> bool:
    return measurement.event_ms < end and _last_ms(measurement) >= start
