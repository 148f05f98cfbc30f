"""Training data: which features, as they were known when each label was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.model import MOST_TTL_SECONDS, FeatureGroup
from featurestore.offline.asof import AsOfSource
from wardstream.errors import Invalid
from wardstream.names import GroupName, parse_group

_MOST_GROUPS = 50


@dataclass(frozen=True)
class SelectedFeatures:
    """Features of one version of a group; None stands for all but the keys and the event time.

    `ttl_seconds`: values older than this at the label's time count as missing. `known_at`: the feature that says when
    a row became known. `prefix` goes before the names in the result.
    """

    group: GroupName
    version: int
    features: tuple[str, ...] | None = None
    ttl_seconds: int | None = None
    known_at: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class TrainingSpec:
    """What training data are made of; `label_time` is the spine's column with the time for which each row asks."""

    label_time: str
    features: tuple[SelectedFeatures, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.features) <= _MOST_GROUPS:
            raise Invalid(f"training data take features of 1 to {_MOST_GROUPS} feature groups, got {len(self.features)}")
        for selected in self.features:
            if selected.ttl_seconds is not None and not 1 <= selected.ttl_seconds <= MOST_TTL_SECONDS:
                raise Invalid(f"ttl_seconds must be at least 1 and at most {MOST_TTL_SECONDS}, got {selected.ttl_seconds}")

    def document(self) -> list[dict[str, Any]]:
        """Return the selections as JSON values."""
        return [
            {
                "group": each.group,
                "version": each.version,
                "features": list(each.features) if each.features is not None else None,
                "ttl_seconds": each.ttl_seconds,
                "known_at": each.known_at,
                "prefix": each.prefix,
            }
            for each in self.features
        ]


@dataclass(frozen=True)
class PinnedTable:
    """A group's table as it was at one version: these files, whatever is written afterwards."""

    group: FeatureGroup
    version: int
    files: tuple[Path, ...]
    single: bool = False
    """Known to have no repeats; False where it has some and where nobody has looked."""


def training_spec(label_time: str, features: Sequence[Mapping[str, Any]]) -> TrainingSpec:
    """Return the spec of JSON values; raises `Invalid` or `InvalidName`."""
    return TrainingSpec(
        label_time,
        tuple(
            SelectedFeatures(
                parse_group(each["group"]),
                int(each["version"]),
                tuple(each["features"]) if each.get("features") is not None else None,
                each.get("ttl_seconds"),
                each.get("known_at"),
                each.get("prefix") or "",
            )
            for each in features
        ),
    )


def sources(spec: TrainingSpec, pinned: Sequence[PinnedTable]) -> list[AsOfSource]:
    """Return what to join, one source for each selection of `spec` in its order; `pinned` are their tables, in the same order.

    Raises `Invalid` naming a feature that its group does not have.
    """
    found = []
    for selected, held in zip(spec.features, pinned, strict=True):
        group = held.group
        found.append(
            AsOfSource(
                held.files,
                group,
                selected_features(group, selected.features),
                selected.ttl_seconds,
                selected.known_at,
                selected.prefix,
            )
        )
    return found


def snapshot(pinned: Sequence[PinnedTable]) -> dict[str, int]:
    """Return the version at which each table is read: with the spine and the spec, enough to make the same data again."""
    return {str(held.group.dataset): held.version for held in pinned}


def selected_features(group: FeatureGroup, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the features that `names` select of `group`, all values where it is None; raises `Invalid` for unknown ones."""
    if names is None:
        return tuple(feature.name for feature in group.value_features)
    if unknown := [name for name in names if name not in group.types]:
        shown = ", ".join(ascii(name[:70]) for name in unknown[:5])
        raise Invalid(f"{group.name} version {group.version} has no feature {shown}; it has {', '.join(group.types)}")
    return tuple(names)
