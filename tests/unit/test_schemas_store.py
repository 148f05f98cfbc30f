"""What the records of `_schemas` say, in Confluent's format."""

from __future__ import annotations

from schemas.model import Level, Mode, SchemaId, SchemaVersion
from schemas.store import (
    SchemaState,
    hard_delete_entries,
    level_entry,
    schema_entry,
    soft_delete_entry,
    soft_delete_subject_entry,
)


def version(number: int, schema_id: int, subject: str = "icu.ecg-value") -> SchemaVersion:
    return SchemaVersion(subject, number, SchemaId(schema_id), '"string"')


def state_of(*records: tuple[bytes | None, bytes | None]) -> SchemaState:
    state = SchemaState()
    for key, value in records:
        assert state.apply(key, value) is None
    return state


def test_a_record_is_written_as_confluent_writes_it() -> None:
    entry = schema_entry(version(1, 7))
    assert entry.key == b'{"keytype":"SCHEMA","subject":"icu.ecg-value","version":1,"magic":1}'
    assert entry.value == b'{"subject":"icu.ecg-value","version":1,"id":7,"schema":"\\"string\\"","deleted":false}'
    assert level_entry("s", Level.FULL).key == b'{"keytype":"CONFIG","subject":"s","magic":0}'
    assert soft_delete_subject_entry("s", 3).key == b'{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}'


def test_records_of_a_confluent_registry_are_read() -> None:
    state = state_of(
        (b'{"keytype":"NOOP","magic":0}', None),
        (b'{"keytype":"CONFIG","subject":null,"magic":0}', b'{"compatibilityLevel":"FULL","alias":null}'),
        (b'{"keytype":"MODE","subject":"s","magic":0}', b'{"subject":"s","mode":"IMPORT"}'),
        (
            b'{"keytype":"SCHEMA","subject":"s","version":2,"magic":1}',
            b'{"subject":"s","version":2,"id":9,"md5":"x","schemaType":"JSON","references":[{"name":"n","subject":"t","version":1}],'
            b'"metadata":null,"ruleSet":null,"schema":"{}","deleted":false,"ts":1,"offset":4}',
        ),
        (b'{"keytype":"CONTEXT","tenant":"t","context":"c","magic":0}', b"{}"),
    )
    found = state.versions("s")[0]
    assert (found.id, found.schema_type, found.references) == (9, "JSON", '[{"name":"n","subject":"t","version":1}]')
    assert state.level(None) is Level.FULL
    assert state.mode("s") is Mode.IMPORT


def test_a_record_that_cannot_be_understood_is_passed_over() -> None:
    state = SchemaState()
    for key, value in [
        (None, None),
        (b"\xff", b"{}"),
        (b"[]", b"{}"),
        (b'{"keytype":"NEW"}', b"{}"),
        (b'{"magic":1}', b"{}"),
        (b'{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}', b'{"id":"seven"}'),
        (b'{"keytype":"SCHEMA","subject":"s","magic":1}', b"{}"),
        (b'{"keytype":"CONFIG","subject":"s","magic":0}', b'{"compatibilityLevel":"MOSTLY"}'),
    ]:
        assert state.apply(key, value) is not None
    assert state.subjects(deleted=True) == []


def test_a_damaged_record_leaves_the_version_that_was_there() -> None:
    entry = schema_entry(version(1, 7))
    state = state_of((entry.key, entry.value))
    assert state.apply(entry.key, b'{"id":"seven"}') is not None
    assert [v.id for v in state.versions("icu.ecg-value")] == [7]


def test_soft_deleted_versions_are_kept_and_numbers_go_on() -> None:
    one, two = schema_entry(version(1, 7)), schema_entry(version(2, 8))
    gone = soft_delete_entry(version(2, 8))
    state = state_of((one.key, one.value), (two.key, two.value), (gone.key, gone.value))
    assert [v.version for v in state.versions("icu.ecg-value")] == [1]
    assert [v.version for v in state.versions("icu.ecg-value", deleted=True)] == [1, 2]
    assert state.next_version("icu.ecg-value") == 3


def test_a_deleted_subject_is_listed_only_on_request() -> None:
    one, gone = schema_entry(version(1, 7)), soft_delete_subject_entry("icu.ecg-value", 1)
    state = state_of((one.key, one.value), (gone.key, gone.value))
    assert state.subjects() == []
    assert state.subjects(deleted=True) == state.subjects(deleted_only=True) == ["icu.ecg-value"]


def test_an_id_is_not_given_again_after_a_hard_delete_and_compaction() -> None:
    entries = [schema_entry(version(1, 7)), *hard_delete_entries([version(1, 7)], 7)]
    # Compaction keeps the last record of each key and, in the end, no tombstones.
    compacted = {entry.key: entry.value for entry in entries}
    state = state_of(*[(key, value) for key, value in compacted.items() if value is not None])
    assert state.subjects(deleted=True) == []
    assert state.next_id == 8


def test_hard_deletes_begin_with_the_newest_version() -> None:
    entries = hard_delete_entries([version(1, 7), version(2, 8)], 8)
    assert [b'"version":2' in entries[1].key, b'"version":1' in entries[2].key] == [True, True]
    assert [entry.value for entry in entries[1:]] == [None, None]
