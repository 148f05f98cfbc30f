"""Submits one job to Flink: `python -m streams.runtimes.flink_submit`, the request as JSON on standard input, the job's id on output.

A process of its own, because PyFlink starts a Java process and takes 300 MB that no server should carry.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from streams.model import kind_named
from streams.runtimes.flink import FlinkProgram, program
from streams.runtimes.job import WorkerJob, job_from


def submit(request: dict[str, Any]) -> str:
    """Submit the job and return its id as soon as the cluster has taken it; it may still fail later."""
    # PyFlink's compiled modules are built against an older beam; fields were only added to these classes.
    warnings.filterwarnings("ignore", message=".*size changed, may indicate binary incompatibility")
    from pyflink.common import Configuration
    from pyflink.datastream import DataStream, StreamExecutionEnvironment
    from pyflink.java_gateway import get_gateway
    from pyflink.table import Schema, StreamTableEnvironment

    job = job_from(request["job"])
    wanted = program(job)
    configuration = Configuration()
    jars = ";".join(f"file://{jar}" for jar in request["jars"])
    for name, value in {**request["configuration"], "pipeline.jars": jars}.items():
        configuration.set_string(name, value)
    # Not `get_execution_environment`, which always makes a cluster of its own: the plain constructor looks at execution.target.
    made = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment(configuration._j_configuration)
    tables = StreamTableEnvironment.create(StreamExecutionEnvironment(made))
    _register(tables, job, wanted, request["result_schema"])
    for statement in wanted.tables:
        tables.execute_sql(statement)
    # SQL can put a watermark only on a table, so what the decoder found takes a turn as a stream.
    decoded = tables.to_data_stream(tables.sql_query(wanted.decode))
    timed = Schema.new_builder().column_by_expression("et", "TO_TIMESTAMP_LTZ(d.ws_event_ms, 3)").watermark("et", wanted.watermark).build()
    tables.create_temporary_view("decoded", tables.from_data_stream(decoded, timed))
    judged = tables.to_data_stream(tables.sql_query(wanted.judged))
    # From here on one subtask, which knows the watermarks of all partitions. Behind it records, watermarks and idleness keep their
    # order: with several, one that wakes from idleness moves the windows on while another's records are still under way, and
    # Flink drops those without a word.
    made.setParallelism(1)
    merged = DataStream(getattr(judged._j_data_stream, "global")())
    merged._j_data_stream.getTransformation().setParallelism(1)
    onward = Schema.new_builder().watermark("et", "SOURCE_WATERMARK()").build()
    tables.create_temporary_view("merged", tables.from_data_stream(merged, onward))
    for name, query in wanted.views:
        tables.create_temporary_view(name, tables.sql_query(query))
    inserts = tables.create_statement_set()
    for statement in wanted.inserts:
        inserts.add_insert_sql(statement)
    return str(inserts.execute().get_job_client().get_job_id())


def _register(tables: Any, job: WorkerJob, wanted: FlinkProgram, schema: Mapping[str, Any]) -> None:
    from pyflink.table import DataTypes
    from pyflink.table.udf import udf

    from streams.runtimes import flink_functions

    kind = kind_named(job.spec.kind)
    kinds = {
        "ws_n50": (flink_functions.N50, DataTypes.BIGINT()),
        "ws_mean": (flink_functions.Mean, DataTypes.DOUBLE()),
        "ws_mean_quality": (flink_functions.MeanQuality, DataTypes.DOUBLE()),
    }
    decode = udf(flink_functions.Decode(job.to_json()), result_type=flink_functions.decoded_type((*kind.primary_key, *kind.values)))
    tables.create_temporary_function("ws_decode", decode)
    tables.create_temporary_function("ws_record_key", udf(flink_functions.RecordKey(), result_type=DataTypes.BYTES()))
    encode = udf(flink_functions.RecordValue(job.to_json(), int(schema["id"]), schema["text"]), result_type=DataTypes.BYTES())
    tables.create_temporary_function("ws_record_value", encode)
    tables.create_temporary_function("ws_fits", udf(flink_functions.Fits(), result_type=DataTypes.BOOLEAN()))
    for name in wanted.functions:
        function, result = kinds[name]
        tables.create_temporary_function(name, udf(function(), result_type=result))


def main() -> int:
    """Read the request, submit, print the id as the last line."""
    print(json.dumps({"job_id": submit(json.load(sys.stdin))}))  # noqa: T201  # the answer to the calling process
    return 0


if __name__ == "__main__":
    sys.exit(main())
