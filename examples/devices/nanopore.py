"""A nanopore sequencer: real reads of 2017 and 2018 out of FASTQ files, in the order of their start times.

The files hold several runs and are not in time order; start times have whole seconds, so ties are broken by run,
channel and read number, which together name a read.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

_PHRED_ZERO = 33


def records(files: Sequence[Path], *, device: str) -> list[dict[str, Any]]:
    """Return one record per read of all files, oldest first; raises `ValueError` naming file and line of what is no FASTQ."""
    found = {(read["run_id"], read["read_id"]): read for file in files for read in _reads(file, device)}
    return sorted(found.values(), key=lambda read: (read["start_time"], read["run_id"], read["channel"], read["read_id"]))


def _reads(file: Path, device: str) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="ascii") as source:
        for number, header in enumerate(source):
            bases, plus, quality = (next(source, "").rstrip("\n") for _ in range(3))
            if not header.startswith("@") or not plus.startswith("+") or not bases or len(bases) != len(quality):
                raise ValueError(f"{file.name}, read {number + 1}: not a FASTQ record")
            name, *words = header[1:].split()
            facts = dict(word.partition("=")[::2] for word in words)
            upper = bases.upper()
            counts = {base: upper.count(base) for base in "ACGT"}
            yield {
                "device_id": device,
                "run_id": facts["runid"],
                "read_id": name,
                "channel": int(facts["ch"]),
                "start_time": int(datetime.fromisoformat(facts["start_time"]).timestamp() * 1000),
                "length": len(bases),
                "mean_quality": _mean_quality(quality),
                "gc_bases": counts["G"] + counts["C"],
                "acgt_bases": sum(counts.values()),
            }


def _mean_quality(text: str) -> float:
    """Return the Phred quality of the mean error probability; the mean of the qualities would flatter."""
    # Wider than the bytes before anything is computed: unsigned bytes would wrap below zero.
    phred = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.float64) - _PHRED_ZERO
    return -10 * math.log10(float(np.mean(10 ** (-phred / 10))))
