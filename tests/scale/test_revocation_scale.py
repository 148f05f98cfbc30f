"""A hundred removals, half of them of members whose fetches wait in the broker: `make test-scale`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_tenancy_broker import Peers, Town
from tests.support.removals import removals, summary
from tests.support.stack import RunningStack, start, temporary_home

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(580)]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with temporary_home("removals") as folder:
        start(folder, "--only", "kafka,redis,control")
        yield folder


def test_the_last_record_of_each_of_a_hundred_removed_members_comes_within_a_second(home: Path) -> None:
    peers = Peers(RunningStack(home))
    last: list[float] = []
    for _ in range(10):
        last += removals(Town(peers), live=5, parked=5).values()
    peers.close()
    print(f"\n{summary(last)}")
    assert len(last) == 100
    assert max(last) < 1
