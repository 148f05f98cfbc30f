"""Topics and records of a project over REST, on the real platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.decode import decode_batch
from schemas.serde import RegistryHttp
from tests.support.stack import NewProject, RunningStack
from wardstream.errors import Conflict, Denied, Invalid, NotFound, UnsafeChange

pytestmark = pytest.mark.stack

SCHEMA = {
    "type": "record",
    "name": "Lab",
    "fields": [
        {"name": "patient", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "value", "type": ["null", "double"], "default": None},
    ],
}


def specification(**topic: Any) -> str:
    return json.dumps({"topics": [{"name": "labs", "partitions": 2, "schema": SCHEMA, **topic}]})


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    made = stack.new_project("top")
    made.owner.project.topics.apply(specification())
    return made


def test_json_records_are_written_and_what_does_not_fit_is_named(project: NewProject) -> None:
    report = project.owner.project.topics.produce(
        "labs",
        [
            {"patient": "p1", "at": "2026-11-24T12:00:00Z", "value": 4.5},
            {"patient": "p2", "at": 1_795_521_600_000},
            {"patient": "p3", "at": "today"},
            {"patient": 4, "at": 0},
            {"patient": "p5", "at": 0, "colour": "red"},
        ],
    )
    assert report["accepted"] == 2
    assert [fault["index"] for fault in report["rejected"]] == [2, 3, 4]
    assert all("p3" not in fault["reason"] and "red" not in fault["reason"] for fault in report["rejected"])
    values = [message.value() for message in project.owner.consume(project.topic("labs"), 2)]
    rows = decode_batch(values, RegistryHttp(project.owner.connection.transport).catalogue()).table.to_pylist()
    assert sorted((row["patient"], row["value"], row["at"].timestamp()) for row in rows) == [
        ("p1", 4.5, 1_795_521_600.0),
        ("p2", None, 1_795_521_600.0),
    ]


def test_records_for_a_topic_without_a_schema_are_refused(project: NewProject) -> None:
    project.create_topic("bare")
    with pytest.raises(NotFound):
        project.owner.project.topics.produce("bare", [{}])


def test_a_specification_that_would_lose_data_or_order_changes_nothing(project: NewProject) -> None:
    topics = project.owner.project.topics
    before = topics.list()
    for changed in (specification(partitions=1), specification(partitions=3)):
        with pytest.raises(UnsafeChange):
            topics.apply(changed)
    with pytest.raises(Conflict, match="labs: "):
        topics.apply(
            specification(schema={"type": "record", "name": "Lab", "fields": [{"name": "value", "type": "string"}]}, permission="editable")
        )
    with pytest.raises(Invalid, match="'partition' is not known"):
        topics.apply(specification(partition=3))
    assert topics.list() == before


def test_growing_and_later_schemas_are_applied_on_request(project: NewProject) -> None:
    topics = project.owner.project.topics
    later = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "unit", "type": ["null", "string"], "default": None}]}
    grown = specification(name="grown", partitions=1), specification(name="grown", partitions=2, grow=True, schema=later)
    topics.apply(grown[0])
    assert [change["change"] for change in topics.apply(grown[1])] == ["register schema", "add partitions"]
    assert topics.apply(grown[1]) == []
    assert next(found.partitions for found in topics.list() if found.name == "grown") == 2


def test_who_may_not_create_topics_is_refused_and_strangers_learn_nothing(stack: RunningStack, project: NewProject) -> None:
    scientist = project.add("sam", "data-scientist")
    with pytest.raises(Denied):
        scientist.project.topics.apply(specification(name="mine"))
    stranger = stack.new_project("far").owner.connection.transport
    answers = []
    for name in (project.name, "no-such-project"):
        with pytest.raises((NotFound, Denied)) as refusal:
            stranger.json("POST", f"/api/v1/projects/{name}/topics/plan", json={"specification": specification()})
        answers.append((type(refusal.value), refusal.value.message.replace(name, "")))
    assert answers[0] == answers[1]
