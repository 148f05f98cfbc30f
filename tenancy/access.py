"""The audit of access: who read or wrote which data, allowed or refused, in one chain of lines for each process.

An entry is on the disk before the answer is given; threads that answer at the same time share one write. Where entries cannot
be kept, nothing is given out.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

import orjson

from tenancy.model import Principal
from tenancy.policy import Action, Decision, require
from wardstream.chain import ChainHead, newest_lines, sealed, segments
from wardstream.clock import Clock
from wardstream.errors import Conflict, Unavailable
from wardstream.names import ProjectName
from wardstream.settings import ProcessSettings
from wardstream.telemetry import request_id

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 64 << 20
# What is asked all the time and tells nothing of patients: only refusals are kept.
_QUIET = frozenset(
    {
        Action.PROJECT_LIST,
        Action.PROJECT_DESCRIBE,
        Action.MEMBER_LIST,
        Action.DATASET_LIST,
        Action.SCHEMA_READ,
        Action.MODEL_DESCRIBE,
        Action.PROCESSOR_DESCRIBE,
        Action.PROGRAM_DESCRIBE,
    }
)


@dataclass(frozen=True)
class AccessEvent:
    """One decision about data. Names and numbers only: never a value of a record, an identifier of a patient, a literal of SQL."""

    principal: str
    surface: str
    action: str
    project: str | None
    dataset: str | None
    allowed: bool
    reason: str = ""
    person: str | None = None
    serial: str | None = None
    request: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """What only some entries have, such as the count of a minute's requests at the broker."""

    def document(self) -> dict[str, Any]:
        """Return the entry's fields; those that are empty are left out."""
        found = {
            "principal": self.principal,
            "person": self.person,
            "serial": self.serial,
            "surface": self.surface,
            "action": self.action,
            "project": self.project,
            "dataset": self.dataset,
            "outcome": "allowed" if self.allowed else "refused",
            "reason": self.reason or None,
            "request": self.request,
            **self.more,
        }
        return {key: value for key, value in found.items() if value is not None}


def access_event(
    principal: Principal, action: str, *, surface: str, project: str | None, dataset: str | None, decision: Decision
) -> AccessEvent:
    """Return the entry of a decision about `principal`, within the request that is being answered."""
    return AccessEvent(
        principal=principal.name,
        surface=surface,
        action=action,
        project=project,
        dataset=dataset,
        allowed=decision.allowed,
        reason=decision.reason[:300],
        person=principal.person,
        serial=principal.serial,
        request=request_id(),
    )


class _Batch:
    """What one thread waits for: that its events are written, or that it is its turn to write all that wait."""

    def __init__(self, events: Sequence[AccessEvent]) -> None:
        self.events = events
        self.done = False
        self.failure: OSError | None = None
        self.called = threading.Event()


