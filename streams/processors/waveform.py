"""One-second blocks of a sampled signal as Avro records, packed and unpacked.

A record holds one block of one lead. Samples are 16-bit numbers, written as the first one and then differences modulo 2**16,
which compress well and cannot overflow. Times are milliseconds; the exact rate is the fraction `fs_num / fs_den`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.model import Unusable

SCHEMA: Mapping[str, Any] = {
    "type": "record",
    "name": "DeviceWaveform",
    "namespace": "wardstream.device.v1",
    "doc": "About one second of one lead of one device. A record with count 0 ends a replay. The record key is the device.",
    "fields": [
        {"name": "device_id", "type": "string"},
        {"name": "lead", "type": "string", "doc": "for example II, or PPG for a pulse curve"},
        {"name": "fs_num", "type": "int", "doc": "samples per second, numerator"},
        {"name": "fs_den", "type": "int", "default": 1, "doc": "denominator: 62.4725 Hz is 624725 / 10000"},
        {"name": "t0", "type": {"type": "long", "logicalType": "timestamp-millis"}, "doc": "time of the first sample, rounded per block"},
        {"name": "scale", "type": "double"},
        {"name": "offset", "type": "double", "doc": "physical value = offset + scale * sample"},
        {"name": "unit_ucum", "type": "string"},
        {"name": "count", "type": "int", "doc": "number of samples"},
        {"name": "samples", "type": "bytes", "doc": "int16, little endian: the first sample, then differences modulo 2**16"},
        {
            "name": "missing",
            "type": {"type": "array", "items": "int"},
            "default": [],
            "doc": "pairs (start, length) of samples not received",
        },
        {"name": "gap_before_us", "type": "long", "default": 0, "doc": "time lost between the previous block and this one"},
    ],
}

# A block is read and buffered as a whole; longer ones would delay every window by their length.
LONGEST_BLOCK_SECONDS = 10.0
_RATES = (1.0, 100_000.0)

Samples = npt.NDArray[np.int16]
Signal = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """One unpacked record: physical values, NaN where a sample was not received."""

    device: str
    lead: str
    rate: float
    start_ms: int
    values: Signal

    @property
    def span_ms(self) -> int:
        """How long the block lasts."""
        return round(1000 * len(self.values) / self.rate)


def delta_bytes(samples: Samples) -> bytes:
    """Return samples as the first value and differences modulo 2**16."""
    unsigned = samples.astype("<i2").view("<u2")
    # The first difference is to zero, so it is the first sample itself.
    return np.diff(unsigned, prepend=np.uint16(0)).astype("<u2").tobytes()


def samples_of(content: bytes) -> Samples:
    """Return the samples that `delta_bytes` packed; the inverse for every content of even length."""
    return np.cumsum(np.frombuffer(content, "<u2"), dtype=np.uint16).view(np.int16)


def pack(
    values: Signal, *, device: str, lead: str, rate: tuple[int, int], start_ms: int, unit: str, scale: float, offset: float = 0.0
) -> dict[str, Any]:
    """Return the record of physical `values`; NaN becomes a missing stretch. Exact to half of `scale`.

    Raises `Unusable` for a value that does not fit into 16 bits at this scale.
    """
    missing = np.isnan(values)
    scaled = np.rint((np.where(missing, offset, values) - offset) / scale)
    if scaled.size and (scaled.min() < -(2**15) or scaled.max() > 2**15 - 1):
        raise Unusable(f"a value does not fit into 16 bits at scale {scale:g}")
    return {
        "device_id": device,
        "lead": lead,
        "fs_num": rate[0],
        "fs_den": rate[1],
        "t0": start_ms,
        "scale": scale,
        "offset": offset,
        "unit_ucum": unit,
        "count": len(values),
        "samples": delta_bytes(scaled.astype(np.int16)),
        "missing": stretches(missing),
        "gap_before_us": 0,
    }


def closing(device: str, lead: str, rate: tuple[int, int], at_ms: int) -> dict[str, Any]:
    """Return the record that ends a replay at `at_ms`; send it to every partition once all devices in it are done."""
    return pack(np.empty(0), device=device, lead=lead, rate=rate, start_ms=at_ms, unit="1", scale=1.0)


def unpack(record: Mapping[str, Any]) -> Block:
    """Return the block of a decoded record (times in milliseconds); raises `Unusable` with what does not fit together."""
    count, content = record["count"], record["samples"]
    if count < 0 or len(content) != 2 * count:
        raise Unusable(f"the samples are {len(content)} bytes, count {count} needs {2 * max(count, 0)}")
    if record["fs_num"] < 1 or record["fs_den"] < 1:
        raise Unusable("the rate is not positive")
    rate = record["fs_num"] / record["fs_den"]
    if not _RATES[0] <= rate <= _RATES[1]:
        raise Unusable(f"a rate of {rate:g} Hz is not between {_RATES[0]:g} and {_RATES[1]:g}")
    if count > rate * LONGEST_BLOCK_SECONDS:
        raise Unusable(f"a block of {count / rate:.1f} s is longer than {LONGEST_BLOCK_SECONDS:g} s")
    scale, offset = record["scale"], record["offset"]
    if not (math.isfinite(scale) and math.isfinite(offset)):
        raise Unusable("scale or offset is NaN or infinite")
    if scale == 0:
        raise Unusable("scale is zero")
    values = offset + scale * samples_of(content).astype(np.float64)
    for start, length in _pairs(record["missing"]):
        if start < 0 or length < 1 or start + length > count:
            raise Unusable("a missing stretch lies outside the block")
        values[start : start + length] = np.nan
    if not np.isfinite(values[~np.isnan(values)]).all():
        raise Unusable("scale and offset make an infinite value")
    return Block(record["device_id"], record["lead"], rate, record["t0"], values)


def stretches(missing: npt.NDArray[np.bool_]) -> list[int]:
    """Return true stretches as start, length, start, length and so on."""
    edges = np.flatnonzero(np.diff(missing.astype(np.int8), prepend=0, append=0))
    return [int(part) for start, end in zip(edges[::2], edges[1::2], strict=True) for part in (start, end - start)]


def assemble(blocks: Sequence[Block]) -> tuple[int, Signal]:
    """Return the start (ms) and the joined values of blocks of one lead and one rate, in order of time; NaN where there is nothing.

    Where blocks overlap the earlier one stays. A block whose rounded start is within one sample of the end of the
    previous one continues it, so that rounding to milliseconds makes no gaps.
    """
    first, rate = blocks[0].start_ms, blocks[0].rate
    places: list[tuple[int, Signal]] = []
    end = 0
    for block in blocks:
        at = round((block.start_ms - first) * rate / 1000)
        at = end if abs(at - end) <= 1 else at
        places.append((at, block.values))
        end = max(end, at + len(block.values))
    joined = np.full(end, np.nan)
    for at, values in reversed(places):
        part = joined[at : at + len(values)]
        part[:] = np.where(np.isnan(values), part, values)
    return first, joined


def _pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise Unusable("missing stretches are pairs of start and length")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
