"""Which schema may follow which."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from schemas.avro import Schema, parse
from schemas.compatibility.avro import incompatibilities, unreadable
from schemas.model import Level


def record(*fields: Mapping[str, object], name: str = "R") -> Schema:
    return parse(json.dumps({"type": "record", "name": name, "fields": list(fields)}))


A = {"name": "a", "type": "int"}
B = {"name": "b", "type": "string"}
B_OPTIONAL = {"name": "b", "type": ["null", "string"], "default": None}


@pytest.mark.parametrize(
    ("reader", "writer", "kind"),
    [
        ('"int"', '"long"', "TYPE_MISMATCH"),
        ('"long"', '"int"', None),
        ('"double"', '"int"', None),
        ('"float"', '"long"', None),
        ('"float"', '"double"', "TYPE_MISMATCH"),
        ('"bytes"', '"string"', None),
        ('"string"', '"bytes"', None),
        ('"string"', '"int"', "TYPE_MISMATCH"),
        ('["null","int"]', '"int"', None),
        ('"int"', '["null","int"]', "TYPE_MISMATCH at /0"),
        ('["null","long"]', '["null","int"]', None),
        ('["null","string"]', '"int"', "MISSING_UNION_BRANCH"),
        ('{"type":"array","items":"long"}', '{"type":"array","items":"int"}', None),
        ('{"type":"array","items":"int"}', '{"type":"map","values":"int"}', "TYPE_MISMATCH"),
        ('{"type":"fixed","name":"F","size":2}', '{"type":"fixed","name":"F","size":3}', "FIXED_SIZE_MISMATCH"),
        ('{"type":"enum","name":"N","symbols":["A"]}', '{"type":"fixed","name":"N","size":1}', "TYPE_MISMATCH"),
        ('{"type":"fixed","name":"F","size":2}', '{"type":"fixed","name":"G","size":2}', "NAME_MISMATCH"),
        ('{"type":"fixed","name":"F","size":2,"aliases":["G"]}', '{"type":"fixed","name":"G","size":2}', None),
        ('{"type":"enum","name":"E","symbols":["A"]}', '{"type":"enum","name":"E","symbols":["A","B"]}', "MISSING_ENUM_SYMBOLS"),
        ('{"type":"enum","name":"E","symbols":["A"],"default":"A"}', '{"type":"enum","name":"E","symbols":["A","B"]}', None),
        ('{"type":"long","logicalType":"timestamp-micros"}', '{"type":"long","logicalType":"timestamp-millis"}', "logical type"),
        ('{"type":"long","logicalType":"timestamp-millis"}', '"long"', None),
        (
            '{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}',
            '{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}',
            "decimal(9,2)",
        ),
    ],
)
def test_what_one_type_reads_of_another(reader: str, writer: str, kind: str | None) -> None:
    problems = unreadable(reader=parse(reader), writer=parse(writer))
    assert bool(problems) == (kind is not None)
    assert kind is None or kind in problems[0]


@pytest.mark.parametrize(
    ("level", "new", "allowed"),
    [
        (Level.BACKWARD, record(A, B_OPTIONAL), True),
        (Level.BACKWARD, record(A, B), False),
        (Level.BACKWARD, record(), True),
        (Level.FORWARD, record(A, B), True),
        (Level.FORWARD, record(), False),
        (Level.FULL, record(A, B_OPTIONAL), True),
        (Level.FULL, record(A, B), False),
        (Level.FULL, record(), False),
        (Level.NONE, parse('"int"'), True),
    ],
)
def test_levels_against_the_last_version(level: Level, new: Schema, allowed: bool) -> None:
    assert (incompatibilities(level, new, [record(A)]) == []) == allowed


def test_transitive_levels_look_at_every_version() -> None:
    earlier = [record(A, B), record(A, B_OPTIONAL), record(A)]
    new = record(A, {"name": "b", "type": "int", "default": 0})
    assert incompatibilities(Level.BACKWARD, new, earlier) == []
    assert "TYPE_MISMATCH" in incompatibilities(Level.BACKWARD_TRANSITIVE, new, earlier)[0]


def test_a_renamed_field_is_found_by_its_alias() -> None:
    assert unreadable(reader=record({"name": "x", "type": "int", "aliases": ["a"]}), writer=record(A)) == []


def test_records_are_matched_by_their_last_name() -> None:
    assert unreadable(reader=record(A, name="new.R"), writer=record(A, name="old.R")) == []
    assert "NAME_MISMATCH" in unreadable(reader=record(A, name="S"), writer=record(A, name="R"))[0]


def test_the_place_of_a_problem_is_named() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}
    wider = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "string"}]}
    problems = unreadable(reader=record({"name": "i", "type": wider}), writer=record({"name": "i", "type": inner}))
    assert problems == ["TYPE_MISMATCH at /fields/0/type/fields/0/type: reader type string not compatible with writer type int"]


def test_a_recursive_record_can_be_compared() -> None:
    def listed(value: str) -> Schema:
        return record({"name": "v", "type": value}, {"name": "next", "type": ["null", "R"]})

    assert unreadable(reader=listed("long"), writer=listed("int")) == []
    assert unreadable(reader=listed("int"), writer=listed("long")) != []


def test_an_assumption_that_fails_inside_a_recursion_does_not_stay() -> None:
    # R is compared with S inside a branch that fails in the end; a verdict remembered from there would say yes.
    def tree(kind: str) -> Schema:
        node = {"type": "record", "name": "N", "fields": [{"name": "up", "type": ["null", "R"]}]}
        return record({"name": "first", "type": node}, {"name": "second", "type": ["null", "N"]}, {"name": "v", "type": kind})

    problems = unreadable(reader=tree("int"), writer=tree("string"))
    assert any("/fields/2/type" in problem for problem in problems)
