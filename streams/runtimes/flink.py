"""Processors on Flink: the SQL of a processor, its submission, and keeping it running.

The job reads raw values and decodes them in Python, because Flink's own Avro format stops the whole job at the first broken record;
here such a record goes to the dead letters with its reason, as on Faust. Windows, repeats and sums are SQL. Rows are
encoded in Python as well, by the schema that the job was submitted with, so that the cluster asks the registry nothing in its own name:
Flink's format could not prove its certificate's key. They leave in a transaction with each checkpoint: a killed job neither loses nor
repeats any.

Late means the same as on Faust: judged in each partition by itself, by the order of its records. One more judgement follows where
the partitions meet, for a partition that was silent for `idle_ms` and then brings old records: Flink would drop them without a word.
"""

# ruff: noqa: S608 - every part of the SQL is a name that passed its parser, or quoted by `_q` or `_text`

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.aggregates import function_named
from streams.letters import TOO_LARGE
from streams.model import ProcessorKind, ProcessorSpec, kind_named
from streams.runtimes.decoding import CLOSING_HEADER, LATE, ResultEncoder, registry_of
from streams.runtimes.flink_cluster import JOB_MANAGER, FlinkCluster, JobState, newest_checkpoint
from streams.runtimes.job import Connection, WorkerJob
from wardstream.errors import Invalid, Unavailable
from wardstream.kafka import MOST_LETTER_BYTES
from wardstream.names import value_subject

logger = logging.getLogger(__name__)

