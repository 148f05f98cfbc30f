"""Specifications of processors: names, parameters, what their results must look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams.model import PROCESSOR_KINDS, ProcessorKind, ProcessorSpec, Runtime, kind_named, resolve, row_function
from streams.watermark import Progress, from_metadata, to_metadata
from wardstream.errors import Invalid, NotFound
from wardstream.names import DatasetName, MemberName, ProjectName


def _spec(kind: str = "ecg_10s", **parameters: Any) -> ProcessorSpec:
    return kind_named(kind).spec(
        project=ProjectName("icu-west"),
        name=MemberName("ecg"),
        source=DatasetName("waveforms"),
        result=DatasetName("ecg_10s_1"),
        partitions=2,
        parameters=parameters,
    )


def test_internal_names_begin_with_the_processors_prefix() -> None:
    spec = _spec()
    assert spec.app_id == spec.group == "ws.icu-west.ecg.1.app"
    assert [topic.name for topic in spec.internal_topics()] == ["ws.icu-west.ecg.1.app-__assignor-__leader"]
    assert spec.dead_letter_topic == "icu-west.waveforms-dlq"


def test_a_spec_survives_a_file() -> None:
    spec = _spec(devices=["ecg-bed1"], lateness_ms=1000)
    again = ProcessorSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.window.lateness_ms == 1000


@pytest.mark.parametrize(
    "damage", [{"kind": "no_such"}, {"project": "ws-own"}, {"partitions": "many"}, {"parameters": {"lateness": 1}}, {"window": {}}]
)
def test_a_file_that_describes_no_processor_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises((Invalid, NotFound)):
        ProcessorSpec.from_json({**_spec().to_json(), **damage})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"latness_ms": 1}, "'latness_ms' is no parameter of ecg_10s; it has devices, idle_ms, lateness_ms"),
        ({"lateness_ms": "soon"}, "lateness_ms must be of the same type"),
        ({"lateness_ms": -1}, "lateness_ms must be at least 0, got -1"),
        ({"devices": "ecg-bed1"}, "devices must be a list of names"),
        ({"runtime": "flink"}, "ecg_10s runs on faust, not on 'flink'"),
        ({"lateness_ms": True}, "lateness_ms must be a number or text"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        _spec(**parameters)


def test_reads_run_on_both_runtimes() -> None:
    assert _spec("reads_1m").runtime is Runtime.FLINK
    assert _spec("reads_1m", runtime="faust").runtime is Runtime.FAUST


def test_an_unknown_kind_is_not_found_with_those_that_exist() -> None:
    with pytest.raises(NotFound, match="there are ecg_10s, reads_1m"):
        kind_named("eeg")


@pytest.mark.parametrize("kind", PROCESSOR_KINDS.values(), ids=list(PROCESSOR_KINDS))
def test_every_kind_names_functions_and_a_schema_that_exist(kind: ProcessorKind) -> None:
    assert callable(row_function(kind))
    assert resolve(kind.source_schema)["type"] == "record"
    assert bool(kind.window_function) != bool(kind.aggregates)


def test_a_reference_out_of_the_processors_is_refused() -> None:
    with pytest.raises(Invalid):
        resolve("os:system")


def test_a_result_must_have_exactly_the_columns() -> None:
    kind = kind_named("ecg_10s")
    features = {column.name: column.type for column in (*kind.primary_key, *kind.features)} | {"event_time": "timestamp"}
    kind.check_result(["device"], "event_time", features)
    with pytest.raises(Invalid, match="feature beats of type bigint in its result, got double"):
        kind.check_result(["device"], "event_time", {**features, "beats": "double"})
    with pytest.raises(Invalid, match="does not fill spo2"):
        kind.check_result(["device"], "event_time", {**features, "spo2": "double"})
    with pytest.raises(Invalid, match="primary key device and event time event_time"):
        kind.check_result(["patient"], "event_time", features)


@pytest.mark.parametrize("progress", [Progress(), Progress(7), Progress(12, -5), Progress(2**40, 1_795_000_000_000)])
def test_progress_survives_the_text_beside_an_offset(progress: Progress) -> None:
    assert from_metadata(to_metadata(progress)) == progress


def test_offsets_of_another_program_are_not_continued() -> None:
    assert from_metadata("") is from_metadata(None) is None
    with pytest.raises(Invalid, match="new state version"):
        from_metadata("checkpoint 3")
