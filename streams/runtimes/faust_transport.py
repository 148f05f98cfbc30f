"""Faust's Kafka transport, with one change: offsets are committed by the processor, together with its progress.

Faust commits an offset when the events before it are acknowledged, and with an empty text beside it. Here the offset is
the oldest record that an open window needs, and the text says how far the windows were: both must change in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiokafka.errors import (  # type: ignore[import-untyped]  # aiokafka has no types
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]  # aiokafka has no types
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

Committed = Mapping[tuple[str, int], tuple[int, str]]


class _Thread(AIOKafkaConsumerThread):
    """The thread that holds the aiokafka consumer."""

    def _create_worker_consumer(self, transport: Transport) -> Any:
        made = super()._create_worker_consumer(transport)
        # Sources may be written in transactions (results of Flink are); what was aborted was never there.
        made._isolation_level = "read_committed"
        return made

    async def commit_exactly(self, offsets: Committed) -> bool:
        return cast(bool, await self.call_thread(self._commit_exactly, offsets))

    async def committed_exactly(self, partitions: Iterable[tuple[str, int]]) -> Committed:
        return cast(Committed, await self.call_thread(self._committed_exactly, list(partitions)))

    async def _commit_exactly(self, offsets: Committed) -> bool:
        wanted = {TopicPartition(topic, number): OffsetAndMetadata(*value) for (topic, number), value in offsets.items()}
        try:
            await self._ensure_consumer().commit(wanted)
        except (CommitFailedError, IllegalGenerationError, IllegalStateError, RebalanceInProgressError, UnknownMemberIdError):
            return False
        return True

    async def _committed_exactly(self, partitions: Iterable[tuple[str, int]]) -> Committed:
        wanted = [TopicPartition(topic, number) for topic, number in partitions]
        found = await self._ensure_consumer()._coordinator.fetch_committed_offsets(wanted)
        return {(tp.topic, tp.partition): (value.offset, value.metadata) for tp, value in found.items() if value.offset >= 0}

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        # Nothing is ever acknowledged, so Faust has nothing to commit; should it try, its offset would lack the progress.
        return True

    def verify_event_path(self, now: float, tp: Any) -> None:
        # Faust would warn that offsets do not advance; the supervisor's watchdog looks at the progress instead.
        return


class _Consumer(Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class ProgressTransport(Transport):
    """Kafka for one Faust app whose offsets carry text."""

    Consumer = _Consumer

    @staticmethod
    async def commit(app: Any, offsets: Committed) -> bool:
        """Commit offsets and texts together; returns False if a rebalance has taken the partitions away."""
        return await cast(_Thread, app.consumer._thread).commit_exactly(offsets)

    @staticmethod
    async def committed(app: Any, partitions: Iterable[tuple[str, int]]) -> Committed:
        """Return offset and text of those partitions that have any."""
        return await cast(_Thread, app.consumer._thread).committed_exactly(partitions)
