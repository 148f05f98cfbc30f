"""What the records of `_schemas` say: a fold, and the records to write. Keys and values are Confluent's.

The fold is deterministic and reads nothing but records, so that the topic alone restores it, compacted or not.
It is tolerant: a record that cannot be understood is reported and passed over, and schemas are not parsed here,
because topics written elsewhere hold names that today's parsers refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.model import AVRO, Level, Mode, SchemaId, SchemaVersion

# Ours, unknown to other registries, which pass over unknown key types: without it a topic compacted after the hard delete
# of the newest schema would forget that its id was given out, and old records would be read with another schema.
_HIGHEST_ID = "WS_HIGHEST_ID"


@dataclass(frozen=True)
class Entry:
    """One record to write; `value` None is a tombstone."""

    key: bytes
    value: bytes | None


class SchemaState:
    """Subjects, versions, ids, levels and modes as of the last record applied. Not thread-safe."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[int, SchemaVersion]] = {}
        self._places: dict[SchemaId, set[tuple[str, int]]] = {}
        self._levels: dict[str | None, Level] = {}
        self._modes: dict[str | None, Mode] = {}
        self._highest_id = 0

    def apply(self, key: bytes | None, value: bytes | None) -> str | None:
        """Take in one record; returns why it was passed over, or None. The reason holds nothing of the record."""
        try:
            decoded_key = orjson.loads(key or b"")
            decoded_value = None if value is None else orjson.loads(value)
        except orjson.JSONDecodeError:
            return "not JSON"
        if not isinstance(decoded_key, dict) or not (decoded_value is None or isinstance(decoded_value, dict)):
            return "not a JSON object"
        try:
            return self._take(decoded_key, decoded_value)
        except (KeyError, TypeError, ValueError) as error:
            return f"a {decoded_key.get('keytype')} record without usable fields ({type(error).__name__})"

    def _take(self, key: Mapping[str, Any], value: Mapping[str, Any] | None) -> str | None:
        kind = key.get("keytype")
        if kind == "SCHEMA":
            return self._take_schema(_text(key["subject"]), _number(key["version"]), value)
        elif kind == "CONFIG":
            subject = _optional_text(key.get("subject"))
            if value is None or value.get("compatibilityLevel") is None:
                self._levels.pop(subject, None)
            else:
                self._levels[subject] = Level(value["compatibilityLevel"])
        elif kind == "MODE":
            subject = _optional_text(key.get("subject"))
            if value is None:
                self._modes.pop(subject, None)
            else:
                self._modes[subject] = Mode(value["mode"])
        elif kind == "DELETE_SUBJECT":
            if value is not None:
                self._delete_subject(_text(key["subject"]), _number(value["version"]))
        elif kind == "CLEAR_SUBJECT":
            self._clear_subject(_text(key["subject"]))
        elif kind == _HIGHEST_ID:
            if value is not None:
                self._highest_id = max(self._highest_id, _number(value["id"]))
        elif kind not in ("NOOP", "CONTEXT", "ASSOC"):
            return "an unknown key type"
        return None

    def _take_schema(self, subject: str, version: int, value: Mapping[str, Any] | None) -> str | None:
        if value is None:
            self._drop(subject, version)
            return None
        references = value.get("references")
        made = SchemaVersion(
            subject,
            version,
            SchemaId(_number(value["id"])),
            _text(value["schema"]),
            _optional_text(value.get("schemaType")) or AVRO,
            value.get("deleted") is True,
            orjson.dumps(references).decode() if references else None,
        )
        if self._is_taken(made):
            return "its id was given to another schema before: two registries wrote at the same time"
        self._drop(subject, version)
        self._versions.setdefault(subject, {})[version] = made
        self._places.setdefault(made.id, set()).add((subject, version))
        self._highest_id = max(self._highest_id, made.id)
        return None

    def _is_taken(self, made: SchemaVersion) -> bool:
        """An id stands for one text. Contexts, which other registries have, count their ids each for itself."""
        others = self._places.get(made.id, set()) - {(made.subject, made.version)}
        return any(self._versions[subject][version].schema != made.schema and not subject.startswith(":.") for subject, version in others)

    def _drop(self, subject: str, version: int) -> None:
        versions = self._versions.get(subject, {})
        gone = versions.pop(version, None)
        if gone is not None:
            if not versions:
                del self._versions[subject]
            places = self._places[gone.id]
            places.discard((subject, version))
            if not places:
                del self._places[gone.id]

    def _delete_subject(self, subject: str, up_to: int) -> None:
        for number, found in list(self._versions.get(subject, {}).items()):
            if number <= up_to and not found.deleted:
                self._versions[subject][number] = _deleted(found)

    def _clear_subject(self, subject: str) -> None:
        for found in [v for v in self._versions.get(subject, {}).values() if v.deleted]:
            self._drop(subject, found.version)

    def subjects(self, *, deleted: bool = False, deleted_only: bool = False) -> list[str]:
        """Return the subjects that have a living version, in order; those without one too, or only those."""
        return sorted(subject for subject, versions in self._versions.items() if _wanted(versions.values(), deleted, deleted_only))

    def versions(self, subject: str, *, deleted: bool = False) -> list[SchemaVersion]:
        """Return the versions of a subject, oldest first; empty where there is none."""
        return [v for _, v in sorted(self._versions.get(subject, {}).items()) if deleted or not v.deleted]

    def version(self, subject: str, number: int) -> SchemaVersion | None:
        """Return one version, deleted or not."""
        return self._versions.get(subject, {}).get(number)

    def versions_with(self, schema_id: int, *, deleted: bool = False) -> list[SchemaVersion]:
        """Return every version that carries this id, by subject and version."""
        places = sorted(self._places.get(SchemaId(schema_id), ()))
        found = [self._versions[subject][number] for subject, number in places]
        return [v for v in found if deleted or not v.deleted]

    def level(self, subject: str | None) -> Level | None:
        """Return the level set for the subject itself, or with None the global one."""
        return self._levels.get(subject)

    def mode(self, subject: str | None) -> Mode | None:
        """Return the mode set for the subject itself, or with None the global one."""
        return self._modes.get(subject)

    @property
    def next_id(self) -> SchemaId:
        """An id that was never given out."""
        return SchemaId(self._highest_id + 1)

    def next_version(self, subject: str) -> int:
        """The number of the next version; soft-deleted ones keep theirs."""
        return max(self._versions.get(subject, {0: None}), default=0) + 1


