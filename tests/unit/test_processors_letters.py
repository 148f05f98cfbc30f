"""What of a record goes into its dead letter."""

from __future__ import annotations

import pytest

from streams.letters import TOO_LARGE, letter
from wardstream.kafka import MOST_RECORD_BYTES


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"bed1", b""), (None, bytes(MOST_RECORD_BYTES)), (b"bed1", bytes(1000))])
def test_a_letter_is_the_record_as_it_was(key: bytes | None, value: bytes | None) -> None:
    assert letter(key, value, "not Avro") == (key, value, "not Avro")


@pytest.mark.parametrize(("key", "value"), [(b"k", bytes(MOST_RECORD_BYTES)), (None, bytes(MOST_RECORD_BYTES + 1)), (bytes(1 << 25), None)])
def test_what_fits_no_topic_is_left_out_and_the_reason_says_so(key: bytes | None, value: bytes | None) -> None:
    assert letter(key, value, "not Avro") == (None, None, TOO_LARGE + "not Avro")
