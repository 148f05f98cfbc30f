"""From a record handed to a producer to its value readable online over REST, at 1,000 records a second on one machine.

One thread produces and marks a record every 50 ms; another asks for the entities of all marked records until each answer is at
least as new. Records are marked by the clock, so a pause of the platform meets as many as it lasts. The time of the asking
itself is part of the figure.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer

from schemas.avro import Schema
from schemas.encode import encode_table
from schemas.serde import RegistryHttp
from tests.benchmarks.report import Goal, record
from tests.support.stack import RunningStack, start, temporary_home
from wardstream.client.features import Feature, FeatureGroup

_RATE = 1000
_SECONDS = 30
_MARK_SECONDS = 0.05
_DEVICES = 1000
_FEATURES = [Feature("device", "string"), Feature("observed_at", "timestamp"), Feature("heart_rate", "double"), Feature("spo2", "double")]


def main() -> None:
    """Run the load and follow records in it."""
    with temporary_home("bench") as home:
        start(home)
        project = RunningStack(home).new_project("bench")
        group = project.owner.project.get_feature_store().create_feature_group(
            "vitals", primary_key=["device"], event_time="observed_at", features=_FEATURES
        )
        device = project.add("monitor", "device", writes=["vitals_1"])
        schema_id, schema = RegistryHttp(project.owner.connection.transport).newest(f"{group.topic}-value")
        load = _Load(device.producer(linger_ms=5), group.topic, schema_id, schema)
        with load:
            time.sleep(5)  # until the materialiser follows
            times = np.array(_followed(load, group))
    p50, p99 = (float(each) for each in np.percentile(times, [50, 99]))
    remark = f"p99 of {len(times)} records, one each 50 ms; p50 {p50:.0f} ms; {load.sent / load.seconds:,.0f} records/s sent"
    record("freshness", ours=p99, unit="ms", goal=Goal("p99 <= 300 ms", most=300), remark=remark)


class _Load:
    """Sends records at the rate until the block ends; `marked` holds (device, event time in ms, time handed over), one each 50 ms."""

    def __init__(self, producer: Producer, topic: str, schema_id: int, schema: Schema) -> None:
        self._producer, self._topic = producer, topic
        self._schema_id, self._schema = schema_id, schema
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self.marked: SimpleQueue[tuple[str, int, float]] = SimpleQueue()
        self.sent, self.seconds = 0, 0.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(10)

    def _run(self) -> None:
        begun = time.monotonic()
        next_mark = begun
        while not self._stop.is_set():
            due = int((time.monotonic() - begun) * _RATE) - self.sent
            if due < 1:
                time.sleep(0.001)
                continue
            now = datetime.now(UTC)
            names = [f"device-{(self.sent + number) % _DEVICES}" for number in range(due)]
            columns = {
                "device": names,
                "observed_at": pa.array([now] * due, pa.timestamp("ms", "UTC")),
                "heart_rate": [72.0] * due,
                "spo2": [97.0] * due,
            }
            handed = time.monotonic()
            for value in encode_table(pa.table(columns), self._schema_id, self._schema):
                self._producer.produce(self._topic, value)
            self._producer.poll(0)
            self.sent += due
            if handed >= next_mark:
                self.marked.put((names[-1], int(now.timestamp() * 1000), handed))
                next_mark += _MARK_SECONDS
        self.seconds = time.monotonic() - begun


def _followed(load: _Load, group: FeatureGroup) -> list[float]:
    """Return milliseconds from handing over to reading, for each record marked within the time."""
    while not load.marked.empty():
        load.marked.get()
    times: list[float] = []
    waiting: dict[str, tuple[int, float]] = {}
    deadline = time.monotonic() + _SECONDS
    while waiting or time.monotonic() < deadline:
        while time.monotonic() < deadline and not load.marked.empty():
            name, event_ms, handed = load.marked.get()
            waiting.setdefault(name, (event_ms, handed))
        if not waiting:
            time.sleep(0.002)
            continue
        asked = list(waiting)
        answer = group.get_feature_vectors({"device": asked}).column("event_time").to_pylist()
        now = time.monotonic()
        for name, seen in zip(asked, answer, strict=True):
            event_ms, handed = waiting[name]
            if seen is not None and int(seen.timestamp() * 1000) >= event_ms:
                times.append((now - handed) * 1000)
                del waiting[name]
            elif now - handed > 30:
                raise RuntimeError("a record was not readable online within 30 s")
    return times


if __name__ == "__main__":
    main()
