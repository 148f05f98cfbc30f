"""The materialiser killed at its worst moments, and stores that go away: tables stay exactly what topics say."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streams.materialise import FAULT
from tests.support.stack import RunningStack
from tests.support.tables import Table, new_table, rows
from tests.support.waiting import eventually
from wardstream.errors import Unavailable

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def killed_at(table: Table, place: str) -> None:
    """Let the materialiser be started anew so that it ends at `place`, once."""
    before = table.materialiser()
    (table.folder / FAULT).write_text(place)
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: table.materialiser().pid != before.pid and not (table.folder / FAULT).exists(), within=30)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["after-online", "after-parquet", "before-commit"])
def test_killed_anywhere_nothing_is_lost_and_nothing_is_there_twice(stack: RunningStack, place: str) -> None:
    table = new_table(stack)
    table.insert(rows(range(20), minute=0))
    killed_at(table, place)
    victim = table.materialiser()
    table.insert(rows(range(40), minute=1), wait=False)
    table.project.owner.produce(table.group.topic, [b"not Avro"])
    eventually(lambda: not victim.alive, within=30)
    table.insert(rows(range(10), minute=2), wait=False)
    found = table.settled(records=71, within=60)
    assert (found["records"], found["rows"], found["repeats"], found["dead_letters"]) == (71, 70, 0, 1)
    assert (found["difference"], found["behind"], found["online_equal"], found["online_rows"]) == (0, 0, True, 40)
    assert table.group.get_feature_vectors({"patient": ["p5", "p30"]})["heart_rate"].to_pylist() == [75.0, 100.0]


@pytest.mark.timeout(180)
def test_killed_again_and_again_under_load_every_record_counts_once(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows(range(5), minute=0))
    total = 5
    for minute in range(1, 6):
        table.insert(rows(range(500), minute=minute), wait=False)
        total += 500
        os.kill(table.materialiser().pid, signal.SIGKILL)
    found = table.settled(records=total, within=90)
    assert (found["difference"], found["rows"], found["records"]) == (0, total, total)
    assert (found["online_equal"], found["online_rows"]) == (True, 500)


@pytest.mark.timeout(180)
def test_online_store_away_is_said_and_nothing_is_lost(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows(range(5), minute=0))
    with stopped(stack, "redis"):
        table.insert(rows(range(50), minute=1), wait=False)
        eventually(lambda: "online store" in (table.status()["reason"] or ""), within=30)
        ready = eventually(lambda: stack_says(stack), within=10)
        assert f"{table.project.name}.vitals_1" in ready
    found = table.settled(records=55, within=60)
    assert (found["difference"], found["rows"], found["online_equal"], found["online_rows"]) == (0, 55, True, 50)
    eventually(lambda: table.status()["state"] == "running")


def stack_says(stack: RunningStack) -> str:
    """Return what the stream-worker says that its tables wait for."""
    try:
        stack.platform("stream-worker").json("GET", "/readyz")
    except Unavailable as error:
        return str(json.loads(error.message)["waiting"].get("tables", ""))
    return ""


@contextmanager
def stopped(stack: RunningStack, part: str) -> Iterator[None]:
    """Let a part of the platform stand still for a while."""
    pid = next(each["pid"] for each in json.loads((stack.home / "run.json").read_text())["processes"] if each["name"] == part)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
