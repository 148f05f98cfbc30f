"""Dead letters say why and where from."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from topics.deadletter import DeadLetter, headers, parse
from wardstream.errors import Invalid

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
LETTER = DeadLetter("field rate: not a number", "icu.ecg", 2, 77, "ecg-10s", AT)


def test_headers_are_read_back_among_others() -> None:
    written = headers(LETTER.reason, LETTER.topic, LETTER.partition, LETTER.offset, LETTER.processor, LETTER.at)
    assert [name for name, _ in written] == ["ws.reason", "ws.topic", "ws.partition", "ws.offset", "ws.processor", "ws.at"]
    assert parse([("other", None), *written]) == LETTER


def test_a_long_reason_is_cut() -> None:
    assert len(parse(headers("x" * 5000, "t", 0, 0, "p", AT)).reason) == 500


@pytest.mark.parametrize("damaged", [None, [], [("ws.reason", b"x")], [*headers("r", "t", 0, 0, "p", AT)[:5], ("ws.at", b"soon")]])
def test_other_records_are_no_dead_letters(damaged: list[tuple[str, bytes | str | None]] | None) -> None:
    with pytest.raises(Invalid, match="not a dead letter"):
        parse(damaged)


def test_a_letter_that_repeats_another_has_its_origin() -> None:
    again = DeadLetter("later", "icu.ecg", 2, 77, "ecg-10s", AT)
    other = DeadLetter("other", "icu.ecg", 2, 78, "ecg-10s", AT)
    assert {each.origin for each in (LETTER, again, other)} == {LETTER.origin, other.origin}
