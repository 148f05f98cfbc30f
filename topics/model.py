"""What a topic should be, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenancy.model import DatasetKind, DatasetPermission
from wardstream.names import DatasetName


@dataclass(frozen=True)
class TopicSpec:
    """A dataset's topic as its owners want it. `config` is all of it: what is not named has the broker's default.

    `schema` is the value schema's text, or None where the specification leaves schemas alone.
    `grow` is the explicit word for more partitions on a topic that has some: keys move then.
    """

    name: DatasetName
    partitions: int
    permission: DatasetPermission = DatasetPermission.EDITABLE_BY_OWNERS
    config: Mapping[str, str] = field(default_factory=dict, hash=False)
    schema: str | None = None
    grow: bool = False


@dataclass(frozen=True)
class TopicState:
    """A dataset's topic as it is. `schema` is the text that its subject's newest version equals, None where there is none."""

    name: DatasetName
    partitions: int
    permission: DatasetPermission
    config: Mapping[str, str] = field(default_factory=dict, hash=False)
    schema: str | None = None
    kind: DatasetKind = DatasetKind.TOPIC

    @classmethod
    def of(cls, spec: TopicSpec) -> TopicState:
        """Return what there is after `spec` was applied to nothing."""
        return cls(spec.name, spec.partitions, spec.permission, dict(spec.config), spec.schema)
