"""Packing a second of signal into a record, and what is refused when it comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.model import Unusable
from streams.processors import waveform

samples = st.lists(st.integers(-(2**15), 2**15 - 1), max_size=50).map(lambda numbers: np.array(numbers, np.int16))


def _record(**changes: Any) -> dict[str, Any]:
    packed = waveform.pack(np.array([0.0, 1.0, 2.0]), device="ecg-bed1", lead="II", rate=(3, 1), start_ms=1000, unit="mV", scale=0.001)
    return {**packed, **changes}


@given(samples)
def test_differences_never_overflow(numbers: np.ndarray[Any, Any]) -> None:
    assert (waveform.samples_of(waveform.delta_bytes(numbers)) == numbers).all()


@given(st.lists(st.one_of(st.integers(-30_000, 30_000), st.none()), min_size=1, max_size=40))
def test_what_was_not_received_comes_back_as_missing(numbers: list[int | None]) -> None:
    values = np.array([np.nan if number is None else number / 1000 for number in numbers])
    packed = waveform.pack(values, device="d", lead="II", rate=(100, 1), start_ms=0, unit="mV", scale=0.001)
    back = waveform.unpack(packed).values
    assert (np.isnan(back) == np.isnan(values)).all()
    assert np.allclose(back[~np.isnan(back)], values[~np.isnan(values)], atol=0.0005)


def test_a_block_lasts_as_long_as_its_samples() -> None:
    block = waveform.unpack(_record(fs_num=624_725, fs_den=10_000, count=3))
    assert block.span_ms == 48
    assert block.start_ms == 1000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"count": 4}, "the samples are 6 bytes, count 4 needs 8"),
        ({"count": -1}, "the samples are 6 bytes, count -1 needs 0"),
        ({"samples": b"\x00" * 5}, "the samples are 5 bytes"),
        ({"fs_num": 0}, "the rate is not positive"),
        ({"fs_den": 100}, "a rate of 0.03 Hz"),
        ({"scale": float("nan")}, "scale or offset is NaN or infinite"),
        ({"offset": float("inf")}, "scale or offset is NaN or infinite"),
        ({"scale": 0.0}, "scale is zero"),
        ({"missing": [0]}, "pairs"),
        ({"missing": [2, 2]}, "outside the block"),
        ({"missing": [-1, 1]}, "outside the block"),
        ({"count": 33, "samples": b"\x00" * 66}, "longer than 10 s"),
    ],
)
def test_a_block_that_contradicts_itself_is_unusable(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        waveform.unpack(_record(**changes))


def test_a_value_beyond_16_bits_is_not_packed() -> None:
    with pytest.raises(Unusable, match="does not fit into 16 bits"):
        waveform.pack(np.array([40.0]), device="d", lead="II", rate=(1, 1), start_ms=0, unit="mV", scale=0.001)


def test_blocks_join_over_rounded_times_and_keep_real_gaps() -> None:
    def block(start_ms: int, *values: float) -> waveform.Block:
        return waveform.Block("d", "II", 3.0, start_ms, np.array(values))

    # At 3 Hz the second block begins at 1000 ms, the third one at 2000 ms; one was rounded badly and one was lost.
    start, joined = waveform.assemble([block(0, 1, 2, 3), block(1100, 4, 5, 6), block(3000, 10, 11, 12)])
    assert start == 0
    assert joined[:6].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isnan(joined[6:9]).all()
    assert joined[9:].tolist() == [10, 11, 12]


def test_of_overlapping_blocks_the_earlier_one_stays() -> None:
    first = waveform.Block("d", "II", 1.0, 0, np.array([1.0, np.nan, 3.0]))
    second = waveform.Block("d", "II", 1.0, 1000, np.array([20.0, 30.0, 40.0]))
    assert waveform.assemble([first, second])[1].tolist() == [1, 20, 3, 40]