def schema_entry(version: SchemaVersion) -> Entry:
    """Return the record that sets one version."""
    value: dict[str, Any] = {"subject": version.subject, "version": version.version, "id": int(version.id)}
    if version.schema_type != AVRO:
        value["schemaType"] = version.schema_type
    if version.references is not None:
        value["references"] = orjson.loads(version.references)
    value |= {"schema": version.schema, "deleted": version.deleted}
    return Entry(_schema_key(version.subject, version.version), orjson.dumps(value))


def soft_delete_entry(version: SchemaVersion) -> Entry:
    """Return the record that marks one version as deleted."""
    return schema_entry(_deleted(version))


def soft_delete_subject_entry(subject: str, up_to: int) -> Entry:
    """Return the record that marks all versions up to a number as deleted."""
    key = orjson.dumps({"keytype": "DELETE_SUBJECT", "subject": subject, "magic": 0})
    return Entry(key, orjson.dumps({"subject": subject, "version": up_to}))


def hard_delete_entries(versions: Iterable[SchemaVersion], highest_id: int) -> list[Entry]:
    """Return the records that remove versions for good: what ids were given out first, then newest version first."""
    memory = Entry(orjson.dumps({"keytype": _HIGHEST_ID, "magic": 0}), orjson.dumps({"id": highest_id}))
    newest_first = sorted(versions, key=lambda v: v.version, reverse=True)
    return [memory, *(Entry(_schema_key(v.subject, v.version), None) for v in newest_first)]


def withdrawal_entries(version: SchemaVersion) -> list[Entry]:
    """Return the records that take back one version which never was in force."""
    return [Entry(_schema_key(version.subject, version.version), None)]


def level_entry(subject: str | None, level: Level | None) -> Entry:
    """Return the record that sets or, with None, removes a compatibility level."""
    key = orjson.dumps({"keytype": "CONFIG", "subject": subject, "magic": 0})
    value: dict[str, Any] = {"subject": subject} if subject is not None else {}
    return Entry(key, None if level is None else orjson.dumps({**value, "compatibilityLevel": level.value}))


def _schema_key(subject: str, version: int) -> bytes:
    # The bytes are the identity for compaction: this order, no spaces.
    return orjson.dumps({"keytype": "SCHEMA", "subject": subject, "version": version, "magic": 1})


def _deleted(version: SchemaVersion) -> SchemaVersion:
    return SchemaVersion(version.subject, version.version, version.id, version.schema, version.schema_type, True, version.references)


def _wanted(versions: Iterable[SchemaVersion], deleted: bool, deleted_only: bool) -> bool:
    living = any(not v.deleted for v in versions)
    return not living if deleted_only else living or deleted


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a number")
    return value
