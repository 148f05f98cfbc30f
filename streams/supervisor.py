"""Keeping things running: one thread for each, restarts with growing waits, a stop where restarting is of no use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from streams.repository import Condition
from streams.restarts import Restarts
from wardstream import processes
from wardstream.clock import Clock
from wardstream.errors import WardstreamError
from wardstream.processes import ProcessRecord

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2


class Unit(Protocol):
    """Something that can run: a process, or a job on a cluster."""

    @property
    def key(self) -> str:
        """Its name, which no other unit has."""
        ...

    def start(self) -> datetime | None:
        """Start it and return when it should be started afresh because its certificate grows old; raises one of our errors."""
        ...

    def failure(self) -> str | None:
        """Return nothing while it runs, else why it does not, in words that may be shown."""
        ...

    def stop(self) -> None:
        """End it; harmless when it does not run."""
        ...


@dataclass(frozen=True)
class Status:
    """What a unit does."""

    state: Condition
    reason: str | None
    restarts: int
    since: datetime


class Supervisor:
    """Runs units. Thread-safe; every unit is started, looked at and stopped by one thread of its own."""

    def __init__(self, clock: Clock, *, changed: Callable[[str, Status], None] = lambda key, status: None) -> None:
        """`changed` is told of each change of a unit's status, on the unit's thread."""
        self._clock = clock
        self._changed = changed
        self._keepers: dict[str, _Keeper] = {}
        self._lock = threading.Lock()

    def keep(self, unit: Unit, *, give_up: bool) -> None:
        """Run `unit` from now on, in place of what runs under its key. With `give_up`, not for ever: see `Restarts`."""
        with self._lock:
            before = self._keepers.pop(unit.key, None)
        if before is not None:
            before.end()
        keeper = _Keeper(unit, self._clock, self._changed, give_up=give_up)
        with self._lock:
            self._keepers[unit.key] = keeper
        keeper.begin()

    def drop(self, key: str) -> None:
        """Stop the unit and forget it; returns when it is stopped. Harmless for an unknown key."""
        with self._lock:
            keeper = self._keepers.pop(key, None)
        if keeper is not None:
            keeper.end()

    def status(self) -> Mapping[str, Status]:
        """Return what each unit does."""
        with self._lock:
            keepers = dict(self._keepers)
        return {key: keeper.status for key, keeper in keepers.items()}

    def keys(self) -> Collection[str]:
        """Return the keys of all units."""
        with self._lock:
            return list(self._keepers)

    def stop(self) -> None:
        """Stop all units, all at once; returns when they are stopped."""
        with self._lock:
            keepers, self._keepers = list(self._keepers.values()), {}
        for keeper in keepers:
            keeper.ask()
        for keeper in keepers:
            keeper.end()


class _Keeper:
    def __init__(self, unit: Unit, clock: Clock, changed: Callable[[str, Status], None], *, give_up: bool) -> None:
        self._unit = unit
        self._clock = clock
        self._changed = changed
        self._give_up = give_up
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper {unit.key}", daemon=True)
        self._restarts = Restarts()
        self.status = Status(Condition.STARTING, None, 0, clock.now())

    def begin(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        self._asked.set()

    def end(self) -> None:
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._asked.is_set():
            began = time.monotonic()
            failure = self._once()
            if failure is None:
                continue  # asked to stop, or started afresh on purpose
            self._stop_unit()
            self._restarts = self._restarts.after(time.monotonic() - began)
            if self._give_up and self._restarts.given_up():
                self._say(Condition.FAILED, f"it failed {self._restarts.in_a_row} times in a row, the last time: {failure}")
                self._asked.wait()
                break
            self._say(Condition.WAITING, failure)
            self._asked.wait(self._restarts.wait_seconds())
        self._stop_unit()

    def _once(self) -> str | None:
        """Start the unit and return why it failed, or None when it was ended on purpose."""
        self._say(Condition.STARTING, self.status.reason)
        try:
            renew_at = self._unit.start()
            self._say(Condition.RUNNING, None)
            while not self._asked.wait(_LOOK_SECONDS):
                if reason := self._unit.failure():
                    return reason
                if renew_at is not None and self._clock.now() >= renew_at:
                    logger.info("started afresh, for a new certificate", extra={"unit": self._unit.key})
                    self._stop_unit()
                    return None
        except WardstreamError as error:
            return error.message
        except Exception:
            # The thread must live: whatever was wrong may be right at the next start.
            logger.exception("a unit could not be run", extra={"unit": self._unit.key})
            return "something went wrong here; the log of the stream worker says what"
        return None

    def _stop_unit(self) -> None:
        try:
            self._unit.stop()
        except Exception:
            logger.exception("a unit could not be stopped", extra={"unit": self._unit.key})

    def _say(self, state: Condition, reason: str | None) -> None:
        before = self.status
        self.status = Status(state, reason, self._restarts.total, self._clock.now())
        if state is Condition.WAITING or state is Condition.FAILED:
            logger.warning(
                "a unit fell",
                extra={"unit": self._unit.key, "state": state.value, "reason": reason, "restarts": self._restarts.total},
            )
        elif state is Condition.RUNNING:
            logger.info("a unit runs", extra={"unit": self._unit.key, "restarts": self._restarts.total})
        if (before.state, before.reason, before.restarts) != (state, reason, self._restarts.total):
            self._changed(self._unit.key, self.status)


class ProcessUnit:
    """A unit that is one child process; `command` prepares its files and starts it."""

    def __init__(
        self, key: str, command: Callable[[], tuple[ProcessRecord, datetime | None]], *, records: Path, why: Callable[[int | None], str]
    ) -> None:
        """`why` says what an exit code means, or what is to be said where there is none."""
        self._key = key
        self._command = command
        self._records = records
        self._why = why
        self._record: ProcessRecord | None = None
        self._code: int | None = None

    @property
    def key(self) -> str:
        """Its name, and that of its record."""
        return self._key

    @property
    def record(self) -> ProcessRecord | None:
        """The process that was started last."""
        return self._record

    def start(self) -> datetime | None:
        """See `Unit`."""
        self._code = None
        self._record, renew_at = self._command()
        return renew_at

    def failure(self) -> str | None:
        """See `Unit`."""
        if self._record is None:
            return "it was not started"
        code = processes.reap(self._record)
        self._code = code if code is not None else self._code
        return None if self._record.alive else self._why(self._code)

    def stop(self) -> None:
        """See `Unit`."""
        if self._record is not None:
            processes.stop(self._record, folder=self._records)
            self._record = None


def end_left_behind(records: Path, prefixes: tuple[str, ...]) -> int:
    """End what an earlier run of this process started and could not stop; returns how many were found alive."""
    found = [record for record in processes.recorded(records) if record.name.startswith(prefixes)]
    alive = [record for record in found if record.alive]
    for record in found:
        processes.stop(record, folder=records, seconds=5)
    return len(alive)
