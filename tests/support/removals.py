"""Removing members while records keep coming, half of whom park their fetches in the broker; how long each goes on receiving."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any

from tests.integration.test_tenancy_broker import Town, Watching
from tests.support.waiting import eventually
from wardstream.kafka import producer

# A fetch is answered when 1 MB has come, 2 s later: sooner than its own wait of 15 s and the 5 s of an idle connection end it.
# No more, since a dozen consumers in one process must keep up: what waits in a client was read before.
_RECORD = 5_000
_BYTES_PER_SECOND = 500_000
_PARKED: dict[str, Any] = {
    "fetch.min.bytes": 1_000_000,
    "fetch.wait.max.ms": 15_000,
    "fetch.message.max.bytes": 2_000_000,
    "fetch.max.bytes": 4_000_000,
    "auto.offset.reset": "latest",
}
_LIVE: dict[str, Any] = {"auto.offset.reset": "latest"}
# Longer than a fetch that was parked at the order would take to be answered.
_WATCHED_SECONDS = 3.5


def removals(town: Town, *, live: int, parked: int) -> dict[str, float]:
    """Remove so many members one after another, and return by name the seconds from the order to the last record, 0 where none came.

    Those whose fetches wait in the broker are called parked0 and so on.

    One consumer of each kind stays; they must go on receiving, or nothing was measured.
    """
    topic = town.topic("beats", permission="editable", config={"retention.bytes": "100000000", "segment.bytes": "20000000"})
    device = town.add("monitor", "device", writes=["beats"])
    kinds = {f"live{number}": _LIVE for number in range(live)} | {f"parked{number}": _PARKED for number in range(parked)}
    stay = {"stays-live": _LIVE, "stays-parked": _PARKED}
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda name: town.add(name, "data-scientist"), (*kinds, *stay)))
    people = {each.name: each for each in added}
    with _beating(device, topic), ExitStack() as open_:
        watching = {name: open_.enter_context(Watching(people[name], topic, **settings)) for name, settings in (kinds | stay).items()}
        for each in watching.values():
            eventually(partial(bool, each.received), within=40)
        ordered: dict[str, float] = {}
        for name in sorted(kinds, key=lambda name: name[-1]):
            if kinds[name] is _PARKED:
                _until_answered(watching[name])
            ordered[name] = time.monotonic()
            town.owner.call("DELETE", f"members/{name}")
        end = time.monotonic() + _WATCHED_SECONDS
        eventually(lambda: time.monotonic() > end, within=_WATCHED_SECONDS + 1)
        for name in stay:
            assert watching[name].received[-1] > end - _WATCHED_SECONDS, f"{name} got no more records either"
        return {name: max(0.0, max(watching[name].received) - at) for name, at in ordered.items()}


def _until_answered(watching: Watching) -> None:
    """Return when a fetch was answered to its end: the next one is then parked for as long as it can be."""
    before = len(watching.received)
    eventually(lambda: len(watching.received) > before, within=15, every=0.01)
    seen = -1
    while seen != len(watching.received):
        seen = len(watching.received)
        time.sleep(0.05)


@contextmanager
def _beating(device: Any, topic: str) -> Iterator[None]:
    client = producer(device.kafka, linger_ms=5, compression_type="none")
    stop, value = Event(), os.urandom(_RECORD)

    def run() -> None:
        while not stop.wait(_RECORD / _BYTES_PER_SECOND):
            client.produce(topic, value)
            client.poll(0)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        client.flush(10)


def summary(seconds: list[float]) -> str:
    """Return the median, the 99th part of a hundred and the longest of the removals."""
    ordered = sorted(seconds)
    place = min(len(ordered) - 1, int(len(ordered) * 0.99))
    return (
        f"{len(ordered)} removals: last record p50 {ordered[len(ordered) // 2]:.2f} s, p99 {ordered[place]:.2f} s, max {ordered[-1]:.2f} s"
    )
