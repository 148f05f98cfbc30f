"""From a record's bytes to a measurement, and from a row to a record's bytes: the same code for every runtime.

Whatever is wrong with a record ends as `Unusable` with its reason; only a registry that does not answer is raised as what it is,
because then nothing is known about the record.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fastavro

from featurestore.model import record_key
from streams.model import Measurement, Parameter, ProcessorKind, ProcessorSpec, Unusable, kind_named, resolve, row_function
from streams.runtimes.job import Connection
from streams.windows import Window
from wardstream.client.transport import Transport
from wardstream.errors import Denied, Invalid, NotFound
from wardstream.names import SubjectName, value_subject

_PREFIX = 5
# A schema that is not there yet may be registered in a moment, but a flood of broken records must not flood the registry.
_UNKNOWN_SECONDS = 5.0

CLOSING_HEADER = "ws.closing"
LATE = "late: the window it belongs to was closed before it came"


class Registry:
    """Schemas by id and the newest of a subject, over the INSIDE door; keeps what it has seen."""

    def __init__(self, transport: Transport, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._monotonic = monotonic
        self._schemas: dict[int, str] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, number: int) -> str:
        """Return a schema's text; raises `NotFound` for one that does not exist, `Unavailable` when nobody answers."""
        if number in self._schemas:
            return self._schemas[number]
        if self._unknown.get(number, -math.inf) > self._monotonic():
            raise NotFound(f"schema id {number} is not known")
        try:
            found = self._transport.json("GET", f"/schemas/ids/{number}")
        except (NotFound, Denied) as error:
            self._unknown[number] = self._monotonic() + _UNKNOWN_SECONDS
            raise NotFound(f"schema id {number} is not known") from error
        self._schemas[number] = str(found["schema"])
        return self._schemas[number]

    def newest(self, subject: SubjectName) -> tuple[int, str]:
        """Return id and text of a subject's newest schema; raises `NotFound`."""
        found = self._transport.json("GET", f"/subjects/{subject}/versions/latest")
        return int(found["id"]), str(found["schema"])


def registry_of(connection: Connection) -> Registry:
    """Return the registry as the processor's own service sees it."""
    certificate = (Path(connection.certificate_file), Path(connection.key_file))
    return Registry(
        Transport(connection.registry_url, ca_file=Path(connection.ca_file), certificate=certificate, door=True, timeout_seconds=10.0)
    )


class RecordDecoder:
    """Decodes records of one processor's source. What it says of a record depends on the log and the registry alone, whenever it is asked."""

    def __init__(self, kind: ProcessorKind, parameters: Mapping[str, Parameter], schema_of: Callable[[int], str]) -> None:
        self._schema_of = schema_of
        self._measure = row_function(kind)
        self._parameters = parameters
        self._max_ahead_ms = int(str(parameters["max_ahead_ms"]))
        self._reader = _plain(resolve(kind.source_schema))
        self._readers: dict[int, Callable[[io.BytesIO], Any] | str] = {}

    def decode(self, value: bytes | None, *, arrived_ms: int, closing: bool = False) -> Measurement:
        """Return the measurement in a record's value; `closing` says that its header ends a replay. Raises `Unusable`.

        `arrived_ms` is the broker's time of the record.
        """
        record = self._record(value)
        try:
            measurement = self._measure(record, self._parameters)
        except Unusable:
            raise
        except Exception as error:
            raise Unusable(f"the record cannot be measured: {type(error).__name__}") from error
        if closing:
            measurement = Measurement(measurement.key, measurement.event_ms, closing=True)
        return placed_in_time(measurement, arrived_ms, self._max_ahead_ms)

    def _record(self, value: bytes | None) -> Mapping[str, Any]:
        if not value:
            raise Unusable("the record has no value")
        if value[0] != 0 or len(value) < _PREFIX:
            raise Unusable("not Avro: a value begins with a zero byte and the schema's id")
        number = int.from_bytes(value[1:_PREFIX], "big")
        read = self._reader_of(number)
        if isinstance(read, str):
            raise Unusable(read)
        content = io.BytesIO(value)
        content.seek(_PREFIX)
        try:
            record = read(content)
        except (MemoryError, RecursionError, Exception) as error:
            # fastavro raises whatever its decoders run into; the datum is broken in every case.
            raise Unusable(f"the value does not fit its schema {number}: {type(error).__name__}") from error
        if content.tell() != len(value):
            raise Unusable(f"the value does not fit its schema {number}: {len(value) - content.tell()} bytes are left over")
        for name, field in record.items():
            if isinstance(field, float) and not math.isfinite(field):
                raise Unusable(f"{name} is NaN or infinite")
        found: Mapping[str, Any] = record
        return found

    def _reader_of(self, number: int) -> Callable[[io.BytesIO], Any] | str:
        if number not in self._readers:
            try:
                text = self._schema_of(number)
            except NotFound:
                return f"schema id {number} is not known"
            self._readers[number] = self._make_reader(number, text)
        return self._readers[number]

    def _make_reader(self, number: int, text: str) -> Callable[[io.BytesIO], Any] | str:
        """Return a function that reads one datum written with this schema, or why there is none."""
        wanted = str(self._reader.get("name"))
        try:
            writer = fastavro.parse_schema(_plain(json.loads(text)))
            if not isinstance(writer, dict) or writer.get("type") != "record":
                return f"schema {number} is not a record"
            missing = [
                field["name"]
                for field in self._reader["fields"]
                if "default" not in field and field["name"] not in {written["name"] for written in writer["fields"]}
            ]
        except (ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException) as error:
            return f"schema {number} cannot be parsed: {type(error).__name__}"
        if missing:
            return f"schema {number} cannot be read as {wanted}: it lacks {', '.join(missing)}"
        # Names may differ between writer and reader; Avro resolves fields only under one name.
        reader = fastavro.parse_schema({**self._reader, "name": writer["name"], "namespace": ""})
        return partial(_read, writer, reader)


