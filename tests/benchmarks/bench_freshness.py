"""From a record handed to a producer to its value readable online over REST, at 1,000 records a second on one machine.

One thread produces, another follows single records: it takes the newest one sent and asks for its entity until the
answer is at least as new. The time of the asking itself is part of the figure.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
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
            times = np.array(list(_followed(load, group)))
    p50, p99 = (float(each) for each in np.percentile(times, [50, 99]))
    remark = f"p99 of {len(times)} records followed; p50 {p50:.0f} ms; {load.sent / load.seconds:,.0f} records/s sent"
    record("freshness", ours=p99, unit="ms", goal=Goal("p99 <= 300 ms", most=300), remark=remark)


class _Load:
    """Sends records at the rate until the block ends; `newest` is (device, event time in ms, time handed over)."""

    def __init__(self, producer: Producer, topic: str, schema_id: int, schema: Schema) -> None:
        self._producer, self._topic = producer, topic
        self._schema_id, self._schema = schema_id, schema
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self.newest = ("", 0, 0.0)
        self.sent, self.seconds = 0, 0.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(10)

    def _run(self) -> None:
        begun = time.monotonic()
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
            self.newest = (names[-1], int(now.timestamp() * 1000), handed)
        self.seconds = time.monotonic() - begun


def _followed(load: _Load, group: FeatureGroup) -> list[float]:
    """Return milliseconds from handing over to reading, for one record after another."""
    times = []
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        name, event_ms, handed = load.newest
        while True:
            seen = group.get_feature_vectors({"device": [name]}).column("event_time")[0].as_py()
            if seen is not None and int(seen.timestamp() * 1000) >= event_ms:
                break
            if time.monotonic() - handed > 30:
                raise RuntimeError("a record was not readable online within 30 s")
        times.append((time.monotonic() - handed) * 1000)
    return times


if __name__ == "__main__":
    main()
