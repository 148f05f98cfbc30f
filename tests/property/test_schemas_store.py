"""The topic alone restores the registry: read twice, read in parts, read after compaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.model import Level, SchemaId, SchemaVersion
from schemas.store import (
    Entry,
    SchemaState,
    hard_delete_entries,
    level_entry,
    schema_entry,
    soft_delete_entry,
    soft_delete_subject_entry,
)

SUBJECTS = ["icu.a-value", "icu.b-value"]
Step = Callable[[SchemaState], list[Entry]]


def register(subject: str) -> Step:
    return lambda state: [schema_entry(SchemaVersion(subject, state.next_version(subject), state.next_id, f'"{subject}"'))]


def soft_delete(subject: str) -> Step:
    def step(state: SchemaState) -> list[Entry]:
        living = state.versions(subject)
        return [soft_delete_entry(living[0])] if living else []

    return step


def soft_delete_subject(subject: str) -> Step:
    def step(state: SchemaState) -> list[Entry]:
        living = state.versions(subject)
        return [soft_delete_subject_entry(subject, living[-1].version)] if living else []

    return step


def hard_delete(subject: str) -> Step:
    def step(state: SchemaState) -> list[Entry]:
        gone = [version for version in state.versions(subject, deleted=True) if version.deleted]
        return hard_delete_entries(gone, state.next_id - 1) if gone else []

    return step


def set_level(subject: str) -> Step:
    return lambda state: [level_entry(subject, Level.FULL if state.level(subject) is None else None)]


STEPS = st.builds(
    lambda make, subject: make(subject),
    st.sampled_from([register, register, soft_delete, soft_delete_subject, hard_delete, set_level]),
    st.sampled_from(SUBJECTS),
)


def written(steps: Sequence[Step]) -> tuple[list[Entry], SchemaState]:
    state, records = SchemaState(), list[Entry]()
    for step in steps:
        for entry in step(state):
            records.append(entry)
            assert state.apply(entry.key, entry.value) is None
    return records, state


def read(records: Sequence[Entry]) -> SchemaState:
    state = SchemaState()
    for record in records:
        state.apply(record.key, record.value)
    return state


def seen(state: SchemaState) -> dict[str, Any]:
    return {
        "subjects": state.subjects(deleted=True),
        "versions": {subject: state.versions(subject, deleted=True) for subject in SUBJECTS},
        "levels": {subject: state.level(subject) for subject in SUBJECTS},
        "ids": {number: state.versions_with(number, deleted=True) for number in range(20)},
        "next": state.next_id,
    }


def compacted(records: Sequence[Entry], *, tombstones: bool) -> list[Entry]:
    last = {record.key: number for number, record in enumerate(records)}
    kept = [record for number, record in enumerate(records) if last[record.key] == number]
    return [record for record in kept if tombstones or record.value is not None]


@given(st.lists(STEPS, max_size=15))
def test_a_restart_gives_the_same_state(steps: list[Step]) -> None:
    records, state = written(steps)
    assert seen(read(records)) == seen(state)


@given(st.lists(STEPS, max_size=15), st.booleans())
def test_a_restart_after_compaction_gives_the_same_state(steps: list[Step], tombstones: bool) -> None:
    records, state = written(steps)
    assert seen(read(compacted(records, tombstones=tombstones))) == seen(state)


@given(st.lists(STEPS, max_size=15))
def test_reading_everything_again_changes_nothing(steps: list[Step]) -> None:
    records, state = written(steps)
    assert seen(read([*records, *compacted(records, tombstones=True)])) == seen(state)


@given(st.lists(STEPS, max_size=15))
def test_an_id_is_never_given_twice(steps: list[Step]) -> None:
    state, given_out = SchemaState(), list[SchemaId]()
    for step in steps:
        upcoming = state.next_id
        for entry in step(state):
            if entry.value is not None and b'"keytype":"SCHEMA"' in entry.key and b'"deleted":false' in entry.value:
                given_out.append(upcoming)
            state.apply(entry.key, entry.value)
    assert len(set(given_out)) == len(given_out)


@given(st.lists(st.tuples(st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=60))))
def test_no_record_stops_the_reader(records: list[tuple[bytes | None, bytes | None]]) -> None:
    state = SchemaState()
    for key, value in records:
        state.apply(key, value)
    assert state.subjects(deleted=True) == []
