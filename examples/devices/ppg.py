"""A finger clip's pulse wave: heartpy's example of two minutes at 117 Hz, one record a second."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streams.processors.waveform import pack

RATE = 117
LEAD = "PPG"


def records(file: Path, *, device: str, start_ms: int) -> Iterator[dict[str, Any]]:
    """Yield waveform records of the recording in the converter's own units, the first one at `start_ms`."""
    with file.open(newline="") as source:
        signal = np.array([float(row["hr"]) for row in csv.DictReader(source)])
    for second in range(len(signal) // RATE):
        values = signal[second * RATE : (second + 1) * RATE]
        yield pack(values, device=device, lead=LEAD, rate=(RATE, 1), start_ms=start_ms + second * 1000, unit="1", scale=1.0)
