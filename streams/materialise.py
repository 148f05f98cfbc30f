"""Filling the tables of one project: `python -m streams.materialise <folder>`.

One process a project, under the service principal `materialiser`; one thread a feature group, with a consumer of its own.
The stream-worker writes settings.json (once, before the start) and groups.json (whenever groups come or go) into the
folder, and reads status.json. SIGUSR1 asks for all that has arrived to be made durable now; SIGTERM does so and ends.

Partitions are assigned by hand, not by the group: a member that was killed would hold them for 45 s. What the table says
of a topic's id is the one truth about where to go on; offsets are committed to Kafka afterwards, for people and their tools
to see. So two processes by mistake, or a kill anywhere, cost work and change nothing. Records that the topic lost before the
table had them are passed over, and the group's state says so.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicCollection, TopicPartition
from pydantic import BaseModel, ConfigDict

from featurestore.ingest import record_schema
from featurestore.model import FeatureGroup, group_from_document
from featurestore.offline.commit import DataFile
from featurestore.offline.compaction import Compactor
from featurestore.offline.table import OfflineTable
from featurestore.online.redis import RedisOnlineStore, connect
from featurestore.sink import FeatureSink, MarkedStore, OnlineCopy, assemble, offline_due, online_due
from schemas.decode import SchemaCatalogue, decode_batch
from schemas.serde import RegistryHttp
from streams.letters import letter
from tenancy.model import MATERIALISER
from topics.deadletter import headers as dead_letter_headers
from wardstream.client.transport import Transport
from wardstream.errors import Unavailable, WardstreamError
from wardstream.kafka import admin, consumer, deliver, kafka_error, producer
from wardstream.names import dead_letter_topic, internal_prefix, parse_project
from wardstream.processes import write_private
from wardstream.settings import KafkaSettings, RedisSettings
from wardstream.telemetry import configure_logging

logger = logging.getLogger(__name__)

SETTINGS, GROUPS, STATUS, FAULT = "settings.json", "groups.json", "status.json", "fault"

# Records a call: enough that Python's share of each is small, few enough that the first is online within a tenth of a second.
_CONSUME = 10_000
_CONSUME_SECONDS = 0.05
_GATHER_SECONDS = 0.02
_IDLE_SECONDS = 0.5
# Records that may wait for a store that is away; then the topic keeps the rest.
_MOST_BUFFERED = 131_072
_QUIET_SECONDS = 0.25
_ASKED_SECONDS, _ASKED_QUIET_SECONDS = 2.0, 0.03
# A trickle is committed this often at most; each commit is a file.
_COMMIT_SECONDS = 5.0
_RETRY_SECONDS = 0.5
# A call takes milliseconds; it is tried three times before the store counts as away.
_REDIS_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 10.0
# How soon a new partition, or that the topic is another one of the same name, is noticed.
_DESCRIBE_SECONDS = 30.0
# How soon it is noticed that the online store lost rows of a group to which nothing comes.
_KEEP_SECONDS = 10.0
_TELL_SECONDS = 5.0
_STATE_VERSION = 1


class MaterialiserSettings(BaseModel):
    """What settings.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    kafka: KafkaSettings
    redis: RedisSettings
    redis_user: str
    redis_password: str
    pseudonym_key: str
    inside_url: str
    warehouse: Path
    log_level: str = "INFO"


def consumer_group(group: FeatureGroup) -> str:
    """Return the consumer group whose offsets show how far the table is."""
    return f"{internal_prefix(group.project, MATERIALISER)}{_STATE_VERSION}.{group.dataset}"


@dataclass
class GroupStatus:
    """What one group's thread does, for status.json."""

    state: str = "starting"
    """starting, rebuilding (its online rows), running, incomplete (running, see `gap`) or waiting (see `reason`)"""
    reason: str | None = None
    gap: str | None = None
    """Which records the topic lost before the table had them; no trouble, because nothing here can mend it."""
    topic_id: str | None = None
    records: int = 0
    rejected: int = 0
    buffered: int = 0
    table_version: int | None = None
    committed_at: float | None = None


