"""Nine records that a broken or hostile monitor could send."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from streams.processors.waveform import pack

_DAY_MS = 86_400_000
_NO_SUCH_SCHEMA = (2_000_000_000).to_bytes(4, "big")


def malformed_waveforms(encode: Callable[[dict[str, Any]], bytes], *, start_ms: int, now_ms: int) -> list[tuple[str, bytes]]:
    """Return (what is wrong, record) of each; `encode` makes an Avro value of a waveform record as a device would."""
    good = pack(np.sin(np.arange(360) / 20), device="ecg-bed1", lead="II", rate=(360, 1), start_ms=start_ms, unit="mV", scale=0.001)
    valid = encode(good)
    return [
        ("not Avro but JSON text", b'{"heart_rate": 72}'),
        ("a schema id that nobody registered", valid[:1] + _NO_SUCH_SCHEMA + valid[5:]),
        ("cut off in the middle", valid[: len(valid) // 2]),
        ("scale is not a number", encode({**good, "scale": math.nan})),
        ("offset is infinite", encode({**good, "offset": math.inf})),
        ("a clock that is a day ahead", encode({**good, "t0": now_ms + _DAY_MS})),
        ("fewer samples than it says", encode({**good, "count": 400})),
        ("a sampling rate of zero", encode({**good, "fs_num": 0})),
        ("a missing stretch outside the block", encode({**good, "missing": [350, 50]})),
    ]
