"""What to change so that topics are as wanted. Pure; the cluster is the truth and there is no state file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tenancy.model import DatasetKind, DatasetPermission
from topics.model import TopicSpec, TopicState
from wardstream.errors import Conflict, UnsafeChange
from wardstream.names import DatasetName


@dataclass(frozen=True)
class CreateTopic:
    """Make the dataset with its topic, its dead-letter topic and everybody's rights on them."""

    spec: TopicSpec


@dataclass(frozen=True)
class AddPartitions:
    """Give the topic more partitions; new records of a key may then go to another one."""

    topic: DatasetName
    total: int


@dataclass(frozen=True)
class AlterConfig:
    """Replace the topic's settings."""

    topic: DatasetName
    config: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class AlterPermission:
    """Change which people of the project may write."""

    topic: DatasetName
    permission: DatasetPermission


@dataclass(frozen=True)
class RegisterSchema:
    """Make the schema the newest of the topic's value subject."""

    topic: DatasetName
    schema: str


Change: TypeAlias = CreateTopic | AddPartitions | AlterConfig | AlterPermission | RegisterSchema


def plan(wanted: TopicSpec, found: TopicState | None) -> list[Change]:
    """Return the changes that turn `found` into `wanted`, in the order to apply them.

    Applying the result and planning again returns an empty list. Schemas come after the topic is there and before
    anything else, so that an incompatible one stops the rest.
    Raises `UnsafeChange` where data or the order of records would be lost: fewer partitions, and more partitions without
    the word `grow`. Raises `Conflict` where the name is a feature group's.
    """
    if found is None:
        created: list[Change] = [CreateTopic(wanted)]
        return created if wanted.schema is None else [*created, RegisterSchema(wanted.name, wanted.schema)]
    if found.kind is not DatasetKind.TOPIC:
        raise Conflict(f"{wanted.name} is a feature group's topic: it follows the feature group")
    if wanted.partitions < found.partitions:
        raise UnsafeChange(
            f"{wanted.name} has {found.partitions} partitions, the specification says {wanted.partitions}: partitions cannot be removed"
        )
    changes: list[Change] = []
    if wanted.schema is not None and wanted.schema != found.schema:
        changes.append(RegisterSchema(wanted.name, wanted.schema))
    if wanted.partitions > found.partitions:
        if not wanted.grow:
            raise UnsafeChange(
                f"{wanted.name} has {found.partitions} partitions, the specification says {wanted.partitions}: records of one key would be "
                "found in two partitions; say `grow: true` if that does no harm"
            )
        changes.append(AddPartitions(wanted.name, wanted.partitions))
    if dict(wanted.config) != dict(found.config):
        changes.append(AlterConfig(wanted.name, dict(wanted.config)))
    if wanted.permission is not found.permission:
        changes.append(AlterPermission(wanted.name, wanted.permission))
    return changes


def plan_all(wanted: Sequence[TopicSpec], found: Iterable[TopicState]) -> list[Change]:
    """Return the changes for all topics, in the order of the specification; topics that it does not name are left alone."""
    states = {state.name: state for state in found}
    return [change for spec in wanted for change in plan(spec, states.get(spec.name))]


def applied(changes: Iterable[Change], found: TopicState | None) -> TopicState | None:
    """Return the state after `changes`, all of one topic."""
    state = found
    for change in changes:
        if isinstance(change, CreateTopic):
            state = replace(TopicState.of(change.spec), schema=None)
        elif state is None:
            raise Conflict("a topic that does not exist cannot be changed")
        elif isinstance(change, AddPartitions):
            state = replace(state, partitions=change.total)
        elif isinstance(change, AlterConfig):
            state = replace(state, config=dict(change.config))
        elif isinstance(change, AlterPermission):
            state = replace(state, permission=change.permission)
        else:
            state = replace(state, schema=change.schema)
    return state
