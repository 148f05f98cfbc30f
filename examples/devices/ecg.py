"""A bedside monitor's ECG: five minutes of MIT-BIH record 208 at 360 Hz, one record a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streams.processors.waveform import pack

RATE = 360
LEAD = "MLII"
# The database's own resolution: 200 steps a millivolt. The file holds millivolts.
_SCALE = 1 / 200


def records(file: Path, *, device: str, start_ms: int) -> Iterator[dict[str, Any]]:
    """Yield waveform records of the recording, the first one at `start_ms`; samples beyond the last whole second are left out."""
    signal = np.load(file)["ecg"].astype(np.float64)
    for second in range(len(signal) // RATE):
        values = signal[second * RATE : (second + 1) * RATE]
        yield pack(values, device=device, lead=LEAD, rate=(RATE, 1), start_ms=start_ms + second * 1000, unit="mV", scale=_SCALE)