class AccessJournal:
    """The chain that one process writes. Thread-safe; one process at a time, which a lock in its folder holds."""

    def __init__(self, folder: Path, process: str, clock: Clock) -> None:
        """Open the chain, or begin it. What a crash left of a line that was being written is dropped: its answer was never given.

        Raises `Conflict` where another process has it open.
        """
        self.folder = folder
        self.process = process
        self._clock = clock
        self._waiting: list[_Batch] = []
        self._lock = threading.Lock()
        self._writing = False
        self._trouble: str | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(self._held, LOCK_EX | LOCK_NB)
        except OSError as error:
            raise Conflict(f"the audit of {process} is being written by another process") from error
        self._file, self._size, self._head = self._opened()

    @classmethod
    def of(cls, settings: ProcessSettings, clock: Clock) -> AccessJournal:
        """Open the chain of the process that has these settings."""
        process = settings.name.removeprefix("ws-")
        return cls(settings.home / "audit" / process, process, clock)

    @property
    def head(self) -> ChainHead:
        """The newest entry that is on the disk."""
        return self._head

    def trouble(self) -> str | None:
        """Return why entries cannot be kept, or None; known since the last attempt."""
        return self._trouble

    def record(self, *events: AccessEvent) -> None:
        """Return when `events` are on the disk; raises `Unavailable` when they cannot be kept, and then nothing may be given out."""
        if not events:
            return
        batch = _Batch(events)
        with self._lock:
            self._waiting.append(batch)
            first = not self._writing
            self._writing = True
        # Not a lock that all of them queue for: who has been written wakes once, and takes nobody's turn.
        if first or not (batch.called.wait() and batch.done):
            self._write_all_that_wait()
        if batch.failure is not None:
            raise Unavailable("access cannot be audited at this moment, so nothing is given out", reason=str(batch.failure))

    def require(
        self,
        decision: Decision,
        principal: Principal,
        action: Action,
        *,
        surface: str,
        project: ProjectName | None,
        dataset: str | None = None,
        thing: str = "this",
    ) -> None:
        """Keep the decision and return when it allows; raises as `policy.require` does. Lists and descriptions are kept when refused."""
        if not decision.allowed or action not in _QUIET:
            self.record(access_event(principal, action, surface=surface, project=project, dataset=dataset, decision=decision))
        require(decision, thing)

    def close(self) -> None:
        """Give the chain free."""
        os.close(self._file)
        os.close(self._held)

    def _write_all_that_wait(self) -> None:
        with self._lock:
            batches, self._waiting = self._waiting, []
        try:
            self._write(batches)
        finally:
            for batch in batches:
                # Only where an event could not be written as JSON: nobody may wait for ever, or take it for kept.
                if not batch.done:
                    batch.failure, batch.done = OSError("the entry could not be made"), True
                    batch.called.set()
            with self._lock:
                self._writing = bool(self._waiting)
                following = self._waiting[0] if self._waiting else None
            if following is not None:
                following.called.set()

    def _write(self, batches: Sequence[_Batch]) -> None:
        at = self._clock.now().isoformat(timespec="microseconds")
        number, seal = self._head.number, self._head.seal
        lines: list[bytes] = []
        for batch in batches:
            for event in batch.events:
                number += 1
                content = orjson.dumps({"n": number, "at": at, "process": self.process, **event.document(), "salt": secrets.token_hex(16)})
                line, seal = sealed(content, seal)
                lines.append(line)
        failure: OSError | None = None
        try:
            if self._size >= _SEGMENT_BYTES:
                self._next_segment()
            raw = memoryview(b"".join(lines))
            written = 0
            while written < len(raw):
                written += os.pwrite(self._file, raw[written:], self._size + written)
            os.fdatasync(self._file)
            self._size += len(raw)
            self._head = ChainHead(number, seal)
        except OSError as error:
            failure = error
            # A part of a line must not stay in front of the next one.
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            logger.error("access cannot be audited", extra={"reason": str(error)})
        self._trouble = f"access cannot be audited: {failure.strerror}" if failure is not None else None
        for batch in batches:
            batch.failure, batch.done = failure, True
            batch.called.set()

    def _opened(self) -> tuple[int, int, ChainHead]:
        files = segments(self.folder)
        if not files:
            return self._created(1), 0, ChainHead()
        newest = files[-1]
        descriptor = os.open(newest, os.O_RDWR)
        raw = newest.read_bytes()
        whole = raw.rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        number = int(newest.stem) - 1 + raw.count(b"\n", 0, whole)
        if whole:
            return descriptor, whole, ChainHead(number, raw[whole - 65 : whole - 1].decode("ascii"))
        # Begun, and nothing written yet: the head is in the file before.
        before = next(newest_lines(self.folder), b"")
        return descriptor, 0, ChainHead(number, before[-65:-1].decode("ascii")) if before else ChainHead()

    def _next_segment(self) -> None:
        made = self._created(self._head.number + 1)
        os.close(self._file)
        self._file, self._size = made, 0

    def _created(self, first: int) -> int:
        descriptor = os.open(self.folder / f"{first:012d}.log", os.O_RDWR | os.O_CREAT, 0o600)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return descriptor


_EXACT = frozenset({"principal", "person", "project", "dataset", "action", "surface", "outcome", "request"})


def found_in(folder: Path, filters: Mapping[str, str | int | bool | None]) -> list[dict[str, Any]]:
    """Return the entries of a chain that fit `filters`, the newest first, at most `limit` of them."""
    limit = int(filters.get("limit") or 100)
    exact = {key: str(value) for key, value in filters.items() if key in _EXACT and value is not None}
    since, until, text = (filters.get(key) for key in ("since", "until", "text"))
    found: list[dict[str, Any]] = []
    upto, below = filters.get("upto"), filters.get("below")
    for line in newest_lines(folder):
        if text is not None and str(text).encode() not in line:
            continue
        entry: dict[str, Any] = orjson.loads(line[:-66])
        if since is not None and entry["at"] < str(since):
            break
        if until is not None and entry["at"] >= str(until):
            continue
        if upto is not None and (entry["at"] > str(upto) or (entry["at"] == str(upto) and below is not None and entry["n"] >= int(below))):
            continue
        if all(entry.get(key) == value for key, value in exact.items()) and "cursor" not in entry:
            entry.pop("salt", None)
            found.append(entry)
            if len(found) >= limit:
                break
    return found
