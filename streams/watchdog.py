"""Whether a worker that runs also works: one that reads nothing although records wait is started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams.model import ProcessorSpec
from streams.watermark import from_metadata
from wardstream.errors import Invalid, Unavailable
from wardstream.kafka import consumer
from wardstream.settings import KafkaSettings

# Longer than a rebalance, a registry that restarts, or the longest window function takes.
STUCK_SECONDS = 60.0

_TIMEOUT = 3.0
_GATHER = 2.0

Positions = Mapping[int, int]


class Watchdog:
    """Decides from what was seen and when; knows no Kafka."""

    def __init__(self, now: float) -> None:
        self._moved_at = now
        self._positions: Positions = {}

    def suspects(self, now: float, positions: Positions, ends: Positions) -> int | None:
        """Return a partition that has records, the oldest of which has waited for `STUCK_SECONDS` without any progress, or None."""
        behind = [partition for partition, end in ends.items() if positions.get(partition, 0) < end]
        if not behind or positions != self._positions:
            self._positions, self._moved_at = dict(positions), now
            return None
        return behind[0] if now - self._moved_at >= STUCK_SECONDS else None

    def forgive(self, now: float) -> None:
        """Begin to wait anew: there was nothing to read after all."""
        self._moved_at = now


class SourceWatch:
    """Looks at one processor's source with the processor's own certificate."""

    def __init__(self, spec: ProcessorSpec, kafka: KafkaSettings, *, monotonic: Callable[[], float]) -> None:
        self._spec = spec
        self._monotonic = monotonic
        self._watchdog = Watchdog(monotonic())
        self._client: Consumer = consumer(kafka, group=spec.group, group_protocol="classic")

    def failure(self) -> str | None:
        """Return why the worker is to be started again, or None; a broker that is away says nothing about the worker."""
        topic = self._spec.source_topic
        places = [TopicPartition(topic, each) for each in range(self._spec.partitions)]
        try:
            positions = {each.partition: _position(each) for each in self._client.committed(places, timeout=_TIMEOUT)}
            ends = {each.partition: self._end_of(each) for each in places}
            suspect = self._watchdog.suspects(self._monotonic(), positions, ends)
            if suspect is None:
                return None
            if not self._readable(topic, suspect, positions.get(suspect, 0)):
                self._watchdog.forgive(self._monotonic())
                return None
        except (KafkaException, Unavailable):
            return None
        return f"it has made no progress for {STUCK_SECONDS:g} s, though records wait in {topic}"

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _end_of(self, place: TopicPartition) -> int:
        """Return where the partition ends; raises `Unavailable` where the broker does not say in time."""
        found = self._client.get_watermark_offsets(place, timeout=_TIMEOUT)
        if found is None:
            raise Unavailable(f"the broker does not say where {place.topic} ends")
        return int(found[1])

    def _readable(self, topic: str, partition: int, offset: int) -> bool:
        """Whether there is a record at or behind `offset`: the end of a topic may be marks of transactions."""
        self._client.assign([TopicPartition(topic, partition, offset)])
        try:
            return any(message.error() is None for message in self._client.consume(1, _GATHER))
        finally:
            self._client.unassign()


def _position(committed: TopicPartition) -> int:
    """Return how far the worker has come: the text beside its offset says it, the offset is what its windows still need."""
    if committed.offset < 0:
        return 0
    try:
        progress = from_metadata(committed.metadata)
    except Invalid:
        progress = None
    return max(committed.offset, progress.position if progress is not None else 0)
