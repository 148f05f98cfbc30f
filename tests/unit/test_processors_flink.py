"""The SQL of a processor on Flink, and which checkpoint it continues from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from featurestore.model import Feature, FeatureGroup, FeatureType
from streams.model import PROCESSOR_KINDS, ProcessorKind
from streams.runtimes.decoding import ResultEncoder
from streams.runtimes.flink import FlinkProgram, FlinkRuntime, job_configuration, job_name, program
from streams.runtimes.flink_cluster import FlinkCluster, newest_checkpoint, root_cause
from streams.runtimes.job import Connection, WorkerJob, job_from, read_job
from wardstream.errors import Invalid
from wardstream.names import DatasetName, GroupName, MemberName, ProjectName

_CONNECTION = Connection("127.0.0.1:9", "/pki/root.pem", "/pki/own.crt", "/pki/own.key", "https://127.0.0.1:8/registry", "/pki/own.pem")


def group_for(kind: ProcessorKind, project: str = "virology", version: int = 1) -> FeatureGroup:
    columns = [*kind.primary_key, *kind.features]
    features = [Feature(each.name, FeatureType(each.type), each.description) for each in columns]
    features.insert(len(kind.primary_key), Feature(kind.event_time, FeatureType.TIMESTAMP))
    keys = tuple(each.name for each in kind.primary_key)
    return FeatureGroup(ProjectName(project), GroupName(kind.name), version, keys, kind.event_time, tuple(features))


def _job(kind: str = "reads_1m", **parameters: Any) -> WorkerJob:
    spec = PROCESSOR_KINDS[kind].spec(
        project=ProjectName("virology"),
        name=MemberName("read-stats"),
        source=DatasetName("reads"),
        result=DatasetName(f"{kind}_1"),
        partitions=2,
        parameters=parameters,
    )
    return WorkerJob(spec, _CONNECTION)


def _program(**parameters: Any) -> FlinkProgram:
    return program(_job(**parameters))


def test_group_and_transactions_stay_under_the_processors_prefix() -> None:
    tables = " ".join(_program().tables)
    assert "'properties.group.id' = 'ws.virology.read-stats.1.source'" in tables
    assert "'sink.transactional-id-prefix' = 'ws.virology.read-stats.1.sink'" in tables
    assert "'sink.transactional-id-prefix' = 'ws.virology.read-stats.1.dlq'" in tables
    assert tables.count("'sink.delivery-guarantee' = 'exactly-once'") == 2


def test_flink_itself_asks_no_registry() -> None:
    assert "registry" not in " ".join(_program().tables)


def test_the_watermark_trails_by_the_lateness() -> None:
    assert _program(lateness_ms=5_000).watermark == "TO_TIMESTAMP_LTZ(d.ws_reached_ms - 5001, 3)"


def test_only_what_sql_cannot_say_is_called_in_python() -> None:
    assert _program().functions == ("ws_mean_quality", "ws_n50")


def test_a_kind_with_a_window_function_does_not_run_on_flink() -> None:
    with pytest.raises(Invalid, match="ecg_10s has a window function of its own and runs on Faust only"):
        program(_job("ecg_10s"))


def test_another_schema_than_the_kinds_is_refused() -> None:
    schema = group_for(PROCESSOR_KINDS["reads_1m"]).avro_schema()
    schema["fields"] = schema["fields"][:-1]
    with pytest.raises(Invalid, match=r"virology\.reads_1m_1 has the columns .*; reads_1m writes .*gc"):
        ResultEncoder(_job().spec, 1, json.dumps(schema))


def test_the_newest_checkpoint_is_the_newest_complete_one(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for number, (job, chk, complete) in enumerate([("old", "chk-90", True), ("new", "chk-4", True), ("new", "chk-5", False)]):
        folder = tmp_path / job / chk
        folder.mkdir(parents=True)
        if complete:
            (folder / "_metadata").touch()
            os.utime(folder / "_metadata", (1000 + number, 1000 + number))
    assert newest_checkpoint(tmp_path) == tmp_path / "new" / "chk-4"


def test_checkpoints_of_earlier_submissions_stay_until_the_new_one_has_its_own(tmp_path: Path) -> None:
    cluster = FlinkCluster(tmp_path, java=Path("java"), environment={})
    runtime, spec = FlinkRuntime(cluster, jars=tmp_path, folder=tmp_path), _job().spec
    checkpoints = cluster.checkpoints / job_name(spec)
    old, new = checkpoints / "old" / "chk-90", checkpoints / "new" / "chk-1"
    for folder in (old, new):
        folder.mkdir(parents=True)
    (old / "_metadata").touch()
    runtime.sweep(spec, "new")
    assert newest_checkpoint(checkpoints) == old
    (new / "_metadata").touch()
    runtime.sweep(spec, "new")
    assert [path.name for path in checkpoints.iterdir()] == ["new"]
    runtime.forget(spec)
    runtime.forget(spec)
    assert not checkpoints.exists()


def test_every_process_of_the_cluster_and_each_submission_gets_what_children_get(tmp_path: Path) -> None:
    cluster = FlinkCluster(tmp_path, java=Path("java"), environment={"STACK_HOME": "/srv/stack"})
    assert cluster.process_environment()["STACK_HOME"] == cluster.client_environment()["STACK_HOME"] == "/srv/stack"


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        ("", ""),
        ("java.lang.OutOfMemoryError: Metaspace\n\tat a.b", "java.lang.OutOfMemoryError"),
        (
            "o.a.f.FlinkException: Global failure\n\tat a.b\nCaused by: java.lang.RuntimeException: x\n\tat c\n"
            "Caused by: org.apache.kafka.common.errors.TopicAuthorizationException: Not authorized to access topics: [icu.ecg]\n\t... 3 more",
            "org.apache.kafka.common.errors.TopicAuthorizationException: Not authorized to access topics: [icu.ecg]",
        ),
        (
            "a.b: c\nCaused by: pemja.core.PythonException: <class 'wardstream.errors.Unavailable'>: no answer\n\tat",
            "pemja.core.PythonException: <class 'wardstream.errors.Unavailable'>: no answer",
        ),
        ("a.b: c\nCaused by: java.lang.NumberFormatException: For input string: anna-svensson\n", "java.lang.NumberFormatException"),
    ],
)
def test_the_reason_of_a_restart_is_its_innermost_cause_without_what_may_be_a_records(trace: str, cause: str) -> None:
    assert root_cause(trace) == cause


def test_a_job_continues_from_the_checkpoint_it_is_given(tmp_path: Path) -> None:
    spec = _job().spec
    assert job_name(spec) == "ws.virology.read-stats.1"
    assert "execution.state-recovery.path" not in job_configuration(spec, tmp_path, None)
    assert job_configuration(spec, tmp_path, tmp_path / "chk-4")["execution.state-recovery.path"] == f"file://{tmp_path}/chk-4"


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "processor.json"
    file.write_text(_job(devices=["nanopore-1"]).to_json())
    assert read_job(file) == _job(devices=["nanopore-1"])


def test_a_file_that_is_no_job_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "processor.json"
    file.write_text("{")
    with pytest.raises(Invalid, match=r"processor\.json is not JSON"):
        read_job(file)
    with pytest.raises(Invalid, match="not a worker's job"):
        job_from({"spec": _job().spec.to_json()})
