"""What of a record goes into its dead letter: the same on every runtime and in the materialiser."""

from __future__ import annotations

from wardstream.kafka import MOST_RECORD_BYTES

TOO_LARGE = f"left out here, its key and value have more than {MOST_RECORD_BYTES} bytes; "


def fits(key: bytes | None, value: bytes | None) -> bool:
    """Whether a record can be copied into a dead letter.

    Every record can that came as large as it is. One that was compressed on its way may be larger than any topic takes,
    and must not stop whoever meets it: its letter has neither key nor value, and its origin names the record.
    """
    return len(key or b"") + len(value or b"") <= MOST_RECORD_BYTES


def letter(key: bytes | None, value: bytes | None, reason: str) -> tuple[bytes | None, bytes | None, str]:
    """Return key, value and reason of a record's dead letter; a reason that begins with `TOO_LARGE` says that both were left out."""
    return (key, value, reason) if fits(key, value) else (None, None, TOO_LARGE + reason)
