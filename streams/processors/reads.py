"""Sequencer reads as records: one record a read, without its bases.

The event time of a row is the END of its minute, as for every window: the value is not known before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from streams.model import Measurement, Parameter, Unusable

SCHEMA: Mapping[str, Any] = {
    "type": "record",
    "name": "SequencerRead",
    "namespace": "wardstream.sequencer.v1",
    "doc": "One read of a nanopore sequencer, summarised. One of length 0 without a read_id ends a replay. The record key is the channel.",
    "fields": [
        {"name": "device_id", "type": "string"},
        {"name": "run_id", "type": "string"},
        {"name": "read_id", "type": "string"},
        {"name": "channel", "type": "int"},
        {"name": "start_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "length", "type": "int", "doc": "bases"},
        {"name": "mean_quality", "type": "double", "doc": "Phred quality of the mean error probability, not the mean of qualities"},
        {"name": "gc_bases", "type": "int", "doc": "G and C"},
        {"name": "acgt_bases", "type": "int", "doc": "A, C, G and T; N is left out"},
    ],
}

# Phred 93 is the highest that FASTQ can write.
_BEST_QUALITY = 93.0


def measure(record: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> Measurement:
    """Return what one read adds to its minute, or raise `Unusable`."""
    devices = parameters.get("devices", ())
    if isinstance(devices, tuple) and devices and record["device_id"] not in devices:
        raise Unusable("the device is not one of this processor's")
    if not record["read_id"] and not record["length"]:
        return Measurement((record["device_id"], ""), record["start_time"], closing=True)
    channel, length, quality = record["channel"], record["length"], record["mean_quality"]
    if channel < 1:
        raise Unusable(f"channels are counted from 1, got {channel}")
    if not 0 <= record["gc_bases"] <= record["acgt_bases"] <= length:
        raise Unusable("gc_bases, acgt_bases and length contradict each other")
    if not math.isfinite(quality) or not 0 <= quality <= _BEST_QUALITY:
        raise Unusable(f"mean_quality must be between 0 and {_BEST_QUALITY:g}")
    size = int(str(parameters.get("channels_per_group", 128)))
    first = (channel - 1) // size * size + 1
    return Measurement(
        (record["device_id"], f"{first}-{first + size - 1}"),
        record["start_time"],
        f"{record['run_id']} {record['read_id']}",
        values={
            "length": length,
            "mean_quality": float(quality),
            "gc_bases": record["gc_bases"],
            "acgt_bases": record["acgt_bases"],
        },
    )


def closing(device: str, at_ms: int) -> dict[str, Any]:
    """Return the record that ends a replay at `at_ms`; send it to every partition."""
    return {
        "device_id": device,
        "run_id": "",
        "read_id": "",
        "channel": 1,
        "start_time": at_ms,
        "length": 0,
        "mean_quality": 0.0,
        "gc_bases": 0,
        "acgt_bases": 0,
    }
