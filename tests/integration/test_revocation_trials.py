"""Removals on the real broker: how long the last record takes, and in which order the broker is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenancy.authorizer_log import decision_of
from tests.integration.test_tenancy_broker import Peers, Town
from tests.support.removals import removals, summary
from tests.support.stack import RunningStack
from tests.support.waiting import eventually

# Twelve consumers, and removals one after another: a minute, several on a busy machine.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def peers(stack: RunningStack) -> Iterator[Peers]:
    opened = Peers(stack)
    yield opened
    opened.close()


def test_a_fetch_that_waits_in_the_broker_brings_a_removed_member_no_records(peers: Peers) -> None:
    last = removals(Town(peers), live=5, parked=5)
    told = summary(list(last.values()))
    assert max(last.values()) < 1, told


def test_a_removed_members_fetches_are_stopped_before_its_rights_go(peers: Peers, stack: RunningStack) -> None:
    town = Town(peers)
    town.add("anna", "data-scientist")
    log = stack.home / "logs" / "kafka-authorizer.log"
    place = log.stat().st_size
    town.owner.call("DELETE", "members/anna")

    def asked() -> list[str]:
        with log.open("rb") as file:
            file.seek(place)
            lines = file.read().splitlines()
        requests = []
        for line in lines:
            found = decision_of(line)
            if found is not None and found.principal == "ws-control" and found.operation in ("ALTER", "ALTER_CONFIGS"):
                requests.append(found.operation)
        return requests

    eventually(lambda: "ALTER" in asked())
    assert asked()[:2] == ["ALTER_CONFIGS", "ALTER"]
