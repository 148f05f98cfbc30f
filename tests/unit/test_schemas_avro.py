"""What is an Avro schema here, and when two are the same."""

from __future__ import annotations

import json

import fastavro
import pytest

from schemas.avro import MAX_BYTES, canonical, fixed_bytes, holds_endless_array, is_recursive, parse
from schemas.errors import InvalidSchema, SchemaTooLarge

RECORD = {
    "type": "record",
    "name": "Vital",
    "namespace": "icu",
    "doc": "one measurement",
    "fields": [
        {"name": "patient", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "value", "type": ["null", "double"], "default": None},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["HR", "SPO2"]}},
        {"name": "other", "type": ["null", "Kind"], "default": None},
    ],
}


def test_canonical_form_is_the_specification_s() -> None:
    text = json.dumps(RECORD)
    assert canonical(parse(text)) == fastavro.schema.to_parsing_canonical_form(RECORD)


@pytest.mark.parametrize("primitive", ['"string"', "string", '{"type":"string"}', '{"type":{"type":"string"}}'])
def test_a_primitive_is_one_schema_however_it_is_written(primitive: str) -> None:
    assert parse(primitive).equality_text == '"string"'


def test_a_namespace_in_the_name_equals_one_beside_it() -> None:
    one = '{"type":"record","name":"a.b.R","fields":[{"name":"x","type":{"type":"fixed","name":"F","size":2}}]}'
    other = '{"name":"R","namespace":"a.b","type":"record","fields":[{"type":{"name":"a.b.F","size":2,"type":"fixed"},"name":"x"}]}'
    assert parse(one).equality_text == parse(other).equality_text


@pytest.mark.parametrize(
    ("key", "value"),
    [("doc", "another"), ("name", "Vital2"), ("namespace", "ward"), ("fields", RECORD["fields"][:2])],
)
def test_documentation_names_and_fields_make_schemas_different(key: str, value: object) -> None:
    assert parse(json.dumps({**RECORD, key: value})).equality_text != parse(json.dumps(RECORD)).equality_text


def test_white_space_is_not_kept() -> None:
    assert parse(json.dumps(RECORD, indent=4)).text == parse(json.dumps(RECORD)).text


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("{", "not JSON"),
        ("5", "a type is a name"),
        ('{"name":"R"}', 'without "type"'),
        ('"strin"', "no type named 'strin'"),
        ("[]", "without branches"),
        ('["null","null"]', "the same type twice"),
        ('["null",["int"]]', "directly inside a union"),
        ('{"type":"record","name":"R"}', "without a list of fields"),
        ('{"type":"record","name":"1R","fields":[]}', "without a name"),
        ('{"type":"record","name":"long","fields":[]}', "primitive type"),
        ('{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}', "same field twice"),
        ('{"type":"record","name":"R","fields":[{"name":"a"}]}', "(at /fields/0)"),
        ('{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}', "default of field 'a' does not fit"),
        ('{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":"x"}]}', "does not fit"),
        ('{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":2147483648}]}', "does not fit"),
        ('{"type":"enum","name":"E","symbols":["A","A"]}', "symbols of an enum"),
        ('{"type":"enum","name":"E","symbols":["A-B"]}', "symbols of an enum"),
        ('{"type":"enum","name":"E","symbols":["A"],"default":"B"}', "default of an enum"),
        ('{"type":"fixed","name":"F","size":-1}', "size"),
        ('{"type":"array"}', '"items"'),
        ('{"type":"map"}', '"values"'),
        ('{"type":"bytes","logicalType":"decimal","precision":0}', "precision"),
        ('{"type":"bytes","logicalType":"decimal","precision":2,"scale":3}', "scale"),
        (
            '{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"fixed","name":"F","size":1}},'
            '{"name":"b","type":{"type":"fixed","name":"F","size":2}}]}',
            "defined twice",
        ),
    ],
)
def test_what_breaks_the_specification_is_refused_with_the_place(schema: str, complaint: str) -> None:
    with pytest.raises(InvalidSchema) as refusal:
        parse(schema)
    assert complaint in refusal.value.message


def test_unknown_logical_types_are_ignored() -> None:
    assert parse('{"type":"string","logicalType":"patient-name"}').root == parse('"string"').root


def test_a_large_schema_is_refused() -> None:
    with pytest.raises(SchemaTooLarge):
        parse(json.dumps({**RECORD, "doc": "x" * MAX_BYTES}))


def test_a_deep_schema_is_refused() -> None:
    with pytest.raises(SchemaTooLarge, match="32 levels"):
        parse('{"type":"array","items":' * 40 + '"int"' + "}" * 40)


def test_a_small_schema_that_stands_for_an_enormous_one_is_refused() -> None:
    inner: object = "int"
    for level in range(20):
        inner = {
            "type": "record",
            "name": f"L{level}",
            "fields": [{"name": "a", "type": inner}, {"name": "b", "type": f"L{level - 1}" if level else "int"}],
        }
    with pytest.raises(SchemaTooLarge, match="written out"):
        parse(json.dumps(inner))


def test_recursion_is_seen() -> None:
    listed = '{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}'
    assert is_recursive(parse(listed))
    assert not is_recursive(parse(json.dumps(RECORD)))


@pytest.mark.parametrize("items", ['"null"', '{"type":"record","name":"E","fields":[]}', '{"type":"fixed","name":"F","size":0}'])
def test_arrays_whose_items_take_no_bytes_are_seen(items: str) -> None:
    field = {"name": "a", "type": ["null", {"type": "array", "items": json.loads(items)}]}
    schema = parse(json.dumps({"type": "record", "name": "R", "fields": [field]}))
    assert holds_endless_array(schema)
    assert not holds_endless_array(parse('{"type":"array","items":"int"}'))


def test_a_fixed_counts_where_it_is_named_again() -> None:
    first = {"name": "a", "type": {"type": "fixed", "name": "F", "size": 16}}
    schema = parse(json.dumps({"type": "record", "name": "R", "fields": [first, {"name": "b", "type": ["null", "F"]}]}))
    assert fixed_bytes(schema) == 32
    assert fixed_bytes(parse(json.dumps(RECORD))) == 0
