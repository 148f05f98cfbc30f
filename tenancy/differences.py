"""A reconciler's changes in words: what is named in a dry run, in the audit and to whoever asks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenancy.plan import AddPartitions, AlterConfig, AlterQuotas, CreateRows, CreateTopic, DeleteRows, PutUsers, RemoveUsers

Change = CreateTopic | AddPartitions | AlterConfig | CreateRows | DeleteRows | AlterQuotas | PutUsers | RemoveUsers


@dataclass(frozen=True, order=True)
class Difference:
    """One thing that is not as the database says: `change` is what makes it so."""

    kind: str
    """topic, right, quota, store-user"""
    change: str
    """create, alter, delete"""
    subject: str
    detail: str = ""


def differences_of(changes: Iterable[Change]) -> list[Difference]:
    """Return what `changes` are, one by one."""
    return [difference for change in changes for difference in _named(change)]


def deletions_of(topics: Iterable[str]) -> list[Difference]:
    """Return the topics that are still to be deleted."""
    return [Difference("topic", "delete", name) for name in sorted(topics)]


def _named(change: Change) -> list[Difference]:
    match change:
        case CreateTopic(topic):
            return [Difference("topic", "create", topic.name, f"{topic.partitions} partitions")]
        case AddPartitions(name, total):
            return [Difference("topic", "alter", name, f"{total} partitions")]
        case AlterConfig(name, set_to, remove):
            words = [f"{key}={value}" for key, value in sorted(set_to.items())] + [f"without {key}" for key in sorted(remove)]
            return [Difference("topic", "alter", name, ", ".join(words))]
        case CreateRows(rows):
            return [Difference("right", "create", str(row)) for row in sorted(rows)]
        case DeleteRows(rows):
            return [Difference("right", "delete", str(row)) for row in sorted(rows)]
        case AlterQuotas(principal, values):
            words = [f"without {key}" if value is None else f"{key}={value:g}" for key, value in sorted(values.items())]
            return [Difference("quota", "alter", principal, ", ".join(words))]
        case PutUsers(users):
            return [Difference("store-user", "alter", user.name) for user in sorted(users, key=lambda one: one.name)]
        case RemoveUsers(names):
            return [Difference("store-user", "delete", name) for name in sorted(names)]
