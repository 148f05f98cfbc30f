"""Dead letters: a record that could not be used, kept as it was, with the reason and where it came from in its headers.

One for each (topic, partition, offset): whoever writes them does so before it commits the source's offset, and a reader takes
the first of equal origins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from wardstream.clock import from_ms, to_ms
from wardstream.errors import Invalid

_REASON = "ws.reason"
_TOPIC = "ws.topic"
_PARTITION = "ws.partition"
_OFFSET = "ws.offset"
_PROCESSOR = "ws.processor"
_AT = "ws.at"
# Reasons are written by us; this bounds what a library's words may add.
_MOST_REASON = 500

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class DeadLetter:
    """What the headers of a dead letter say."""

    reason: str
    topic: str
    partition: int
    offset: int
    processor: str
    at: datetime

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where the record stood: one dead letter for each."""
        return self.topic, self.partition, self.offset


def headers(reason: str, topic: str, partition: int, offset: int, processor: str, at: datetime) -> Headers:
    """Return the headers of a dead letter; its key and value are the record's own. `reason` holds no value of the record."""
    return [
        (_REASON, reason[:_MOST_REASON].encode()),
        (_TOPIC, topic.encode()),
        (_PARTITION, str(partition).encode()),
        (_OFFSET, str(offset).encode()),
        (_PROCESSOR, processor.encode()),
        (_AT, str(to_ms(at)).encode()),
    ]


def parse(found: Iterable[tuple[str, bytes | str | None]] | None) -> DeadLetter:
    """Return what the headers say, whatever else stands among them; raises `Invalid` where they are not a dead letter's."""
    texts = {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in found or ()}
    try:
        return DeadLetter(
            reason=_present(texts, _REASON),
            topic=_present(texts, _TOPIC),
            partition=int(_present(texts, _PARTITION)),
            offset=int(_present(texts, _OFFSET)),
            processor=_present(texts, _PROCESSOR),
            at=from_ms(int(_present(texts, _AT))),
        )
    except (ValueError, OverflowError) as error:
        raise Invalid("not a dead letter: a number among its headers is none") from error


def _present(texts: dict[str, str | None], name: str) -> str:
    value = texts.get(name)
    if value is None:
        raise Invalid(f"not a dead letter: the header {name} is missing")
    return value
