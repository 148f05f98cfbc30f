"""A processor of a built-in kind in a project of its own, the records sent to it, and what must come of them."""

import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import fastavro
import pyarrow as pa

from streams.letters import TOO_LARGE, letter
from streams.model import PROCESSOR_KINDS, ProcessorSpec, Runtime, resolve
from streams.runtimes.decoding import CLOSING_HEADER, RecordDecoder
from streams.testing import Entry, Logged, Outcome, Place, RowKey, entries, reference
from tests.support.stack import NewProject, Person, RunningStack, fresh
from tests.support.waiting import eventually
from topics.deadletter import parse
from wardstream.client.features import Feature
from wardstream.errors import NotFound, WardstreamError
from wardstream.names import DatasetName, MemberName, ProjectName

SOURCE = "signals"
PROCESSOR = "watcher"
_KEY = b"monitor-1"


@contextmanager
def replaying(stack: RunningStack, kind: str, *, partitions: int = 2, **parameters: Any) -> Iterator["Replay"]:
    """Give a deployed processor in a new project, and remove it afterwards."""
    replay = Replay(stack, kind, partitions=partitions, **parameters)
    try:
        yield replay
    finally:
        replay.close()


class Replay:
    """A deployed processor. Every record is sent to a partition that the test chooses, so that its log is known."""

    def __init__(self, stack: RunningStack, kind: str, *, partitions: int = 2, **parameters: Any) -> None:
        self.kind = PROCESSOR_KINDS[kind]
        self.stack = stack
        self.project: NewProject = stack.new_project(fresh("rp")[:12])
        self.topic = self.project.create_topic(SOURCE, partitions=partitions)
        self.logs: list[list[Logged]] = [[] for _ in range(partitions)]
        self.owner: Person = self.project.owner
        columns = [(each.name, each.type) for each in self.kind.primary_key]
        columns += [(self.kind.event_time, "timestamp"), *((each.name, each.type) for each in self.kind.features)]
        self.group = self.owner.project.get_feature_store().create_feature_group(
            kind,
            primary_key=[each.name for each in self.kind.primary_key],
            event_time=self.kind.event_time,
            features=[Feature(name, type_) for name, type_ in columns],
        )
        schema = json.dumps(resolve(self.kind.source_schema))
        answer = self.owner.connection.transport.json("POST", f"/registry/subjects/{self.topic}-value/versions", json={"schema": schema})
        self.schema_id = int(answer["id"])
        self._schema, self._parsed = schema, fastavro.parse_schema(json.loads(schema))
        self.device = self.project.add("monitor-1", "device", writes=[SOURCE])
        self.processors = self.owner.project.processors
        self.processors.deploy(PROCESSOR, kind=kind, source=SOURCE, result=f"{kind}_1", parameters=parameters)
        self.spec: ProcessorSpec = self.kind.spec(
            project=ProjectName(self.project.name),
            name=MemberName(PROCESSOR),
            source=DatasetName(SOURCE),
            result=DatasetName(f"{kind}_1"),
            partitions=partitions,
            parameters=parameters,
        )

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Return the value of a record as a device would send it."""
        content = io.BytesIO()
        content.write(b"\x00" + self.schema_id.to_bytes(4, "big"))
        fastavro.schemaless_writer(content, self._parsed, record)
        return content.getvalue()

    def send(self, partition: int, values: Sequence[bytes | None], *, closing: bool = False) -> None:
        """Send `values` to `partition` as the device and return when all are acknowledged."""
        client = self._producer
        headers = [(CLOSING_HEADER, b"1")] if closing else []
        failures: list[object] = []
        delivered: list[Any] = []

        def report(error: object, message: Any) -> None:
            (failures if error else delivered).append(error or message)

        for value in values:
            client.produce(self.topic, key=_KEY, value=value, headers=headers, partition=partition, on_delivery=report)
        assert client.flush(30) == 0
        assert not failures, failures
        # The broker's time, which it says with its acknowledgement.
        self.logs[partition] += [Logged(message.value(), message.timestamp()[1], closing) for message in delivered]

    @property
    def _producer(self) -> Any:
        if not hasattr(self, "_client"):
            # Also records that are larger than any topic takes, and come compressed.
            self._client = self.device.producer(linger_ms=5, message_max_bytes=32 << 20)
        return self._client

    def entries(self) -> list[list[Entry]]:
        """Return what the decoder makes of the records sent so far."""
        decoder = RecordDecoder(self.kind, self.spec.parameters, self._schema_of)
        return [entries(decoder, log) for log in self.logs]

    def _schema_of(self, number: int) -> str:
        if number != self.schema_id:
            raise NotFound(f"schema id {number} is not known")
        return self._schema

    def close(self) -> None:
        """Remove the processor, so that it takes no time from other tests."""
        with suppress(WardstreamError):
            self.processors.remove(PROCESSOR)

    def expected(self) -> Outcome:
        """Return what must come of the records sent so far, by brute force."""
        return reference(self.spec, self.entries(), joined=self.spec.runtime.value == "flink")

    def table(self) -> dict[RowKey, Mapping[str, Any]]:
        """Return the feature group's offline rows."""
        return rows_of(self.group.read(), self.kind.primary_key, self.kind.event_time)

    def wait_for(self, expected: Outcome, *, within: float = 90.0) -> None:
        """Return when the table and the dead letters are exactly as expected; fails with the difference after `within` seconds."""

        def arrived() -> bool:
            rows = self.table()
            missing, extra = expected.rows.keys() - rows.keys(), rows.keys() - expected.rows.keys()
            assert not missing, f"{len(missing)} of {len(expected.rows)} rows are missing; {self._state()}"
            assert not extra, f"{len(extra)} rows too many"
            wrong = [key for key, row in expected.rows.items() if not equal(rows[key], row)]
            assert not wrong, f"{len(wrong)} rows differ, such as {rows[wrong[0]]} for {expected.rows[wrong[0]]}"
            return True

        eventually(arrived, within=within, every=0.5)
        eventually(lambda: set(self.dead_letters()) == expected.dead_letters, within=20, every=0.5)

    def records(self, topic: str) -> list[Any]:
        """Return all committed records of `topic`."""
        client = self.owner.consumer(topic, enable_partition_eof=True)
        found: list[Any] = []
        ended: set[int | None] = set()
        partitions = len(client.list_topics(topic, timeout=10).topics[topic].partitions)
        deadline = time.monotonic() + 30
        while len(ended) < partitions:
            assert time.monotonic() < deadline, f"{topic} has no end"
            for message in client.consume(1000, timeout=0.5):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
        client.close()
        return found

    def results(self) -> Counter[bytes]:
        """Return how often each result record was written, by its value."""
        return Counter(message.value() for message in self.records(self.spec.result_topic))

    def dead_letters(self) -> dict[Place, str]:
        """Return the reasons of the source's dead letters by place.

        Fails where one place has two: on Flink always, on Faust where they differ, since a kill may repeat one before it is committed.
        """
        found: dict[Place, str] = {}
        for message in self.records(self.spec.dead_letter_topic):
            said = parse(message.headers())
            assert said.topic == self.topic
            assert said.processor == PROCESSOR
            place = said.partition, said.offset
            sent = self.logs[said.partition][said.offset].value
            assert (message.key() or None, message.value(), said.reason) == letter(_KEY, sent, said.reason.removeprefix(TOO_LARGE))
            assert place not in found or self.spec.runtime is Runtime.FAUST, f"{place} has two dead letters"
            assert found.setdefault(place, said.reason) == said.reason, f"{place} has two reasons"
        return found

    def _state(self) -> str:
        described = self.processors.describe(PROCESSOR)
        return f"the processor is {described.get('state')}: {described.get('reason')}; log: {self.processors.logs(PROCESSOR, tail=3)}"


def rows_of(table: pa.Table, primary_key: Sequence[Any], event_time: str) -> dict[RowKey, Mapping[str, Any]]:
    """Return rows by key and event time in milliseconds."""
    keys = [each.name for each in primary_key]
    found: dict[RowKey, Mapping[str, Any]] = {}
    for row in table.to_pylist():
        place = tuple(row[name] for name in keys), round(row[event_time].timestamp() * 1000)
        found[place] = {name: value for name, value in row.items() if name not in (*keys, event_time)}
    return found


def equal(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two rows have the same values, to the last bit."""
    return dict(found) == dict(wanted)
