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
from wardstream.errors import Unavailable, WardstreamError
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
class _Failure:
    """Why a unit does not run; `away` when it could not be started because something else is not there."""

    reason: str
    away: bool = False


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
        # Asked to stop and still at it: what is kept next under the key waits for them.
        self._leaving: dict[str, _Keeper] = {}
        self._stopped = False
        self._lock = threading.Lock()

    def keep(self, unit: Unit, *, give_up: bool) -> None:
        """Run `unit` from now on, in place of what runs under its key. With `give_up`, not for ever: see `Restarts`.

        Returns at once; the unit is started when what ran under its key is stopped, and not at all after `stop`.
        """
        with self._lock:
            if self._stopped:
                return
            self._dismiss(unit.key)
            keeper = _Keeper(unit, self._clock, self._changed, give_up=give_up, after=self._leaving.get(unit.key))
            self._keepers[unit.key] = keeper
            keeper.begin()

    def drop(self, key: str) -> None:
        """Stop the unit and forget it; returns when it is stopped. Harmless for an unknown key."""
        if (keeper := self._dismissed(key)) is not None:
            keeper.join()

    def dismiss(self, key: str, then: Callable[[], None]) -> None:
        """Ask the unit to stop and forget it; returns at once. `then` is called when it is stopped, at once where none runs."""
        if (keeper := self._dismissed(key)) is None or not keeper.call_at_its_end(then):
            then()

    def status(self) -> Mapping[str, Status]:
        """Return what each unit does."""
        with self._lock:
            keepers = dict(self._keepers)
        return {key: keeper.status for key, keeper in keepers.items()}

    def keys(self) -> Collection[str]:
        """Return the keys of all units."""
        with self._lock:
            return list(self._keepers)

    def stop(self, *, seconds: float | None = None) -> bool:
        """Stop all units, all at once, for good; returns when they are stopped or `seconds` are over, and whether all are stopped."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._lock:
            self._stopped = True
            for key in list(self._keepers):
                self._dismiss(key)
            keepers = list(self._leaving.values())
        return all(keeper.join(deadline) for keeper in keepers)

    def _dismissed(self, key: str) -> _Keeper | None:
        with self._lock:
            self._dismiss(key)
            return self._leaving.get(key)

    def _dismiss(self, key: str) -> None:
        self._leaving = {each: keeper for each, keeper in self._leaving.items() if keeper.alive}
        if (keeper := self._keepers.pop(key, None)) is not None:
            keeper.ask()
            self._leaving[key] = keeper


class _Keeper:
    def __init__(
        self, unit: Unit, clock: Clock, changed: Callable[[str, Status], None], *, give_up: bool, after: _Keeper | None = None
    ) -> None:
        self._unit = unit
        self._clock = clock
        self._changed = changed
        self._give_up = give_up
        self._after = after
        self._last: list[Callable[[], None]] = []
        self._ended = False
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper {unit.key}", daemon=True)
        self._restarts = Restarts()
        self.status = Status(Condition.STARTING, None, 0, clock.now())

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def begin(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        self._asked.set()

    def join(self, deadline: float | None = None) -> bool:
        """Return when the thread has ended or at `deadline`, and whether it has ended."""
        self._thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not self.alive

    def call_at_its_end(self, then: Callable[[], None]) -> bool:
        """Have the thread call `then` last; returns False where it has ended before."""
        with self._lock:
            if not self._ended:
                self._last.append(then)
            return not self._ended

    def _run(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        self._keep()
        with self._lock:
            self._ended = True
        for then in self._last:
            self._guarded(then, "what was to follow a unit's end was not done")

    def _keep(self) -> None:
        while not self._asked.is_set():
            began = time.monotonic()
            failure = self._once()
            if failure is None:
                continue  # asked to stop, or started afresh on purpose
            self._stop_unit()
            self._restarts = self._restarts.after(time.monotonic() - began, away=failure.away)
            if self._give_up and self._restarts.given_up():
                times = self._restarts.in_a_row - self._restarts.away
                self._say(Condition.FAILED, f"it failed {times} times in a row, the last time: {failure.reason}")
                self._asked.wait()
                break
            self._say(Condition.WAITING, failure.reason)
            self._asked.wait(self._restarts.wait_seconds())
        self._stop_unit()

    def _once(self) -> _Failure | None:
        """Start the unit and return why it failed, or None when it was ended on purpose."""
        self._say(Condition.STARTING, self.status.reason)
        started = False
        try:
            renew_at = self._unit.start()
            started = True
            self._say(Condition.RUNNING, None)
            while not self._asked.wait(_LOOK_SECONDS):
                if reason := self._unit.failure():
                    return _Failure(reason)
                if renew_at is not None and self._clock.now() >= renew_at:
                    logger.info("started afresh, for a new certificate", extra={"unit": self._unit.key})
                    self._stop_unit()
                    return None
        except WardstreamError as error:
            if error.details:
                logger.warning("more of why a unit fell", extra={"unit": self._unit.key, **error.details})
            return _Failure(error.message, away=not started and isinstance(error, Unavailable))
        except Exception:
            # The thread must live: whatever was wrong may be right at the next start.
            logger.exception("a unit could not be run", extra={"unit": self._unit.key})
            return _Failure("something went wrong here; the log of the stream worker says what")
        return None

    def _stop_unit(self) -> None:
        self._guarded(self._unit.stop, "a unit could not be stopped")

    def _guarded(self, do: Callable[[], None], otherwise: str) -> None:
        """Do it; what goes wrong is logged, for the thread must live."""
        try:
            do()
        except Exception:
            logger.exception(otherwise, extra={"unit": self._unit.key})

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
            status = self.status
            self._guarded(lambda: self._changed(self._unit.key, status), "the new status of a unit was not written down")


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
