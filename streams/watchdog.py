"""Whether a worker that runs also works: one that reads nothing although records wait is started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams.model import ProcessorSpec
from streams.restarts import WELL_SECONDS
from streams.watermark import from_metadata
from wardstream.errors import Invalid, Unavailable
from wardstream.kafka import consumer
from wardstream.settings import KafkaSettings

# Longer than a rebalance, a registry that restarts, or the longest window function takes.
STUCK_SECONDS = 60.0

# A busy machine makes Flink answer late; its jobs go on meanwhile.
SILENT_SECONDS = 30.0
# Longer than Flink takes to find a lost task manager and to start its jobs on the next one.
FAILING_SECONDS = 60.0

_TROUBLED = frozenset({"RESTARTING", "FAILING"})

_TIMEOUT = 3.0
_GATHER = 2.0

Positions = Mapping[int, int]


class Watchdog:
    """Decides from what was seen and when; knows no Kafka."""

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._moved_at: dict[int, float] = {}
        self._positions: Positions = {}

    def suspects(self, now: float, positions: Positions, ends: Positions) -> int | None:
        """Return a partition that has records, the oldest of which has waited for `STUCK_SECONDS`, whatever others did meanwhile, or None."""
        behind = [partition for partition, end in ends.items() if positions.get(partition, 0) < end]
        for partition in ends:
            if partition not in behind or positions.get(partition) != self._positions.get(partition):
                self._moved_at[partition] = now
        self._positions = dict(positions)
        return next((each for each in behind if now - self._moved_at.get(each, self._began_at) >= STUCK_SECONDS), None)

    def forgive(self, partition: int, now: float) -> None:
        """Begin to wait anew for this partition: there was nothing to read after all."""
        self._moved_at[partition] = now


class JobWatchdog:
    """Decides from what Flink said of a job, and when, whether it is to be started anew; knows no Flink."""

    def __init__(self, now: float) -> None:
        self._answered_at = now
        self._troubled_since: float | None = None
        self._well_since: float | None = None

    def silent(self, now: float) -> bool:
        """Take note that Flink did not answer; returns whether it has not for `SILENT_SECONDS`."""
        return now - self._answered_at >= SILENT_SECONDS

    def failing(self, now: float, state: str) -> bool:
        """Take note of Flink's word for the job; returns whether it is being restarted, again and again or still, for `FAILING_SECONDS`.

        A job that runs for some seconds between two restarts is not well yet.
        """
        self._answered_at = now
        if state in _TROUBLED:
            self._troubled_since, self._well_since = now if self._troubled_since is None else self._troubled_since, None
            return now - self._troubled_since >= FAILING_SECONDS
        self._well_since = now if self._well_since is None else self._well_since
        if now - self._well_since >= WELL_SECONDS:
            self._troubled_since = None
        return False


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
                self._watchdog.forgive(suspect, self._monotonic())
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
