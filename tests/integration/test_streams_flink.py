"""A processor on Flink, from a sequencer to tables: exactly once, whatever the order, and nothing lost in silence."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.support.replays import Replay, replaying
from tests.support.stack import RunningStack
from tests.support.waiting import eventually
from wardstream.kafka import MOST_RECORD_BYTES

pytestmark = [pytest.mark.stack, pytest.mark.flink, pytest.mark.slow, pytest.mark.timeout(500)]

# A whole minute.
_START = 1_600_000_020_000


def reads_of(number: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Return reads of four channel groups, two a second."""
    return [
        {
            "device_id": "nanopore-1",
            "run_id": "run",
            "read_id": f"read-{index}",
            "channel": 1 + index * 37 % 512,
            "start_time": _START + 500 * index,
            "length": 200 + index * 7919 % 5000,
            "mean_quality": 6.0 + index % 11 / 1.7,
            "gc_bases": 90 + index % 10,
            "acgt_bases": 200,
        }
        for index in range(first, first + number)
    ]


def test_reads_become_minutes_exactly_once(stack: RunningStack) -> None:
    with replaying(stack, "reads_1m", partitions=2, lateness_ms=10_000) as replay:
        reads = reads_of(600)
        # Out of order by up to 10 s, dealt to two partitions, one in fifty twice.
        disordered = sorted(reads, key=lambda read: int(read["start_time"]) + random.randrange(10_000))
        dealt: list[list[bytes | None]] = [[], []]
        for number, read in enumerate(disordered):
            dealt[number % 2] += [replay.encode(read)] * (2 if number % 50 == 0 else 1)
        bad: list[bytes | None] = [None, b"FASTQ", dealt[0][0][:9] if dealt[0][0] else None, replay.encode({**reads[0], "gc_bases": 300})]
        # The last one is too large for any topic, and came compressed.
        bad += [bytes(2 << 20), bytes(MOST_RECORD_BYTES + 1)]
        too_late = {**reads[0], "read_id": "forgotten"}
        replay.send(0, [*dealt[0], *bad, replay.encode(too_late)])
        replay.send(1, dealt[1])
        for partition in (0, 1):
            replay.send(partition, [replay.encode({**reads[-1], "read_id": "end"})], closing=True)
        expected = replay.expected()
        assert len(expected.rows) == 5 * 4
        assert sum(row["reads"] for row in expected.rows.values()) == 600
        assert len(expected.dead_letters) == 7
        replay.wait_for(expected, within=180)
        assert set(replay.results().values()) == {1}, "a row was written more than once"
        assert len(set(replay.dead_letters().values())) == 7


def test_a_sequencer_whose_clock_is_ahead_makes_no_other_late(stack: RunningStack) -> None:
    """`tests/integration/test_streams_faust.py` has the same for Faust."""
    with replaying(stack, "reads_1m", partitions=1) as replay:
        send_with_a_fast_clock(replay)
        replay.wait_for(replay.expected(), within=180)


def send_with_a_fast_clock(replay: Replay) -> None:
    """Send reads of this minute, among them one whose clock is minutes ahead, and end the replay."""
    now_ms = round(time.time() * 1000)
    reads = [replay.encode({**read, "start_time": now_ms - 1000 * back}) for back, read in enumerate(reads_of(20))]
    fast = replay.encode({**reads_of(1)[0], "read_id": "fast", "start_time": now_ms + 250_000})
    replay.send(0, [*reads[:10], fast, *reads[10:]])
    replay.send(0, [replay.encode({**reads_of(1)[0], "read_id": "end", "start_time": now_ms})], closing=True)
    expected = replay.expected()
    assert not expected.dead_letters
    assert sum(row["reads"] for row in expected.rows.values()) == 20


def test_a_partition_that_was_silent_and_brings_old_records_loses_none_in_silence(stack: RunningStack) -> None:
    with replaying(stack, "reads_1m", partitions=2, lateness_ms=0, idle_ms=1_000) as replay:
        replay.send(0, [replay.encode(read) for read in reads_of(600)])
        # The other partition says nothing, so the first one's minutes are closed without it.
        eventually(lambda: len(replay.table()) >= 4 * 4, within=120, every=0.5)
        replay.send(1, [replay.encode(read) for read in reads_of(240, first=1000)])
        old = [replay.encode({**read, "read_id": f"old-{read['read_id']}"}) for read in reads_of(5)]
        replay.send(1, old)
        replay.send(0, [replay.encode({**reads_of(1, first=1300)[0], "read_id": "end"})], closing=True)
        replay.send(1, [replay.encode({**reads_of(1, first=1300)[0], "read_id": "end"})], closing=True)

        # How many come too late depends on when the silence was noticed; each is in the table or among the dead letters.
        def all_found() -> bool:
            counted, letters = sum(row["reads"] for row in replay.table().values()), len(replay.dead_letters())
            assert counted + letters == 600 + 240 + 5, f"{counted} reads in the table and {letters} dead letters"
            return True

        eventually(all_found, within=60, every=0.5)
        assert len(replay.dead_letters()) >= 5
        assert all("closed before it came" in reason for reason in replay.dead_letters().values())