@dataclass(frozen=True)
class Stores:
    """What all groups of a project share."""

    kafka: KafkaSettings
    catalogue: Callable[[], SchemaCatalogue]
    """Makes a new one: what was unknown in one topic must not be unknown in another, whose schemas may be newer."""
    online: MarkedStore
    warehouse: Path
    compactor: Compactor
    """Killed with the process, if need be: a compaction is one commit, and the next flush asks again."""


class Faults:
    """Where this process is to end by itself, for tests of what a kill leaves behind: the file `fault` names the place, once."""

    def __init__(self, folder: Path) -> None:
        path = folder / FAULT
        self._place = path.read_text().strip() if path.exists() else ""
        path.unlink(missing_ok=True)

    def at(self, place: str) -> None:
        """End here if this is the place, without a last word to anybody."""
        if place == self._place:
            os._exit(137)


class FaultyTable(OfflineTable):
    """A table that can be left with a written file that is not part of it."""

    faults: Faults

    def commit_file(
        self, file: DataFile | None, *, txn: Mapping[str, int], counters: Mapping[str, int], expected: Mapping[str, int] | None
    ) -> int:
        """See `OfflineTable`."""
        self.faults.at("after-parquet")
        return super().commit_file(file, txn=txn, counters=counters, expected=expected)


