"""Whether tables are exactly what the topics say: records = rows + repeats + deletions + dead letters, and online = newest offline.

Counted up to the table's own position, so that the answer holds while records arrive; what lies behind it is `behind`.
Where retention has taken records out of a topic, they cannot be counted any more: then the table's own counter stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import redis
from confluent_kafka import KafkaException, Message, TopicCollection, TopicPartition

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, FeatureGroup
from featurestore.offline.table import OfflineTable, TableProgress
from featurestore.online.pseudonym import Pseudonyms
from featurestore.online.row import RowCodec, is_newer
from featurestore.online.store import newest_of_batch
from tenancy.model import MATERIALISER, Dataset, DatasetKind, DatasetPermission, Principal
from tenancy.policy import Action, decide
from topics.deadletter import parse
from wardstream.errors import Invalid, NotFound, Unavailable
from wardstream.kafka import admin, consumer, kafka_error
from wardstream.names import dead_letter_topic, internal_prefix
from wardstream.settings import KafkaSettings

_CONSUME = 10_000
_KEYS = 1_000
_SECONDS = 60.0


@dataclass(frozen=True)
class Reconciliation:
    """The figures of one feature group. `difference` is 0 where nothing was lost or doubled.

    `records` are the topic's, below the table's position; `behind` those at or above it. `online_equal` is the number
    of entities whose online row is byte for byte what their newest offline row makes, or newer, since rows go online
    first; `online_different` the others. Both are None for a group without online rows.
    """

    group: str
    version: int
    records: int
    rows: int
    repeats: int
    deletions: int
    dead_letters: int
    behind: int
    online_equal: int | None
    online_different: int | None

    @property
    def difference(self) -> int:
        """Records that are nowhere, or where negative, rows that come from nowhere."""
        return self.records - self.rows - self.repeats - self.deletions - self.dead_letters


def reconcile(group: FeatureGroup, *, kafka: KafkaSettings, online: redis.Redis, pseudonym_key: bytes, warehouse: Path) -> Reconciliation:
    """Count one feature group: reads its topic, its dead letters, its table and its online rows from end to end.

    `kafka` and `online` are those of the project's materialiser. Raises `Unavailable` when a part is away.
    """
    table = OfflineTable(warehouse, group)
    topic_id = _topic_id(group, kafka)
    held: dict[int, int] = {}
    progress = TableProgress(0, 0, 0, 0, 0, 0, None)
    version: int | None = None
    with suppress(NotFound):  # no table yet: nothing has arrived
        progress = table.progress()
        version = progress.version
        held = table.offsets(topic_id, version)
    records = behind = 0
    for message in _read(group.topic, group, kafka):
        if cast(int, message.offset()) < held.get(cast(int, message.partition()), 0):
            records += 1
        else:
            behind += 1
    if _is_cut(group.topic, group, kafka):
        records = progress.records
    letters = dead_letter_topic(group.topic)
    origins = set()
    for message in _read(letters, group, kafka):
        try:
            letter = parse(message.headers())  # type: ignore[arg-type]  # its headers are pairs
        except Invalid:
            continue
        # Other readers of the topic have dead letters of their own.
        if letter.processor == MATERIALISER and letter.topic == group.topic and letter.offset < held.get(letter.partition, 0):
            origins.add(letter.origin)
    equal, different = _online(group, table, version, online, pseudonym_key)
    return Reconciliation(
        group=group.name,
        version=group.version,
        records=records,
        rows=progress.rows,
        repeats=progress.repeats,
        deletions=progress.deletions,
        dead_letters=progress.rejected if _is_cut(letters, group, kafka) else len(origins),
        behind=behind,
        online_equal=equal,
        online_different=different,
    )


def differing_rows(expected: Mapping[bytes, bytes], found: Sequence[bytes | None]) -> int:
    """Return how many of the rows found, in the order of `expected`, are not what they should be.

    A newer one is right: it is of a record that the table did not have yet.
    """
    return sum(
        have is None or (have != wanted and not is_newer(have, wanted)) for wanted, have in zip(expected.values(), found, strict=True)
    )


def seen_by(principal: Principal, groups: Iterable[FeatureGroup]) -> list[FeatureGroup]:
    """Return the groups that `principal` may know of."""
    return [group for group in groups if decide(principal, Action.DATASET_LIST, _dataset(group)).allowed]


def _dataset(group: FeatureGroup) -> Dataset:
    """Return the dataset for the question who may know of it; the rest of it control knows."""
    return Dataset(group.project, group.dataset, DatasetKind.FEATURE_GROUP, DatasetPermission.EDITABLE_BY_OWNERS, 1, {}, "")


def _online(
    group: FeatureGroup, table: OfflineTable, version: int | None, client: redis.Redis, pseudonym_key: bytes
) -> tuple[int | None, int | None]:
    if not group.online_enabled:
        return None, None
    if version is None:
        return 0, 0
    rows: pa.Table = table.read(version, columns=[*group.types, INGESTED_AT, PARTITION, OFFSET])
    newest = newest_of_batch(group, rows, [INGESTED_AT, PARTITION, OFFSET])
    entities = list(zip(*(newest[key].to_pylist() for key in group.key_columns), strict=True))
    expected = dict(
        zip(Pseudonyms(group.project, pseudonym_key).online_keys(group.entity, entities), RowCodec(group).pack(newest), strict=True)
    )
    different, keys = 0, list(expected)
    try:
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            # One question a key: the writing user of a project has no command that reads many.
            pipeline = client.pipeline(transaction=False)
            for key in part:
                pipeline.hget(key.decode(), group.dataset)
            different += differing_rows({key: expected[key] for key in part}, pipeline.execute())
    except redis.RedisError as error:
        raise Unavailable("the online store does not answer", error=type(error).__name__) from error
    return len(keys) - different, different


def _topic_id(group: FeatureGroup, kafka: KafkaSettings) -> str:
    client = admin(kafka)
    try:
        return str(client.describe_topics(TopicCollection([group.topic]), request_timeout=10)[group.topic].result(timeout=15).topic_id)
    except KafkaException as error:
        raise kafka_error(error, f"describe {group.topic}") from error


def _is_cut(topic: str, group: FeatureGroup, kafka: KafkaSettings) -> bool:
    """Whether a partition of `topic` no longer begins at its first record; asked after reading, since it may happen meanwhile."""
    client = consumer(kafka, group=_consumer_group(group))
    try:
        partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
        return any(client.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[0] > 0 for each in partitions)
    except KafkaException as error:
        raise kafka_error(error, f"read {topic}") from error
    finally:
        client.close()


def _consumer_group(group: FeatureGroup) -> str:
    return f"{internal_prefix(group.project, MATERIALISER)}reconcile"


def _read(topic: str, group: FeatureGroup, kafka: KafkaSettings) -> Iterator[Message]:
    """Yield the committed records of `topic` up to its end as it was at the beginning."""
    client = consumer(kafka, group=_consumer_group(group), enable_partition_eof=True)
    try:
        found = client.list_topics(topic, timeout=10).topics[topic]
        if found.error is not None:
            raise kafka_error(KafkaException(found.error), f"read {topic}")
        ends = {each: client.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in found.partitions}
        left = {each for each, end in ends.items() if end > 0}
        client.assign([TopicPartition(topic, each, 0) for each in left])
        idle = 0
        while left:
            messages = client.consume(_CONSUME, 0.1)
            idle = 0 if messages else idle + 1
            if idle > _SECONDS / 0.1:
                raise Unavailable(f"{topic} could not be read to its end within {_SECONDS:g} s")
            for message in messages:
                partition = cast(int, message.partition())
                if (error := message.error()) is not None:
                    # The end of a partition; behind it may be a transaction that nobody has decided yet.
                    if error.name() != "_PARTITION_EOF":
                        raise kafka_error(KafkaException(error), f"read {topic}")
                    left.discard(partition)
                elif cast(int, message.offset()) < ends[partition]:
                    yield message
    except KafkaException as error:
        raise kafka_error(error, f"read {topic}") from error
    finally:
        client.close()
