"""The audit of rights: entries chained by hash, written in the transaction of what they tell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

FIRST_HASH = "0" * 64

# What an entry says beyond its fixed parts: names, numbers, lists of names. Never a token, key or patient's value.
Detail = str | int | bool | None | list[str]


class Outcome(StrEnum):
    """Refusals are entries too."""

    ALLOWED = "allowed"
    REFUSED = "refused"


@dataclass(frozen=True)
class AuditEvent:
    """What happened: `principal` did, or was refused, `action` on `subject`."""

    principal: str
    project: str | None
    action: str
    subject: str
    outcome: Outcome
    details: Mapping[str, Detail]


@dataclass(frozen=True)
class AuditEntry:
    """One link of the chain. `at` and `details` are the very characters that the hash is over."""

    sequence: int
    at: str
    principal: str
    project: str | None
    action: str
    subject: str
    outcome: str
    details: str
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Head:
    """Number and hash of the newest entry, kept apart from the entries."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class Verification:
    """What checking the chain found; `broken_at` is the number of the first entry that is not as it was written."""

    entries: int
    intact: bool
    broken_at: int | None


def link(event: AuditEvent, at: datetime, head: Head) -> AuditEntry:
    """Return the entry of `event` that follows `head`."""
    unsealed = AuditEntry(
        sequence=head.sequence + 1,
        at=at.isoformat(timespec="microseconds"),
        principal=event.principal,
        project=event.project,
        action=event.action,
        subject=event.subject,
        outcome=event.outcome.value,
        details=json.dumps(dict(event.details), sort_keys=True, separators=(",", ":")),
        previous_hash=head.hash,
        hash="",
    )
    return AuditEntry(**{**vars(unsealed), "hash": entry_hash(unsealed)})


def entry_hash(entry: AuditEntry) -> str:
    """Return SHA-256 over everything an entry says, the hash of the entry before included."""
    # A JSON list keeps the borders between fields, so that no text can move from one into the next.
    parts = [
        entry.sequence,
        entry.at,
        entry.principal,
        entry.project,
        entry.action,
        entry.subject,
        entry.outcome,
        entry.details,
        entry.previous_hash,
    ]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def verify(entries: Iterable[AuditEntry], head: Head) -> Verification:
    """Check `entries`, which must come in the order they are kept, against each other and against `head`.

    Finds any entry edited, removed, added, put elsewhere or cut off at the end. Not found: a chain that somebody
    who may write both the entries and the head has made anew from some entry on.
    """
    before = Head(0, FIRST_HASH)
    for entry in entries:
        if entry.sequence != before.sequence + 1 or entry.previous_hash != before.hash or entry.hash != entry_hash(entry):
            return Verification(before.sequence, intact=False, broken_at=before.sequence + 1)
        before = Head(entry.sequence, entry.hash)
    if before != head:
        return Verification(before.sequence, intact=False, broken_at=min(before.sequence, head.sequence) + 1)
    return Verification(before.sequence, intact=True, broken_at=None)
