"""How far event time has come in one partition, and how that is kept with the committed offset."""

from __future__ import annotations

from dataclasses import dataclass

from wardstream.errors import Invalid

# librdkafka hands the text on without an end, and confluent-kafka reads on to the first zero byte: random characters behind
# it, or a UnicodeDecodeError. With one of our own it stops where it should.
_END = "\0"


@dataclass(frozen=True)
class Progress:
    """State of one partition that survives a restart.

    `position` is the next offset never processed so far. `watermark_ms` is the event time before which nothing more is expected;
    None until a record came. Records between the committed offset and `position` are read again only to rebuild open windows.
    """

    position: int = 0
    watermark_ms: int | None = None

    def seen(self, offset: int, watermark_ms: int | None) -> Progress:
        """Return the progress after the record at `offset`; a watermark never goes back."""
        known = [value for value in (self.watermark_ms, watermark_ms) if value is not None]
        return Progress(max(self.position, offset + 1), max(known, default=None))


def to_metadata(progress: Progress) -> str:
    """Return the text that is committed beside an offset, so that both change together or not at all."""
    return f"ws1 {progress.position} {'-' if progress.watermark_ms is None else progress.watermark_ms}{_END}"


def from_metadata(text: str | None) -> Progress | None:
    """Return what `to_metadata` wrote, or None for an empty text; raises `Invalid` for a text of anybody else."""
    if not text:
        return None
    parts = text.removesuffix(_END).split(" ")
    try:
        if len(parts) != 3 or parts[0] != "ws1":
            raise ValueError("unknown form")
        return Progress(int(parts[1]), None if parts[2] == "-" else int(parts[2]))
    except ValueError as error:
        raise Invalid("the offset was committed by another program: give the processor a new state version") from error
