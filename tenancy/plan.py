"""From what should be at the broker and in the online store, and what is, to the changes between them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tenancy import wire
from tenancy.acls import AUDIT_TOPIC, EXECUTIONS_TOPIC, SCHEMAS_TOPIC, AclBinding
from tenancy.broker import TopicState
from tenancy.model import Dataset, DatasetKind, InternalTopic
from tenancy.redis_users import StoreUser
from tenancy.wire import AclRow
from wardstream.kafka import MOST_LETTER_BYTES

# The broker's time: retention and fast clocks of devices then do no harm. Event time is in the value.
_BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}
_FOR_EVER = {"retention.ms": "-1"}


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it should be. Values of `config` that it does not name are the cluster's defaults."""

    name: str
    partitions: int
    config: Mapping[str, str]


PLATFORM_TOPICS = (
    TopicSpec(SCHEMAS_TOPIC, 1, {"cleanup.policy": "compact"}),
    # Four, so that as many program-workers can share the work.
    TopicSpec(EXECUTIONS_TOPIC, 4, _BROKER_TIME),
    TopicSpec(AUDIT_TOPIC, 1, {**_FOR_EVER, **_BROKER_TIME}),
)


@dataclass(frozen=True)
class CreateTopic:
    """A topic is missing."""

    topic: TopicSpec


@dataclass(frozen=True)
class AddPartitions:
    """A topic has too few partitions."""

    name: str
    total: int


@dataclass(frozen=True)
class AlterConfig:
    """Values set on a topic differ; `remove` go back to the cluster's default."""

    name: str
    set_to: Mapping[str, str]
    remove: frozenset[str]


@dataclass(frozen=True)
class CreateRows:
    """Rights are missing."""

    rows: frozenset[AclRow]


@dataclass(frozen=True)
class DeleteRows:
    """Rights are there that nobody should have."""

    rows: frozenset[AclRow]


@dataclass(frozen=True)
class PutUsers:
    """Users of the online store are missing or differ."""

    users: frozenset[StoreUser]


@dataclass(frozen=True)
class RemoveUsers:
    """Users of the online store belong to no project."""

    names: frozenset[str]


@dataclass(frozen=True)
class AlterQuotas:
    """A principal's quotas differ: `values` by quota, None where one is to be removed."""

    principal: str
    values: Mapping[str, float | None]


TopicChange = CreateTopic | AddPartitions | AlterConfig
RowChange = CreateRows | DeleteRows
UserChange = PutUsers | RemoveUsers


def topics_for(dataset: Dataset) -> tuple[TopicSpec, TopicSpec]:
    """Return the two topics of a dataset: records and dead letters, which are kept as long.

    Those of a feature group are kept for ever unless its dataset says otherwise: its tables are made of them, and can be again.
    The second takes the largest record of any dataset with its reason: a letter that does not fit would stop whoever writes it.
    Not the dataset's own bound, because a record that came compressed is larger when it is copied.
    """
    config = {**(_FOR_EVER if dataset.kind is DatasetKind.FEATURE_GROUP else {}), **dataset.config}
    kept = {key: value for key, value in config.items() if key in ("retention.ms", "retention.bytes")}
    return (
        TopicSpec(dataset.topic, dataset.partitions, {**config, **_BROKER_TIME}),
        TopicSpec(dataset.dead_letter_topic, 1, {**kept, "max.message.bytes": str(MOST_LETTER_BYTES), **_BROKER_TIME}),
    )


def internal_topic_spec(topic: InternalTopic) -> TopicSpec:
    """Return a processor's own topic, whose times are the processor's own business."""
    return TopicSpec(topic.name, topic.partitions, topic.config)


def row_of(binding: AclBinding) -> AclRow:
    """Return `binding` as the broker keeps it."""
    return AclRow(int(binding.resource), binding.name, int(binding.pattern), binding.principal, "*", int(binding.operation), wire.ALLOW)


def plan_topics(wanted: Collection[TopicSpec], found: Mapping[str, TopicState]) -> list[TopicChange]:
    """Return what makes the topics `found` into those `wanted`, others untouched.

    A topic with more partitions than wanted keeps them: taking some away would lose records.
    """
    changes: list[TopicChange] = []
    for spec in sorted(wanted, key=lambda topic: topic.name):
        state = found.get(spec.name)
        if state is None:
            changes.append(CreateTopic(spec))
            continue
        if state.partitions < spec.partitions:
            changes.append(AddPartitions(spec.name, spec.partitions))
        differs = {key: value for key, value in spec.config.items() if state.config.get(key) != value}
        extra = frozenset(state.config) - frozenset(spec.config)
        if differs or extra:
            changes.append(AlterConfig(spec.name, differs, extra))
    return changes


def plan_rows(wanted: frozenset[AclRow], found: frozenset[AclRow], *, leave: Collection[str] = ()) -> list[RowChange]:
    """Return what makes the rows `found` into those `wanted`: first what is missing, so that no change is an outage.

    Rows of the principals `leave` (with `User:`) stay: a revocation removes them in an order of its own.
    """
    left = frozenset(row for row in found if row.principal in leave)
    missing, extra = wanted - found, found - wanted - left
    changes: list[RowChange] = []
    if missing:
        changes.append(CreateRows(missing))
    if extra:
        changes.append(DeleteRows(extra))
    return changes


def plan_quotas(wanted: Mapping[str, Mapping[str, float]], found: Mapping[str, Mapping[str, float]]) -> list[AlterQuotas]:
    """Return what makes the principals' quotas `found` into those `wanted`; one that is not wanted at all has none."""
    changes: list[AlterQuotas] = []
    for principal in sorted({*wanted, *found}):
        right, there = wanted.get(principal, {}), found.get(principal, {})
        values: dict[str, float | None] = {key: value for key, value in right.items() if there.get(key) != value}
        values |= dict.fromkeys(there.keys() - right.keys())
        if values:
            changes.append(AlterQuotas(principal, values))
    return changes


def plan_users(wanted: frozenset[StoreUser], found: frozenset[StoreUser]) -> list[UserChange]:
    """Return what makes the users `found` into those `wanted`."""
    changes: list[UserChange] = []
    if wanted - found:
        changes.append(PutUsers(wanted - found))
    unknown = {user.name for user in found} - {user.name for user in wanted}
    if unknown:
        changes.append(RemoveUsers(frozenset(unknown)))
    return changes
