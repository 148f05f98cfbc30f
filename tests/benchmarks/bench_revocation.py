"""From the order to remove a member to the last record that its open consumers get, while records keep coming.

Half of the consumers park their fetches (20 MB, 15 s): the broker authorised those when they arrived.
"""

from __future__ import annotations

import time
from threading import Event, Thread

from confluent_kafka import Consumer, Producer

from tests.benchmarks.report import Goal, record
from tests.support.stack import NewProject, RunningStack, Setting, start, temporary_home
from wardstream.kafka import consumer

_TRIALS = 20
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
        topic = project.create_topic("beats", partitions=1)
        device = project.add("monitor", "device", writes=["beats"])
        times: dict[bool, list[float]] = {True: [], False: []}
        with _Beating(device.producer(linger_ms=5), topic):
            for trial in range(_TRIALS):
                parked = trial % 2 == 0
                times[parked].append(_trial(project, topic, f"member{trial}", parked=parked))
    parked_worst, open_worst = max(times[True]), max(times[False])
    remark = f"max of {_TRIALS}; parked fetches {parked_worst:.2f} s, ordinary ones {open_worst:.2f} s"
    record("revocation", ours=max(parked_worst, open_worst), unit="s", goal=Goal("< 1 s", most=1.0), remark=remark)


def _trial(project: NewProject, topic: str, name: str, *, parked: bool) -> float:
    """Return seconds from the order to the last record, 0 if none came after it."""
    member = project.add(name, "data-scientist")
    client = consumer(member.kafka("worker"), group=f"{project.name}.{name}.bench", **(_PARKED if parked else {}))
    client.subscribe([topic])
    try:
        _until_assigned(client)
        time.sleep(1.5 if parked else 0.5)  # the fetch is at the broker now, parked or not
        removed_at: list[float] = []

        def remove() -> None:
            removed_at.append(time.monotonic())
            project.owner.project.remove_member(name)

        order = Thread(target=remove)
        last = 0.0
        order.start()
        # Longer than a parked fetch may wait: what it still held would come within that time.
        deadline = time.monotonic() + (17 if parked else 4)
        while time.monotonic() < deadline:
            for message in client.consume(1000, 0.02):
                if message.error() is None:
                    last = time.monotonic()
        order.join()
        return max(last - removed_at[0], 0.0)
    finally:
        client.close()


def _until_assigned(client: Consumer) -> None:
    deadline = time.monotonic() + 20
    while not client.assignment():
        client.poll(0.1)
        if time.monotonic() > deadline:
            raise RuntimeError("the consumer was not assigned a partition")


class _Beating:
    """Produces some hundred records a second until the block ends."""

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
        while not self._stop.wait(0.005):
            self._producer.produce(self._topic, b"x" * 100)
            self._producer.poll(0)


if __name__ == "__main__":
    main()