def placed_in_time(measurement: Measurement, arrived_ms: int, max_ahead_ms: int) -> Measurement:
    """Return the measurement with the time at which its record arrived; raises `Unusable` where its own time cannot be right.

    Judged by the broker's time of the record: by the reader's clock, the same record would be judged otherwise after a restart.
    """
    ahead = measurement.event_ms - arrived_ms
    if ahead > max_ahead_ms:
        raise Unusable(
            f"its event time is {ahead / 1000:.0f} s ahead of its time of arrival, at most {max_ahead_ms / 1000:g} s are allowed"
        )
    if measurement.event_ms < 0:
        raise Unusable("its event time lies before 1970")
    return replace(measurement, arrived_ms=arrived_ms)


class ResultEncoder:
    """Encodes rows for a feature group's topic."""

    def __init__(self, spec: ProcessorSpec, number: int, schema: str) -> None:
        kind = kind_named(spec.kind)
        self._event_time = kind.event_time
        self._primary_key = [column.name for column in kind.primary_key]
        self._prefix = b"\x00" + number.to_bytes(4, "big")
        parsed = json.loads(schema)
        fields = {field["name"] for field in parsed["fields"]}
        wanted = {*self._primary_key, self._event_time, *(column.name for column in kind.features)}
        if fields != wanted:
            raise Invalid(
                f"{spec.result_topic} has the columns {', '.join(sorted(fields))}; {kind.name} writes {', '.join(sorted(wanted))}"
            )
        self._schema = fastavro.parse_schema(parsed)

    def encode(self, key: Sequence[str], window: Window, features: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return key and value of the record for one closed window; its event time is the window's end."""
        row = {**features, **dict(zip(self._primary_key, key, strict=True)), self._event_time: window.end_ms}
        content = io.BytesIO()
        content.write(self._prefix)
        fastavro.schemaless_writer(content, self._schema, row)
        # Record keys have one order of columns, whatever order the group names them in.
        return record_key([row[name] for name in sorted(self._primary_key)]), content.getvalue()


def encoder_of(spec: ProcessorSpec, registry: Registry) -> ResultEncoder:
    """Return the encoder for the newest schema of the result's subject; raises `NotFound` or `Invalid` if it does not fit."""
    number, schema = registry.newest(value_subject(spec.result_topic))
    return ResultEncoder(spec, number, schema)


def _read(writer: Any, reader: Any, content: io.BytesIO) -> Any:
    return fastavro.schemaless_reader(content, writer, reader)


def _plain(schema: Any) -> Any:
    """Return `schema` without logical types, so that times stay the whole numbers that they are on the wire."""
    if isinstance(schema, Mapping):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, (list, tuple)):
        return [_plain(part) for part in schema]
    return schema