class GroupMaterialiser:
    """Fills the table and the online rows of one feature group, on a thread of its own."""

    def __init__(self, group: FeatureGroup, stores: Stores, faults: Faults) -> None:
        self.group = group
        self.status = GroupStatus()
        self._stores = stores
        self._faults = faults
        self._catalogue = stores.catalogue()
        self._table = FaultyTable(stores.warehouse, group)
        self._table.faults = faults
        self._copy = OnlineCopy(self._table, stores.online) if group.online_enabled else None
        self._stopped = threading.Event()
        self.flush_until = 0.0
        self._thread = threading.Thread(target=self._run, name=f"materialise {group.dataset}", daemon=True)
        self._admin = admin(stores.kafka)
        self._producer: Producer | None = None

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask(self) -> None:
        """Ask the thread to make durable what it has and to end."""
        self._stopped.set()

    def flush(self) -> None:
        """Ask for what has arrived, or does so in a moment, to be made durable now."""
        self.flush_until = time.monotonic() + _ASKED_SECONDS

    def join(self, seconds: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        wait = _RETRY_SECONDS
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._fill()
                continue
            except WardstreamError as error:
                self._say("waiting", error.message)
                logger.warning("will try again", extra={"group": self.group.dataset, "reason": error.message, **error.details})
            except Exception:
                self._say("waiting", "something went wrong here; the log of the project's materialiser says what")
                logger.exception("will try again", extra={"group": self.group.dataset})
            wait = _RETRY_SECONDS if time.monotonic() - began > _LONGEST_RETRY_SECONDS else min(_LONGEST_RETRY_SECONDS, wait * 2)
            self._stopped.wait(wait)

    def _fill(self) -> None:
        """Fill from one topic of this name until asked to stop, or until the topic is another one or has more partitions."""
        topic_id, partitions = self._describe()
        self._table.create()
        sink = FeatureSink(self.group, self._table, self._stores.online if self.group.online_enabled else None, topic_id=topic_id)
        client = consumer(
            self._stores.kafka,
            group=consumer_group(self.group),
            # Enough for two calls of `consume` to be waiting, however small the records.
            queued_min_messages=2 * _CONSUME,
            fetch_message_max_bytes=4 << 20,
            # So that a topic deleted and made again is noticed soon.
            topic_metadata_refresh_interval_ms=10_000,
            # Records that go while they are awaited are an error, and then a gap of the next attempt.
            auto_offset_reset="error",
        )
        try:
            self.keep_online()
            self._assign(client, sink.offsets(), partitions)
            self.status.topic_id = topic_id
            self.say_running()
            _Filling(self, sink, client, topic_id, partitions).run()
        finally:
            client.close()

    def _assign(self, client: Consumer, held: Mapping[int, int], partitions: int) -> None:
        """Go on at the offsets that the table holds, and where the topic begins behind them, there."""
        topic = self.group.topic
        try:
            first = {each: client.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[0] for each in range(partitions)}
            client.assign([TopicPartition(topic, each, max(held.get(each, 0), low)) for each, low in first.items()])
        except KafkaException as error:
            raise kafka_error(error, f"read {topic}") from error
        if (gap := gap_between(held, first)) is not None:
            self.status.gap = gap
            logger.error("the topic lost records before the table had them", extra={"group": self.group.dataset, "gap": gap})

    def keep_online(self) -> None:
        """Write the online rows anew where the store may have lost some; called when nothing waits for the table."""
        if self._copy is None:
            return

        next_at = 0.0

        def told(rows: int) -> None:
            nonlocal next_at
            if (now := time.monotonic()) >= next_at:
                next_at = now + _TELL_SECONDS
                self._say("rebuilding", None)
                logger.info("online rows are being written anew", extra={"group": self.group.dataset, "rows": rows})

        if (written := self._copy.keep(told)) is not None:
            logger.info("online rows were written anew from the table", extra={"group": self.group.dataset, "lacked": written})

    def _describe(self) -> tuple[str, int]:
        """Return id and partitions of the topic; raises `Unavailable` or `Denied`."""
        name = self.group.topic
        try:
            found = self._admin.describe_topics(TopicCollection([name]), request_timeout=10)[name].result(timeout=15)
        except KafkaException as error:
            raise kafka_error(error, f"describe {name}") from error
        return str(found.topic_id), len(found.partitions)

    def say_running(self) -> None:
        """Show that records go into the table."""
        self._say("running" if self.status.gap is None else "incomplete", None)

    def _say(self, state: str, reason: str | None) -> None:
        self.status.state, self.status.reason = state, reason


def gap_between(held: Mapping[int, int], first: Mapping[int, int]) -> str | None:
    """Return in words which offsets are neither in the table nor in the topic any more, or None.

    `held` are the next offsets of the table, `first` those at which the topic's partitions begin.
    """
    lost = [f"{held.get(each, 0)} to {low - 1} of partition {each}" for each, low in sorted(first.items()) if held.get(each, 0) < low]
    return f"the topic had deleted the records {', '.join(lost)} before the table had them" if lost else None


class _TopicChanged(Exception):  # an answer, not a failure
    pass


class _Filling:
    """The loop over one topic."""

    def __init__(self, owner: GroupMaterialiser, sink: FeatureSink, client: Consumer, topic_id: str, partitions: int) -> None:
        self._owner = owner
        self._sink = sink
        self._client = client
        self._topic = (topic_id, partitions)
        self._described_at = time.monotonic()
        self._dead: list[tuple[Message, str]] = []
        self._online_since = self._offline_since = 0.0
        self._arrived_at = self._committed_at = 0.0
        self._kept_at = time.monotonic()

    def run(self) -> None:
        """Fill until asked to stop, or until the topic is another one."""
        with suppress(_TopicChanged):
            self._loop()

    def _loop(self) -> None:
        owner, sink = self._owner, self._sink
        while not owner._stopped.is_set():
            if sink.buffered >= _MOST_BUFFERED:
                owner._stopped.wait(_RETRY_SECONDS)
            elif sink.buffered:
                self._take(self._client.consume(_CONSUME, _CONSUME_SECONDS))
            else:
                # Nothing waits, so neither does the first record: then a moment for those that came with it.
                if first := self._client.consume(1, _IDLE_SECONDS):
                    self._take([*first, *self._client.consume(_CONSUME, _GATHER_SECONDS)])
            now = time.monotonic()
            try:
                if now - self._kept_at > _KEEP_SECONDS and not sink.buffered:
                    # Not for a topic that has gone: whoever deletes a group removes its online rows, and must not find them again.
                    if self._changed():
                        raise _TopicChanged
                    owner.keep_online()
                    self._kept_at = now
                self._write(now)
            except Unavailable as error:
                # Nothing is lost: what is buffered stays, and above the bound the topic keeps the rest.
                owner._say("waiting", error.message)
                owner._stopped.wait(_RETRY_SECONDS)
                continue
            if now - self._described_at > _DESCRIBE_SECONDS and self._seems_changed():
                raise _TopicChanged
        self._write(time.monotonic(), at_once=True)

    def _take(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        for message in messages:
            if (error := message.error()) is not None:
                raise kafka_error(KafkaException(error), f"read {self._owner.group.topic}")
        now = time.monotonic()
        if not self._sink.buffered_online:
            self._online_since = now
        if not self._sink.buffered:
            self._offline_since = now
        self._arrived_at = now
        group = self._owner.group
        batch, rejects = assemble(
            group,
            decode_batch([message.value() for message in messages], self._owner._catalogue, reader=record_schema(group)),
            partitions=[message.partition() for message in messages],  # type: ignore[misc]  # a consumed record has a place
            offsets=[message.offset() for message in messages],  # type: ignore[misc]
            timestamps_ms=[message.timestamp()[1] for message in messages],
            now=datetime.now(UTC),
        )
        self._sink.accept(batch)
        self._dead += [(messages[each.index], each.reason) for each in rejects]
        self._owner.status.records += len(messages)
        self._owner.status.rejected += len(rejects)

    def _write(self, now: float, *, at_once: bool = False) -> None:
        owner, sink = self._owner, self._sink
        if at_once or online_due(now, sink.buffered_online, self._online_since):
            if sink.write_online():
                owner._faults.at("after-online")
            self._online_since = now
        # After a pause the first records need not wait for others: whoever inserted them waits for them.
        quiet = now - self._arrived_at > _QUIET_SECONDS and now - self._committed_at > _COMMIT_SECONDS
        # Who asks knows that its records are acknowledged, not that they have come here.
        asked = at_once or quiet or (now < owner.flush_until and now - self._arrived_at > _ASKED_QUIET_SECONDS)
        if offline_due(now, sink.buffered, self._offline_since, asked=asked):
            if self._changed():
                # These records may be of a topic that has gone; the next one under its name is read from its beginning.
                raise _TopicChanged
            self._write_dead_letters()
            flushed = sink.flush_offline()
            owner._faults.at("before-commit")
            self._committed_at, owner.status.committed_at = now, time.time()
            owner.status.table_version = flushed.version
            self._show_offsets(flushed.next_offsets)
            owner._stores.compactor.consider(owner._table)
            owner.keep_online()
        owner.status.buffered = sink.buffered
        owner.say_running()

    def _seems_changed(self) -> bool:
        try:
            return self._changed()
        except WardstreamError as error:
            # Asked again in a while; whoever writes asks for sure.
            logger.info("the topic could not be described", extra={"group": self._owner.group.dataset, "reason": error.message})
            return False

    def _changed(self) -> bool:
        """Whether the topic is another one, or has more partitions, than the one that is read."""
        self._described_at = time.monotonic()
        if self._owner._describe() == self._topic:
            return False
        logger.info("the topic changed, reading it anew", extra={"group": self._owner.group.dataset})
        return True

    def _write_dead_letters(self) -> None:
        """Write the rejects that came since the last commit; one that is read again after a crash is written again.

        Where this raises, those that were written do not wait to be written again.
        """
        if not self._dead:
            return
        owner, now = self._owner, datetime.now(UTC)
        if owner._producer is None:
            owner._producer = producer(owner._stores.kafka)
        target = dead_letter_topic(owner.group.topic)
        letters: list[tuple[str, bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]] = []
        for message, reason in self._dead:
            place = int(message.partition() or 0), int(message.offset() or 0)
            key, value, why = letter(message.key(), message.value(), reason)
            letters.append((target, key, value, list(dead_letter_headers(why, owner.group.topic, *place, MATERIALISER, now))))
        written: set[int] = set()
        try:
            deliver(owner._producer, letters, seconds=10, acknowledged=written)
        finally:
            self._dead = [each for number, each in enumerate(self._dead) if number not in written]

    def _show_offsets(self, offsets: Mapping[int, int]) -> None:
        places = [TopicPartition(self._owner.group.topic, partition, offset) for partition, offset in offsets.items()]
        try:
            self._client.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            logger.warning("offsets are not shown", extra={"group": self._owner.group.dataset, "reason": str(error)})


class Materialiser:
    """All groups of one project."""

    def __init__(self, folder: Path, stores: Stores, faults: Faults) -> None:
        self._folder = folder
        self._stores = stores
        self._faults = faults
        self._running: dict[FeatureGroup, GroupMaterialiser] = {}
        self._groups_at = 0.0
        self._stopped = threading.Event()
        self._flush = threading.Event()

    def run(self) -> None:
        """Fill until asked to stop; then make durable what has arrived, for at most 5 s."""
        parent = os.getppid()
        for number, event in ((signal.SIGTERM, self._stopped), (signal.SIGINT, self._stopped), (signal.SIGUSR1, self._flush)):
            signal.signal(number, _setting(event))
        shown = 0.0
        while not self._stopped.wait(0.05):
            if os.getppid() != parent:
                logger.warning("the stream worker ended, so this process does")
                break
            self._follow_groups()
            if self._flush.is_set():
                self._flush.clear()
                for each in self._running.values():
                    each.flush()
            if time.monotonic() - shown > 1.0:
                shown = time.monotonic()
                self._show()
        self._end(list(self._running.values()), seconds=5)
        self._show()

    def _follow_groups(self) -> None:
        """Start threads for groups that came, end those of groups that went or changed."""
        path = self._folder / GROUPS
        changed_at = path.stat().st_mtime_ns if path.exists() else 0
        if changed_at == self._groups_at:
            return
        self._groups_at = changed_at
        wanted = {group_from_document(found["project"], found) for found in json.loads(path.read_text())}
        gone = [each for group, each in self._running.items() if group not in wanted]
        self._end(gone, seconds=5)
        for each in gone:
            del self._running[each.group]
        for group in wanted - set(self._running):
            self._running[group] = GroupMaterialiser(group, self._stores, self._faults)
            self._running[group].begin()
            logger.info("filling", extra={"group": group.dataset})

    def _end(self, threads: Sequence[GroupMaterialiser], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for each in threads:
            each.ask()
        for each in threads:
            each.join(max(0.0, deadline - time.monotonic()))

    def _show(self) -> None:
        found = {group.dataset: {**asdict(each.status), "alive": each.alive} for group, each in self._running.items()}
        write_private(self._folder / STATUS, json.dumps({"at": time.time(), "groups": found}))


def _setting(event: threading.Event) -> Callable[[int, Any], None]:
    return lambda number, frame: event.set()


def run(folder: Path, settings: MaterialiserSettings) -> None:
    """Fill the project's tables until SIGTERM."""
    tls = settings.kafka.tls

    def catalogue() -> SchemaCatalogue:
        # With the certificate that is there now: a grant for an older one may not know of the newest group yet.
        transport = Transport(
            settings.inside_url, ca_file=tls.ca_file, certificate=(tls.certificate_file, tls.key_file), door=True, timeout_seconds=10
        )
        return RegistryHttp(transport).catalogue()

    client = connect(settings.redis, user=settings.redis_user, password=settings.redis_password, timeout_seconds=_REDIS_SECONDS)
    online = RedisOnlineStore(client, parse_project(settings.project), base64.b64decode(settings.pseudonym_key))
    stores = Stores(settings.kafka, catalogue, online, settings.warehouse, Compactor())
    Materialiser(folder, stores, Faults(folder)).run()


def main(arguments: Sequence[str]) -> int:
    """Run with the folder that is given."""
    folder = Path(arguments[0])
    settings = MaterialiserSettings.model_validate_json((folder / SETTINGS).read_text())
    configure_logging(f"materialiser {settings.project}", settings.log_level)
    try:
        run(folder, settings)
    except WardstreamError as error:
        logger.critical("the materialiser cannot run", extra={"reason": error.message})
        return error.exit_code
    # Clients of Kafka may wait long for a broker that is away when they are collected.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
