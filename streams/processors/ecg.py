"""Heart rate and its variability from one-second blocks of an ECG, or of a pulse curve.

The event time of a row is the END of its window: a value is not known before, and a training set must not see it earlier.
A beat is found in a window together with the 10 s before it and the 2 s after it, so that the detector has settled and
a beat on the border of two records, or of two windows, is found once; a beat belongs to the window that its peak lies in, and an
interval to the window of its second beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.signal import butter, find_peaks, sosfiltfilt
from sleepecg.heartbeats import detect_heartbeats

from streams.aggregates import mean, pnn50, rmssd, sdnn
from streams.model import Measurement, Parameter, Unusable
from streams.processors.waveform import Block, Signal, assemble, unpack
from streams.windows import Closed

# 30 to 200 beats a minute; an interval outside is a missed or an extra beat and counts against the quality.
SHORTEST_INTERVAL_MS = 300.0
LONGEST_INTERVAL_MS = 2000.0
# Detectors filter forwards and backwards and need some signal to do so.
_SHORTEST_SIGNAL_SECONDS = 3.0
_PULSE_LEADS = ("PPG", "PLETH")


def measure(record: Mapping[str, object], parameters: Mapping[str, Parameter]) -> Measurement:
    """Return the block of one record, or raise `Unusable`."""
    block = unpack(record)
    devices = parameters.get("devices", ())
    if isinstance(devices, tuple) and devices and block.device not in devices:
        raise Unusable("the device is not one of this processor's")
    if not len(block.values):
        return Measurement((block.device,), block.start_ms, closing=True)
    return Measurement((block.device,), block.start_ms, f"{block.lead} {block.start_ms}", block.span_ms, values=block)


def summarise(closed: Closed, parameters: Mapping[str, Parameter]) -> Mapping[str, float | int | None]:
    """Return the features of one window."""
    blocks = _one_lead([placed.measurement.values for placed in closed.placed], closed)
    start, signal = assemble(blocks)
    rate, window = blocks[0].rate, closed.window
    times = start + beats_in(signal, rate, pulse=blocks[0].lead.upper().startswith(_PULSE_LEADS)) * (1000.0 / rate)
    inside = (times >= window.start_ms) & (times < window.end_ms)
    received = _received(start, signal, rate, window.start_ms, window.end_ms)
    intervals = [float(step) for step, second in zip(np.diff(times), inside[1:], strict=True) if second]
    plausible = [step for step in intervals if SHORTEST_INTERVAL_MS <= step <= LONGEST_INTERVAL_MS]
    average = mean(plausible)
    enough = len(plausible) >= 2
    return {
        "heart_rate": _rounded(60_000.0 / average if average else None),
        "rmssd": _rounded(rmssd(plausible) if enough else None),
        "sdnn": _rounded(sdnn(plausible) if enough else None),
        "pnn50": _rounded(pnn50(plausible) if enough else None),
        "quality": _rounded(received * (len(plausible) / len(intervals) if intervals else 0.0)),
        "beats": int(inside.sum()),
    }


def beats_in(signal: Signal, rate: float, *, pulse: bool) -> Signal:
    """Return the sample numbers of the beats in `signal`, in order; none in a stretch that was not received or is flat."""
    known = ~np.isnan(signal)
    if known.sum() < _SHORTEST_SIGNAL_SECONDS * rate or np.ptp(signal[known]) == 0:
        return np.empty(0)
    filled = np.interp(np.arange(len(signal)), np.flatnonzero(known), signal[known])
    found = _pulses(filled, rate) if pulse else np.asarray(detect_heartbeats(filled, rate))
    return found[known[found]].astype(np.float64)


def _pulses(signal: Signal, rate: float) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    # A pulse wave rises slowly: the ECG detector, which looks for steep slopes, misses it.
    smooth = sosfiltfilt(butter(2, (0.5, 8.0), btype="bandpass", fs=rate, output="sos"), signal)
    found, _ = find_peaks(smooth, distance=max(1, int(SHORTEST_INTERVAL_MS / 1000 * rate)), prominence=0.8 * float(smooth.std()))
    return np.asarray(found)


def _one_lead(blocks: Sequence[Block], closed: Closed) -> list[Block]:
    """Blocks of the lead that has most signal inside the window, and of that lead's rate there."""
    amount: dict[tuple[str, float], int] = {}
    for placed in closed.own:
        block: Block = placed.measurement.values
        amount[block.lead, block.rate] = amount.get((block.lead, block.rate), 0) + len(block.values)
    lead, rate = min(amount, key=lambda each: (-amount[each], each))
    return [block for block in blocks if block.lead == lead and block.rate == rate]


def _received(start: int, signal: Signal, rate: float, window_start: int, window_end: int) -> float:
    first = max(0, round((window_start - start) * rate / 1000))
    last = max(first, round((window_end - start) * rate / 1000))
    expected = (window_end - window_start) * rate / 1000
    return min(1.0, float((~np.isnan(signal[first:last])).sum()) / expected)


def _rounded(value: float | None) -> float | None:
    # A thousandth of a millisecond or beat is below what one sample can resolve, and equal on every machine.
    return None if value is None else round(value, 3)
