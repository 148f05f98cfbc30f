"""The verdict equals what a reader can read: fastavro reads every record where it says yes, and fails on some where it says no."""

from __future__ import annotations

import io
import json
from typing import Any

import avro.compatibility
import avro.schema
import fastavro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.avro import parse
from schemas.compatibility.avro import unreadable

Shown = Any
PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]


@st.composite
def types(draw: st.DrawFn, names: list[str], depth: int = 2) -> Shown:
    kind = draw(st.sampled_from(["primitive"] * 4 + ["enum", "fixed", "optional"] + (["array", "map", "record"] if depth else [])))
    if kind == "primitive":
        return draw(st.sampled_from(PRIMITIVES))
    if kind == "optional":
        inner = draw(types(names, depth).filter(lambda t: not isinstance(t, list) and t != "null"))
        return ["null", inner]
    if kind == "array":
        return {"type": "array", "items": draw(types(names, depth - 1))}
    if kind == "map":
        return {"type": "map", "values": draw(types(names, depth - 1))}
    if not names:
        return "long"
    # A name is of one kind: fastavro takes an enum for a fixed of the same name, which the specification does not.
    name = kind.capitalize() + names.pop()
    if kind == "enum":
        made: Shown = {"type": "enum", "name": name, "symbols": draw(st.sampled_from([["A"], ["A", "B"], ["B", "C"]]))}
        return {**made, "default": made["symbols"][0]} if draw(st.booleans()) else made
    if kind == "fixed":
        return {"type": "fixed", "name": name, "size": draw(st.integers(1, 2))}
    return record(draw, name, names, depth - 1)


def record(draw: st.DrawFn, name: str, names: list[str], depth: int) -> Shown:
    fields = []
    for letter in draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=3)):
        kind = draw(types(names, depth))
        fields.append({"name": letter, "type": kind, **(default_of(kind) if draw(st.booleans()) else {})})
    return {"type": "record", "name": name, "fields": fields}


def default_of(kind: Shown) -> dict[str, Any]:
    """A default for the types that have a simple one, as the part of a field that says it."""
    if isinstance(kind, list):
        return {"default": None}
    simple = {"int": 1, "long": 2, "double": 1.5, "string": "d", "boolean": True}
    return {"default": simple[kind]} if isinstance(kind, str) and kind in simple else {}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Shown, Shown]:
    """Writer and reader; the reader is often a changed writer, so that yes and no both happen."""
    writer = record(draw, "R", ["N1", "N2", "N3"], 2)
    if draw(st.booleans()):
        return writer, record(draw, "R", ["N1", "N2", "N3"], 2)
    return writer, draw(changed(writer))


@st.composite
def changed(draw: st.DrawFn, writer: Shown) -> Shown:
    fields = [dict(field) for field in writer["fields"]]
    change = draw(st.sampled_from(["drop", "add", "promote", "optional", "same"]))
    if change == "drop" and len(fields) > 1:
        fields.pop()
    elif change == "add":
        fields.append({"name": "z", "type": ["null", "string"], **({"default": None} if draw(st.booleans()) else {})})
    elif change == "promote":
        wider = {"int": "long", "long": "double", "string": "bytes"}
        fields = [
            {**field, "type": wider.get(field["type"], field["type"]) if isinstance(field["type"], str) else field["type"]}
            for field in fields
        ]
        fields = [{key: value for key, value in field.items() if key != "default" or field["type"] != "bytes"} for field in fields]
    elif change == "optional":
        fields = [
            f if isinstance(f["type"], list) or f["type"] == "null" else {"name": f["name"], "type": ["null", f["type"]]} for f in fields
        ]
    return {**writer, "fields": fields}


def examples(kind: Shown, named: dict[str, Shown]) -> list[Any]:
    """Values that together take every branch and every symbol."""
    if isinstance(kind, list):
        return [value for branch in kind for value in examples(branch, named)]
    if isinstance(kind, str):
        values: dict[str, list[Any]] = {
            "null": [None],
            "boolean": [True],
            "int": [5],
            "long": [1 << 40],
            "float": [0.5],
            "double": [0.25],
            "bytes": [b"xy"],
            "string": ["xy"],
        }
        return values[kind]
    if kind["type"] == "enum":
        return list(kind["symbols"])
    if kind["type"] == "fixed":
        return [b"x" * kind["size"]]
    if kind["type"] == "array":
        return [[value] for value in examples(kind["items"], named)]
    if kind["type"] == "map":
        return [{"k": value} for value in examples(kind["values"], named)]
    columns = [examples(field["type"], named) for field in kind["fields"]]
    longest = max(len(column) for column in columns)
    return [{f["name"]: column[min(i, len(column) - 1)] for f, column in zip(kind["fields"], columns, strict=True)} for i in range(longest)]


def reads_all(writer: Shown, reader: Shown) -> bool:
    written_with, read_with = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    for value in examples(writer, {}):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, written_with, value)
        try:
            fastavro.schemaless_reader(io.BytesIO(out.getvalue()), written_with, read_with)
        except (fastavro.read.SchemaResolutionError, KeyError, TypeError):
            return False
    return True


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], max_examples=400)
@given(pairs())
def test_the_verdict_is_what_fastavro_can_read(pair: tuple[Shown, Shown]) -> None:
    writer, reader = pair
    verdict = unreadable(reader=parse(json.dumps(reader)), writer=parse(json.dumps(writer)))
    assert (verdict == []) == reads_all(writer, reader), verdict


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], max_examples=300)
@given(pairs())
def test_the_verdict_is_apache_avro_s(pair: tuple[Shown, Shown]) -> None:
    writer, reader = pair
    verdict = unreadable(reader=parse(json.dumps(reader)), writer=parse(json.dumps(writer)))
    checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # untyped there
    theirs = checker.get_compatibility(avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer)))
    assert (verdict == []) == (theirs.compatibility is avro.compatibility.SchemaCompatibilityType.compatible), verdict


@settings(deadline=None, max_examples=100)
@given(pairs())
def test_every_schema_reads_its_own_data(pair: tuple[Shown, Shown]) -> None:
    schema = parse(json.dumps(pair[0]))
    assert unreadable(reader=schema, writer=schema) == []
