"""From the order to remove a member to the last record that its parking consumer gets, while records keep coming.

The consumer parks its fetches (20 MB, 15 s): the broker authorised one when it arrived and would answer it some seconds later,
when 20 MB have come. Each removal is ordered just after an answer, so that the next fetch is parked for almost
all of that time. One consumer that is not removed shows that records would have gone on.
"""

from __future__ import annotations

import os
import time
from threading import Event, Thread

from confluent_kafka import Consumer, Producer

from tests.benchmarks.report import Goal, record
from tests.support.stack import NewProject, RunningStack, Setting, start, temporary_home
from wardstream.kafka import consumer

_TRIALS = 20
# 20 MB in 2.5 s: sooner than a parked fetch ends for any other reason (15 s of its own, 5 s of an idle connection).
_BYTES_PER_SECOND = 8_000_000
_RECORD = 20_000
# Longer than a parked fetch waits for its bytes.
_WATCHED_SECONDS = 4.0
_PARKED: dict[str, Setting] = {
    "fetch_min_bytes": 20_000_000,
    "fetch_wait_max_ms": 15_000,
    "fetch_message_max_bytes": 25_000_000,
    "fetch_max_bytes": 50_000_000,
}


def main() -> None:
    """Remove 20 members and measure each."""
    with temporary_home("bench") as home:
        start(home)
        project = RunningStack(home).new_project("bench", sandboxed=False)
        topic = project.create_topic("beats", partitions=1, retention_bytes="100000000", segment_bytes="20000000")
        device = project.add("monitor", "device", writes=["beats"])
        with _Beating(device.producer(linger_ms=5, compression_type="none"), topic):
            spared = _trial(project, topic, "spared", remove=False)
            if spared < 1.0:
                raise RuntimeError(
                    f"a consumer that nobody removed got its last record after {spared:.2f} s: the benchmark measures nothing"
                )
            parked = [_trial(project, topic, f"member{number}") for number in range(_TRIALS)]
    remark = f"max of {_TRIALS} with parked fetches; one that was not removed went on getting records for the {spared:.1f} s watched"
    record("revocation", ours=max(parked), unit="s", goal=Goal("< 1 s", most=1.0), remark=remark)


def _trial(project: NewProject, topic: str, name: str, *, remove: bool = True) -> float:
    """Return seconds from the order, or the moment for it, to the last record; 0 if none came after it."""
    member = project.add(name, "data-scientist")
    client = consumer(member.kafka("worker"), group=f"{project.name}.{name}.bench", auto_offset_reset="latest", **_PARKED)
    client.subscribe([topic])
    try:
        _until_a_fetch_was_answered(client)
        ordered_at = time.monotonic()
        order = Thread(target=project.owner.project.remove_member, args=(name,))
        if remove:
            order.start()
        last = ordered_at
        while time.monotonic() < ordered_at + _WATCHED_SECONDS:
            for message in client.consume(1000, 0.02):
                if message.error() is None:
                    last = time.monotonic()
        if remove:
            order.join()
        return last - ordered_at
    finally:
        client.close()


def _until_a_fetch_was_answered(client: Consumer) -> None:
    """Return when the second answer was read to its end: the first may have met a fetch of another kind."""
    answers = 0
    deadline = time.monotonic() + 40
    while answers < 2:
        if any(message.error() is None for message in client.consume(1000, 1.0)):
            answers += 1
            while client.consume(1000, 0.05):
                if time.monotonic() > deadline:
                    break
        if time.monotonic() > deadline:
            raise RuntimeError("no fetch of the consumer was answered within 40 s")


class _Beating:
    """Produces incompressible records at a steady rate until the block ends."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(10)

    def _run(self) -> None:
        value = os.urandom(_RECORD)
        while not self._stop.wait(_RECORD / _BYTES_PER_SECOND):
            self._producer.produce(self._topic, value)
            self._producer.poll(0)


if __name__ == "__main__":
    main()
