"""The topic `_schemas`: read to its end at the start, then followed; what is written is answered when it was read back.

Control creates the topic (one partition, compacted). One registry writes it. A second one that writes at the same time is
noticed at the read-back, since both see the same order of records, but the loser's record stays in the log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.store import Entry, SchemaState
from tenancy.acls import SCHEMAS_TOPIC
from wardstream.errors import Unavailable
from wardstream.kafka import consumer, deliver, kafka_error, producer
from wardstream.settings import KafkaSettings

logger = logging.getLogger(__name__)

# Longer than a broker's restart on a laptop, shorter than a client's patience with one request.
_WRITE_SECONDS = 10.0
_POLL_SECONDS = 0.1


class SchemaLog:
    """State of the registry, kept equal to the topic by one thread. Thread-safe."""

    def __init__(self, *, make_consumer: Callable[[], Consumer], make_producer: Callable[[], Producer], topic: str = SCHEMAS_TOPIC) -> None:
        self._make_consumer = make_consumer
        self._make_producer = make_producer
        self._topic = topic
        self._state = SchemaState()
        self._changed = threading.Condition(threading.RLock())
        self._writing = threading.RLock()
        self._next_offset = 0
        self._loaded = False
        self._problem: str | None = "the schema registry has not read its topic yet"
        self._stopping = threading.Event()
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow the topic in a thread; `ready` tells when it was read to its end."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="schema-log", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; the log can be read on, and not written."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def ready(self) -> str | None:
        """Return nothing when the topic was read to its end, else what is missing."""
        with self._changed:
            return None if self._loaded else self._problem

    def wait_until_ready(self, seconds: float) -> None:
        """Return when the topic was read to its end; raises `Unavailable` with the reason after `seconds`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._loaded, timeout=seconds):
                raise Unavailable(self._problem or "the schema registry is not ready")

    @contextmanager
    def reading(self) -> Iterator[SchemaState]:
        """Hold the state still; raises `Unavailable` before the topic was read once."""
        with self._changed:
            if not self._loaded:
                raise Unavailable(self._problem or "the schema registry is not ready")
            yield self._state

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, for a decision under `reading` and the `append` that follows from it; readers go on meanwhile."""
        with self._writing:
            yield

    def append(self, entries: Sequence[Entry]) -> None:
        """Write records in order and return when this process has read the last one back.

        Raises `Unavailable` when the broker does not take them in time; then some may be in the log all the same.
        Called within `writing`.
        """
        if self._producer is None:
            self._producer = self._make_producer()
        placed = deliver(self._producer, [(self._topic, e.key, e.value, []) for e in entries], seconds=_WRITE_SECONDS)
        last = max(offset for _, offset in placed)
        with self._changed:
            if not self._changed.wait_for(lambda: self._next_offset > last, timeout=_WRITE_SECONDS):
                raise Unavailable("the schema registry wrote, and did not see its record within 10 s")

    def _follow(self) -> None:
        while not self._stopping.is_set():
            source = self._make_consumer()
            try:
                source.assign([TopicPartition(self._topic, 0, self._next_offset)])
                self._read(source)
            except KafkaException as error:
                self._set_problem(kafka_error(error, f"read {self._topic}").message)
                self._stopping.wait(1.0)
            finally:
                source.close()

    def _read(self, source: Consumer) -> None:
        while not self._stopping.is_set():
            messages = source.consume(500, _POLL_SECONDS)
            at_end = False
            with self._changed:
                for message in messages:
                    error = message.error()
                    if error is None:
                        self._take(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        # The end also lies behind records that compaction or transactions left no offset for.
                        self._next_offset = max(self._next_offset, message.offset() or 0)
                        at_end = True
                    else:
                        raise KafkaException(error)
                if at_end and not self._loaded:
                    self._loaded, self._problem = True, None
                    logger.info("schema registry loaded", extra={"offset": self._next_offset, "subjects": len(self._state.subjects())})
                if messages:
                    self._changed.notify_all()

    def _take(self, message: Any) -> None:
        passed_over = self._state.apply(message.key(), message.value())
        self._next_offset = message.offset() + 1
        if passed_over:
            logger.warning("schema record passed over", extra={"offset": message.offset(), "reason": passed_over})

    def _set_problem(self, reason: str) -> None:
        with self._changed:
            if self._problem != reason:
                logger.warning("schema registry cannot read its topic", extra={"reason": reason})
            self._problem = reason


def open_log(settings: KafkaSettings) -> SchemaLog:
    """Return the log of this process' registry; the caller starts and stops it."""
    return SchemaLog(
        # No group is joined: the partition is assigned, and the platform principal has no right on any group.
        make_consumer=lambda: consumer(settings, group="ws-query.registry", enable_partition_eof=True),
        make_producer=lambda: producer(settings, linger_ms=0),
    )
