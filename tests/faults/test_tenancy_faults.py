"""Tenancy while a part is away or dies: what was decided holds, and reaches the broker when it is back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenancy.broker import Broker
from tests.integration.test_tenancy_broker import Peers, Town, control_kafka, rows_of
from tests.support.stack import RunningStack, start, temporary_home
from tests.support.waiting import eventually
from wardstream.errors import NotFound, Unauthenticated, Unavailable, WardstreamError
from wardstream.processes import recorded

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ONLY = ("--only", "kafka,redis,control")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Control and what it needs, for these tests alone: they kill it."""
    with temporary_home("tenancy") as folder:
        start(folder, *ONLY)
        yield folder


@pytest.fixture
def town(home: Path) -> Iterator[Town]:
    start(home, *ONLY)
    peers = Peers(RunningStack(home))
    yield Town(peers)
    peers.close()


def kill(home: Path, name: str) -> None:
    (record,) = (record for record in recorded(home / "processes") if record.name == name)
    os.kill(record.pid, signal.SIGKILL)
    eventually(lambda: not record.alive)


def test_what_was_decided_while_the_broker_is_away_holds_and_reaches_it_when_it_is_back(home: Path, town: Town) -> None:
    town.topic("beats", permission="editable")
    anna = town.add("anna", "data-scientist")
    key, body = anna.api_key, {"name": "lab", "partitions": 2}
    kill(home, "kafka")
    removed = town.owner.call("DELETE", "members/anna")
    assert not removed["settled"]
    with pytest.raises(Unauthenticated):
        town.gateway.json("POST", "/internal/v1/grants", json={"proof": {"api_key": key}, "door": "outside"})
    with pytest.raises(Unavailable, match="still being removed"):
        town.owner.call("POST", "members", {"name": "anna", "role": "data-owner"})
    with pytest.raises(Unavailable):
        town.owner.call("POST", "datasets", body)
    start(home, *ONLY)
    broker = Broker(control_kafka(town.stack), replication_factor=1)
    eventually(lambda: not rows_of(broker, f"{town.name}__anna"), within=30)
    back = eventually(lambda: town.owner.call("POST", "members", {"name": "anna", "role": "data-scientist"}), within=15)
    assert back["member"]["principal"] == f"{town.name}__anna__g2"
    made = eventually(lambda: town.owner.call("POST", "datasets", body), within=30)
    assert made["topic_id"]
    assert {made["topic"], made["dead_letter_topic"]} <= broker.topic_names()


# Before, amid and after the steps of a removal, which take 0.1 to 0.3 s.
@pytest.mark.parametrize("after_seconds", [0.02, 0.06, 0.15])
def test_control_killed_amid_a_removal_leaves_all_or_nothing_of_it(home: Path, town: Town, after_seconds: float) -> None:
    town.topic("beats", permission="editable")
    town.add("anna", "data-scientist")

    def remove() -> None:
        try:
            town.owner.call("DELETE", "members/anna")
        except WardstreamError:
            return  # control died before it answered

    removing = threading.Thread(target=remove)
    removing.start()
    removing.join(after_seconds)
    kill(home, "control")
    removing.join()
    start(home, *ONLY)
    states = {member["name"]: member["state"] for member in town.owner.call("GET", "members")}
    entries = [(one["action"], one["outcome"]) for one in town.owner.call("GET", "/v1/audit?limit=1000")]
    broker = Broker(control_kafka(town.stack), replication_factor=1)
    assert (("member.remove", "allowed") in entries) is (states["anna"] == "removed")
    if states["anna"] == "removed":
        eventually(lambda: not rows_of(broker, f"{town.name}__anna"), within=20)
        with pytest.raises(NotFound):
            town.owner.call("DELETE", "members/anna")
    else:
        assert rows_of(broker, f"{town.name}__anna")
    assert town.owner.call("GET", "/v1/audit/verify")["intact"]
