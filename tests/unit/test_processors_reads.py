"""Reads of a sequencer: groups of channels, and reads that contradict themselves."""

from __future__ import annotations

from typing import Any

import pytest

from streams.model import Unusable
from streams.processors import reads

_READ: dict[str, Any] = {
    "device_id": "nanopore-1",
    "run_id": "run",
    "read_id": "read",
    "channel": 129,
    "start_time": 1_500_000_000_000,
    "length": 100,
    "mean_quality": 11.1,
    "gc_bases": 40,
    "acgt_bases": 99,
}


@pytest.mark.parametrize(("channel", "group"), [(1, "1-128"), (128, "1-128"), (129, "129-256"), (512, "385-512")])
def test_channels_are_counted_from_one(channel: int, group: str) -> None:
    assert reads.measure({**_READ, "channel": channel}, {"channels_per_group": 128}).key == ("nanopore-1", group)


def test_a_read_counts_in_the_minute_it_began() -> None:
    found = reads.measure(_READ, {})
    assert found.event_ms == 1_500_000_000_000
    assert found.identity == "run read"
    assert found.values == {"length": 100, "mean_quality": 11.1, "gc_bases": 40, "acgt_bases": 99}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channel": 0}, "channels are counted from 1"),
        ({"gc_bases": 100}, "contradict each other"),
        ({"acgt_bases": 101}, "contradict each other"),
        ({"gc_bases": -1}, "contradict each other"),
        ({"mean_quality": 94.0}, "between 0 and 93"),
        ({"mean_quality": -1.0}, "between 0 and 93"),
        ({"device_id": "other"}, "not one of this processor's"),
    ],
)
def test_a_read_that_cannot_be_is_unusable(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        reads.measure({**_READ, **changes}, {"devices": ("nanopore-1",)})
