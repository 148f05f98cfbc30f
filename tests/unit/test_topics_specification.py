"""topics.yaml: what it says, and what is said about mistakes in it."""

from __future__ import annotations

import pytest

from tenancy.model import DatasetPermission
from topics.model import TopicSpec
from topics.specification import load
from wardstream.errors import Invalid
from wardstream.names import DatasetName


def test_a_topic_has_defaults() -> None:
    assert load("topics: [{name: ecg}]") == [TopicSpec(DatasetName("ecg"), 1, DatasetPermission.EDITABLE_BY_OWNERS)]


def test_everything_can_be_said() -> None:
    text = """
topics:
  - name: ecg
    partitions: 3
    permission: read-only
    config: {retention.ms: 604800000, cleanup.policy: delete, message.timestamp.type: LogAppendTime}
    schema: {type: record, name: R, fields: [{name: a, type: [null, int], default: null}]}
    grow: true
"""
    [found] = load(text)
    assert found.config == {"cleanup.policy": "delete", "retention.ms": "604800000"}
    assert found.schema == '{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":null}]}'
    assert (found.partitions, found.permission, found.grow) == (3, DatasetPermission.READ_ONLY, True)


def test_a_schema_may_be_json_text() -> None:
    [found] = load("""topics: [{name: ecg, schema: '{"type": "string"}'}]""")
    assert found.schema == '{"type":"string"}'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("topics: [", "not YAML in line 1"),
        ("[]", "begins with `topics:`"),
        ("topics: {}", "begins with `topics:`"),
        ("topics: []\nversion: 1", "'version' is not known at the top"),
        ("topics: [ecg]", "topic 1 is not a list of settings"),
        ("topics: [{partitions: 1}]", "topic 1: name is missing"),
        ("topics: [{name: 5}]", "name must be text"),
        ("topics: [{name: Ecg}]", "topic 'Ecg': 'Ecg' is not a dataset name"),
        ("topics: [{name: ecg-dlq}]", "-dlq"),
        ("topics: [{name: ecg_1}]", "_<digits>"),
        ("topics: [{name: ecg, partition: 3}]", "topic 'ecg': 'partition' is not known; known are name, partitions"),
        ("topics: [{name: ecg, partitions: 0}]", "partitions must be a whole number of at least 1, got '0'"),
        ("topics: [{name: ecg, partitions: many}]", "got 'many'"),
        ("topics: [{name: ecg, partitions: true}]", "partitions must be"),
        ("topics: [{name: ecg, permission: all}]", "permission must be one of read-only"),
        ("topics: [{name: ecg, permission: []}]", "permission must be one of read-only"),
        ("topics: [{name: ecg, config: 5}]", "config must be settings"),
        ("topics: [{name: ecg, config: {retention: 5}}]", "'retention' is not a setting"),
        ("topics: [{name: ecg, config: {retention.ms: soon}}]", "retention.ms must be"),
        ("topics: [{name: ecg, schema: 5}]", "schema must be an Avro schema"),
        ("topics: [{name: ecg, schema: '{'}]", "schema is not JSON"),
        ("topics: [{name: ecg, schema: /etc/passwd}]", "write what the file holds"),
        ("topics: [{name: ecg, schema: {default: 2026-11-24}}]", "schema has something that JSON cannot hold"),
        ("topics: [{name: ecg, grow: sure}]", "grow must be true or false"),
        ("topics: [{name: ecg}, {name: ecg}]", "topic ecg is there twice"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_would_be_right(text: str, complaint: str) -> None:
    with pytest.raises(Invalid) as refusal:
        load(text)
    assert complaint in refusal.value.message


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(Invalid) as refusal:
        load("topics: [{name: A, partitions: 0}, {name: ecg, x: 1}]")
    assert refusal.value.message.count(";") >= 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x: &a [1, 1]\ntopics: [*a, *a]", "line 2, column 10: aliases"),
        ("topics: [{name: ecg, config: {x: 2026-13-45}}]", "date, number or tag that cannot be read"),
        ("topics: [{name: ecg, config: {x: !!timestamp soon}}]", "date, number or tag that cannot be read"),
        ("topics: [{name: ecg, config: {x: !!int ''}}]", "date, number or tag that cannot be read"),
        ("topics: [{name: ecg, config: {x: !!bool perhaps}}]", "date, number or tag that cannot be read"),
        (f"topics: [{{name: ecg, partitions: {'9' * 5000}}}]", "column 34: a number has at most 40 digits"),
        (f"topics: [{{name: ecg, partitions: -0x{'F' * 5000}}}]", "a number has at most 40 digits"),
        (f"topics: [{{name: ecg, partitions: {':'.join('1' * 60_000)}}}]", "a number has at most 40 digits"),
        (f"topics: [{{name: ecg, config: {{x: {':'.join('1' * 400)}.5}}}}]", "a number has at most 40 digits"),
        (f"topics: {'[' * 900}{']' * 900}", "nested too deeply"),
        (f"topics: [{{name: ecg, schema: '{'[' * 5000}{']' * 5000}'}}]", "schema is"),
    ],
)
def test_a_text_made_to_be_expensive_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        load(text)