# Results of a job that feeds the online store appear with its checkpoints.
CHECKPOINT_MS = 500
# 11 s of processor time, most of it planning; a busy machine has taken three minutes.
_SUBMIT_SECONDS = 300.0
_LOOK_SECONDS = 0.5
_STOP_SECONDS = 20.0
_ENDED = frozenset({"CANCELED", "FAILED", "FINISHED", "SUSPENDED"})
_ALIVE = frozenset({"INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "RECONCILING", "FAILING"})


@dataclass(frozen=True)
class FlinkProgram:
    """What the submitting process does, in order; every part is text made from names that passed their parsers.

    `tables` are created. `decode` is read as a stream with the time `et` and `watermark`, as view `decoded`; `judged` is read as a
    stream whose partitions are brought together, as view `merged`; `views` are made of it; `inserts` run as one job.
    """

    tables: tuple[str, ...]
    decode: str
    watermark: str
    judged: str
    views: tuple[tuple[str, str], ...]
    inserts: tuple[str, ...]
    functions: tuple[str, ...]


def program(job: WorkerJob) -> FlinkProgram:
    """Return the program of a processor whose kind has aggregates."""
    spec, kind = job.spec, kind_named(job.spec.kind)
    if kind.window_function is not None:
        raise Invalid(f"{kind.name} has a window function of its own and runs on Faust only")
    values = ", ".join(f"d.{_q(column.name)}" for column in (*kind.primary_key, *kind.values))
    judged = (
        "SELECT k, v, p, o, et, d.ws_reason AS ws_reason, d.ws_event_ms AS ws_event_ms, d.ws_closing AS ws_closing, "
        "CASE WHEN d.ws_identity = '' THEN CAST(p AS STRING) || ':' || CAST(o AS STRING) ELSE d.ws_identity END AS ws_identity, "
        f"{values}, {_late(spec, 'd.')} AS late FROM decoded"
    )
    reason = f"CASE WHEN fits THEN '' ELSE {_text(TOO_LARGE)} END || CASE WHEN ws_reason <> '' THEN ws_reason ELSE '{LATE}' END"
    called = {function_named(each.function, len(each.columns)).python_function for each in kind.aggregates}
    return FlinkProgram(
        tables=(_source(job), _sink(job), _dead_letters(job)),
        decode="SELECT k, v, p, o, ws_decode(v, closing, arrived_ms) AS d FROM source",
        watermark=f"TO_TIMESTAMP_LTZ(d.ws_reached_ms - {spec.window.lateness_ms + 1}, 3)",
        judged=judged,
        views=(
            ("checked", f"SELECT *, late OR {_late(spec)} AS too_late FROM merged"),
            ("usable", "SELECT * FROM checked WHERE ws_reason = '' AND NOT ws_closing AND NOT too_late"),
        ),
        inserts=(
            _insert_rows(spec, kind),
            f"INSERT INTO dead_letters SELECT CASE WHEN fits THEN k END, CASE WHEN fits THEN v END, {_headers(spec, reason)} "
            "FROM (SELECT *, ws_fits(k, v) AS fits FROM checked WHERE ws_reason <> '' OR too_late)",
        ),
        functions=tuple(sorted(name for name in called if name)),
    )


class FlinkRuntime:
    """Keeps jobs running on one cluster."""

    def __init__(self, cluster: FlinkCluster, *, jars: Path, folder: Path) -> None:
        self._cluster = cluster
        self._jars = jars
        self._folder = folder

    def ensure(self, job: WorkerJob) -> str:
        """Return the id of the job that runs this processor, started if there is none. Harmless when repeated.

        A job that the cluster does not know (a new cluster, or one that ended) is submitted from its newest complete
        checkpoint; without one it reads its source from the beginning. Raises `Unavailable` when Flink or the registry is away.
        """
        self._cluster.start()
        for found in self._cluster.jobs():
            if found.name == job_name(job.spec) and found.state in _ALIVE:
                return found.id
        return self._submit(job)

    def job(self, spec: ProcessorSpec) -> JobState | None:
        """Return the processor's job as Flink sees it, the one that is alive if there is one, None where the cluster knows none."""
        jobs = [found for found in self._cluster.jobs() if found.name == job_name(spec)]
        alive = [found for found in jobs if found.state in _ALIVE]
        return next(iter(alive or jobs), None)

    def stop(self, spec: ProcessorSpec) -> None:
        """End the processor's job and return when it has ended; its newest checkpoint stays, and `ensure` continues from it."""
        deadline = time.monotonic() + _STOP_SECONDS
        while running := [found for found in self._cluster.jobs() if found.name == job_name(spec) and found.state not in _ENDED]:
            for found in running:
                if found.state in _ALIVE:
                    self._cluster.cancel(found.id)
            if time.monotonic() > deadline:
                raise Unavailable(f"{spec.name} did not end on Flink within {_STOP_SECONDS:g} s")
            time.sleep(0.1)

    def sweep(self, spec: ProcessorSpec, job: str) -> None:
        """Remove the checkpoints of earlier submissions once `job`, which runs, has its own; until then it may need them."""
        own = self._checkpoints(spec) / job
        if not any(own.glob("chk-*/_metadata")):
            return
        for other in self._checkpoints(spec).iterdir():
            if other != own:
                shutil.rmtree(other, ignore_errors=True)

    def forget(self, spec: ProcessorSpec) -> None:
        """Remove the checkpoints of a processor that will never run again; harmless where there are none."""
        shutil.rmtree(self._checkpoints(spec), ignore_errors=True)

    def _checkpoints(self, spec: ProcessorSpec) -> Path:
        return self._cluster.checkpoints / job_name(spec)

    def _submit(self, job: WorkerJob) -> str:
        number, schema = registry_of(job.connection).newest(value_subject(job.spec.result_topic))
        # Raises here rather than on the cluster where the group has other columns.
        ResultEncoder(job.spec, number, schema)
        checkpoint = newest_checkpoint(self._checkpoints(job.spec))
        request = {
            "job": json.loads(job.to_json()),
            "result_schema": {"id": number, "text": schema},
            "configuration": {**self._cluster.submission(), **job_configuration(job.spec, self._checkpoints(job.spec), checkpoint)},
            "jars": [str(jar) for jar in sorted(self._jars.glob("*.jar"))],
        }
        answer = self._answer_of_submitter(job.spec.name, json.dumps(request))
        submitted = str(json.loads(answer.strip().splitlines()[-1])["job_id"])
        logger.info("flink job submitted", extra={"processor": job.spec.name, "job": submitted, "checkpoint": str(checkpoint or "")})
        return submitted

    def _answer_of_submitter(self, name: str, request: str) -> str:
        """Return what the submitting process printed; it is ended when the job manager that it speaks to ends."""
        command = [sys.executable, "-m", "streams.runtimes.flink_submit"]
        deadline = time.monotonic() + _SUBMIT_SECONDS
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._cluster.client_environment(),
            text=True,
        ) as submitter:
            # Through standard input: it holds the cluster's password.
            left: str | None = request
            while True:
                try:
                    output, errors = submitter.communicate(left, timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    left = None
                    if JOB_MANAGER not in self._cluster.alive():
                        failure = f"{name} could not be submitted: Flink's job manager ended meanwhile"
                    elif time.monotonic() > deadline:
                        failure = f"{name} could not be submitted to Flink within {_SUBMIT_SECONDS:g} s"
                    else:
                        continue
                    submitter.kill()
                    raise Unavailable(failure) from None
        if submitter.returncode != 0:
            raise Unavailable(f"{name} could not be submitted to Flink; the log of stream-worker says why", output=errors[-4000:])
        return output


def job_name(spec: ProcessorSpec) -> str:
    """Return the name by which the job is found again."""
    return spec.internals.rstrip(".")


def job_configuration(spec: ProcessorSpec, checkpoints: Path, checkpoint: Path | None) -> Mapping[str, str]:
    """Return what a job is submitted with. The checkpoint interval counts only here, not in the cluster's configuration."""
    configuration = {
        "pipeline.name": job_name(spec),
        "python.execution-mode": "thread",
        "execution.checkpointing.interval": f"{CHECKPOINT_MS} ms",
        "execution.checkpointing.timeout": "60 s",
        "execution.checkpointing.dir": f"file://{checkpoints}",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        # One subtask a partition, so that each has its own watermark.
        "parallelism.default": str(spec.partitions),
        # With each record that moves it: then what is late depends on the records alone, not on a timer.
        "pipeline.auto-watermark-interval": "0 ms",
        "table.exec.source.idle-timeout": f"{int(str(spec.parameters['idle_ms']))} ms",
        "table.local-time-zone": "UTC",
    }
    if checkpoint is not None:
        configuration["execution.state-recovery.path"] = f"file://{checkpoint}"
    return configuration


def _source(job: WorkerJob) -> str:
    return _table(
        "source",
        [
            "k BYTES",
            "v BYTES",
            "p INT METADATA FROM 'partition' VIRTUAL",
            "o BIGINT METADATA FROM 'offset' VIRTUAL",
            "headers MAP<STRING, BYTES> METADATA VIRTUAL",
            f"closing AS COALESCE(headers['{CLOSING_HEADER}'] IS NOT NULL, FALSE)",
            "arrived TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL",
            "arrived_ms AS EXTRACT(EPOCH FROM arrived) * 1000 + EXTRACT(MILLISECOND FROM arrived)",
        ],
        {
            **_kafka(job.connection),
            "topic": job.spec.source_topic,
            "key.format": "raw",
            "key.fields": "k",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
            "scan.startup.mode": "earliest-offset",
            "properties.group.id": f"{job.spec.internals}source",
            "properties.isolation.level": "read_committed",
        },
    )


def _sink(job: WorkerJob) -> str:
    return _table(
        "sink",
        ["ws_key BYTES", "ws_value BYTES"],
        {
            **_kafka(job.connection),
            **_exactly_once(job.spec, "sink"),
            "topic": job.spec.result_topic,
            "key.format": "raw",
            "key.fields": "ws_key",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
        },
    )


def _dead_letters(job: WorkerJob) -> str:
    return _table(
        "dead_letters",
        ["k BYTES", "v BYTES", "headers MAP<STRING, BYTES> METADATA"],
        {
            **_kafka(job.connection),
            **_exactly_once(job.spec, "dlq"),
            "topic": job.spec.dead_letter_topic,
            "key.format": "raw",
            "key.fields": "k",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
        },
    )


def _insert_rows(spec: ProcessorSpec, kind: ProcessorKind) -> str:
    if spec.window.size_ms % 1000:
        raise Invalid(f"windows on Flink last whole seconds, got {spec.window.size_ms} ms")
    keys = [column.name for column in kind.primary_key]
    values = ["1000 * EXTRACT(EPOCH FROM CAST(window_end AS TIMESTAMP_LTZ(3)))", *(_q(name) for name in keys)]
    for aggregate in kind.aggregates:
        sql = function_named(aggregate.function, len(aggregate.columns)).sql
        values.append(sql.format(*(_q(name) for name in aggregate.columns)))
    key_list = ", ".join(_q(name) for name in keys)
    windows = f"TABLE(TUMBLE(TABLE usable, DESCRIPTOR(et), INTERVAL '{spec.window.size_ms // 1000}' SECOND(9)))"
    # The first of equal records of a window counts; a repeat is not late, it is simply known.
    numbered = f"ROW_NUMBER() OVER (PARTITION BY window_start, window_end, {key_list}, ws_identity ORDER BY et ASC)"
    return (
        f"INSERT INTO sink SELECT ws_record_key({', '.join(_q(name) for name in sorted(keys))}), ws_record_value({', '.join(values)}) "
        f"FROM (SELECT *, {numbered} AS ws_number FROM {windows}) WHERE ws_number = 1 GROUP BY window_start, window_end, {key_list}"
    )


def _late(spec: ProcessorSpec, row: str = "") -> str:
    """Whether the record's window is closed. Flink closes one a millisecond before its end: its watermark means "nothing at or before"."""
    size = spec.window.size_ms
    last = f"{row}ws_event_ms - MOD({row}ws_event_ms, {size}) + {size - 1}"
    return f"COALESCE({row}ws_reason = '' AND NOT {row}ws_closing AND TO_TIMESTAMP_LTZ({last}, 3) <= CURRENT_WATERMARK(et), FALSE)"


def _headers(spec: ProcessorSpec, reason: str) -> str:
    texts = {
        "ws.reason": reason,
        "ws.topic": f"'{spec.source_topic}'",
        "ws.partition": "CAST(p AS STRING)",
        "ws.offset": "CAST(o AS STRING)",
        "ws.processor": f"'{spec.name}'",
        "ws.at": "CAST(UNIX_TIMESTAMP() * 1000 AS STRING)",
    }
    return "MAP[" + ", ".join(f"'{name}', CAST({text} AS BYTES)" for name, text in texts.items()) + "]"


def _kafka(connection: Connection) -> dict[str, str]:
    return {
        "connector": "kafka",
        "properties.bootstrap.servers": connection.bootstrap_servers,
        "properties.security.protocol": "SSL",
        "properties.ssl.truststore.type": "PEM",
        "properties.ssl.truststore.location": connection.ca_file,
        "properties.ssl.keystore.type": "PEM",
        "properties.ssl.keystore.location": connection.bundle_file,
    }


def _exactly_once(spec: ProcessorSpec, name: str) -> dict[str, str]:
    return {
        "sink.delivery-guarantee": "exactly-once",
        "sink.transactional-id-prefix": f"{spec.internals}{name}",
        # At most the broker's 15 minutes; longer than a checkpoint gap and a restart together.
        "properties.transaction.timeout.ms": "600000",
        "sink.parallelism": "1",
        "properties.max.request.size": str(MOST_LETTER_BYTES),
    }


def _table(name: str, columns: Sequence[str], options: Mapping[str, Any]) -> str:
    quoted = ", ".join(f"{_text(key)} = {_text(str(value))}" for key, value in options.items())
    return f"CREATE TABLE {name} ({', '.join(columns)}) WITH ({quoted})"


def _q(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
