"""What a feature store is made of: features, and groups of them that share a key, a topic, an online row and a table."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import pyarrow as pa

from wardstream.errors import Invalid
from wardstream.names import DatasetName, GroupName, ProjectName, TopicName, group_dataset, parse_group, parse_project, topic_of

# Columns that every offline table has behind its features; a feature's name cannot begin with '_'.
INGESTED_AT = "_ingested_at"
PARTITION = "_partition"
OFFSET = "_offset"

# Avro names, SQL columns and Parquet fields in one; 63 is what most databases take.
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MOST_FEATURES = 2000
# Seconds: three centuries; DuckDB takes no interval of 10^13.
MOST_TTL_SECONDS = 10**10
_UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


class FeatureType(StrEnum):
    """Types of features. A timestamp has milliseconds and is UTC: Flink reads finer Avro times wrongly without a word."""

    STRING = "string"
    INT = "int"
    BIGINT = "bigint"
    FLOAT = "float"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"

    @property
    def arrow(self) -> pa.DataType:
        """The type in tables. Delta knows microseconds only, so that is what a timestamp is there."""
        return _ARROW[self]

    @property
    def avro(self) -> Any:
        """The type in records."""
        return _AVRO[self]


_ARROW: dict[FeatureType, pa.DataType] = {
    FeatureType.STRING: pa.string(),
    FeatureType.INT: pa.int32(),
    FeatureType.BIGINT: pa.int64(),
    FeatureType.FLOAT: pa.float32(),
    FeatureType.DOUBLE: pa.float64(),
    FeatureType.BOOLEAN: pa.bool_(),
    FeatureType.TIMESTAMP: _UTC_MICROSECONDS,
}
_AVRO: dict[FeatureType, Any] = {
    FeatureType.STRING: "string",
    FeatureType.INT: "int",
    FeatureType.BIGINT: "long",
    FeatureType.FLOAT: "float",
    FeatureType.DOUBLE: "double",
    FeatureType.BOOLEAN: "boolean",
    FeatureType.TIMESTAMP: {"type": "long", "logicalType": "timestamp-millis"},
}
# A key is compared byte by byte in topics and stores, which floating point and times in several units do not survive.
_KEY_TYPES = (FeatureType.STRING, FeatureType.INT, FeatureType.BIGINT)


@dataclass(frozen=True)
class Feature:
    """One column of a group; `description` is for people."""

    name: str
    type: FeatureType
    description: str = ""


@dataclass(frozen=True)
class FeatureGroup:
    """One version of a feature group. One that exists is consistent: the constructor raises `Invalid` or `InvalidName`.

    The identity of a row is (primary key, event time); both are required, every other feature may be null.
    """

    project: ProjectName
    name: GroupName
    version: int
    primary_key: tuple[str, ...]
    event_time: str
    features: tuple[Feature, ...]
    online_enabled: bool = True
    ttl_seconds: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        parse_project(self.project)
        parse_group(self.name)
        if self.version < 1:
            raise Invalid(f"version must be at least 1, got {self.version}")
        if not 0 < len(self.features) <= _MOST_FEATURES:
            raise Invalid(f"a feature group has 1 to {_MOST_FEATURES} features, got {len(self.features)}")
        for feature in self.features:
            if not _FEATURE.fullmatch(feature.name):
                raise Invalid(
                    f"{feature.name[:70]!a} is not a feature name: lower-case letters, digits and '_', beginning with a letter, at most 63 characters"
                )
        types = {feature.name: feature.type for feature in self.features}
        if len(types) < len(self.features):
            twice = sorted(name for name in types if sum(feature.name == name for feature in self.features) > 1)
            raise Invalid(f"feature names must differ; more than once: {', '.join(twice)}")
        if not self.primary_key or len(set(self.primary_key)) < len(self.primary_key):
            raise Invalid("a feature group needs a primary key of one or more different features")
        for key in self.primary_key:
            if types.get(key) not in _KEY_TYPES:
                raise Invalid(f"the primary key {key[:70]!a} must be one of the features, of type {', '.join(_KEY_TYPES)}")
        if types.get(self.event_time) is not FeatureType.TIMESTAMP:
            raise Invalid(f"the event time {self.event_time[:70]!a} must be one of the features, of type timestamp")
        if self.ttl_seconds is not None and not 1 <= self.ttl_seconds <= MOST_TTL_SECONDS:
            raise Invalid(
                f"ttl_seconds must be at least 1 and at most {MOST_TTL_SECONDS}, got {self.ttl_seconds}; leave it out for rows that never grow old"
            )

    @property
    def dataset(self) -> DatasetName:
        """The dataset behind this version, which is also its field in online rows and its table's folder."""
        return group_dataset(self.name, self.version)

    @property
    def topic(self) -> TopicName:
        """The only way into both stores."""
        return topic_of(self.project, self.dataset)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The primary key in the one order in which record keys and online keys are made."""
        return tuple(sorted(self.primary_key))

    @property
    def entity(self) -> str:
        """What the rows are about; groups with equal entities share one online hash for each thing."""
        return ",".join(self.key_columns)

    @cached_property
    def types(self) -> Mapping[str, FeatureType]:
        """Types by feature name, in schema order."""
        return {feature.name: feature.type for feature in self.features}

    @cached_property
    def value_features(self) -> tuple[Feature, ...]:
        """The features that are neither key nor event time: what an online row holds, in this order."""
        return tuple(feature for feature in self.features if feature.name not in (*self.primary_key, self.event_time))

    def required(self, name: str) -> bool:
        """Return whether the feature may never be null."""
        return name == self.event_time or name in self.primary_key

    def avro_schema(self) -> dict[str, Any]:
        """Return the schema of this group's records."""
        return {
            "type": "record",
            "name": str(self.dataset),
            "fields": [
                {"name": feature.name, "type": feature.type.avro}
                if self.required(feature.name)
                else {"name": feature.name, "type": ["null", feature.type.avro], "default": None}
                for feature in self.features
            ],
        }

    def arrow_schema(self) -> pa.Schema:
        """Return the schema of this group's rows as readers see them."""
        return pa.schema([pa.field(each.name, each.type.arrow, nullable=not self.required(each.name)) for each in self.features])

    def table_schema(self) -> pa.Schema:
        """Return the schema of the offline table: the features, then when and where each row was ingested."""
        origin = [(INGESTED_AT, _UTC_MICROSECONDS), (PARTITION, pa.int32()), (OFFSET, pa.int64())]
        return pa.schema([*self.arrow_schema(), *(pa.field(name, type_, nullable=False) for name, type_ in origin)])

    def fingerprint(self) -> int:
        """Return 32 bits that change with everything that decides the bytes of an online row."""
        text = json.dumps([self.primary_key, self.event_time, [[each.name, each.type] for each in self.features]])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def document(self) -> dict[str, Any]:
        """Return this group as JSON values; `group_from_document` makes it again."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "primary_key": list(self.primary_key),
            "event_time": self.event_time,
            "features": [{"name": each.name, "type": each.type.value, "description": each.description} for each in self.features],
            "online_enabled": self.online_enabled,
            "ttl_seconds": self.ttl_seconds,
        }


def group_from_document(project: str, document: Mapping[str, Any]) -> FeatureGroup:
    """Return the group that `document` describes; raises `Invalid` or `InvalidName` with what would be right."""
    missing = [key for key in ("name", "version", "primary_key", "event_time", "features") if key not in document]
    if missing:
        raise Invalid(f"a feature group needs {', '.join(missing)}")
    return FeatureGroup(
        project=parse_project(project),
        name=parse_group(document["name"]),
        version=int(document["version"]),
        primary_key=tuple(document["primary_key"]),
        event_time=document["event_time"],
        features=tuple(Feature(each["name"], feature_type(each["type"]), each.get("description") or "") for each in document["features"]),
        online_enabled=bool(document.get("online_enabled", True)),
        ttl_seconds=document.get("ttl_seconds"),
        description=document.get("description") or "",
    )


def feature_type(text: str) -> FeatureType:
    """Return the type that `text` names; raises `Invalid` with the list of types."""
    try:
        return FeatureType(text)
    except ValueError as error:
        raise Invalid(f"{text[:60]!a} is not a feature type: {', '.join(FeatureType)}") from error


def record_key(values: Sequence[object]) -> bytes:
    """Return the key of a record from its primary key's values in the order of `FeatureGroup.key_columns`.

    Each value is preceded by its length, so that ("1", "23") and ("12", "3") never meet.
    """
    parts: list[bytes] = []
    for value in values:
        text = str(value).encode()
        parts += (len(text).to_bytes(4, "big"), text)
    return b"".join(parts)
