import threading
import time as clocks
from datetime import UTC, datetime, timedelta

import pytest

from streams.repository import Condition
from streams.restarts import MOST_IN_A_ROW, Restarts
from streams.supervisor import Status, Supervisor, _Keeper
from tests.support.waiting import eventually
from wardstream.clock import ManualClock
from wardstream.errors import Conflict, Unavailable, WardstreamError


class Scripted:
    """A unit that fails as it is told."""

    def __init__(self, key: str = "unit", *, fails_to_start: int = 0, renew_at: datetime | None = None) -> None:
        self.key = key
        self.starts = 0
        self.stops = 0
        self.running = False
        self.broken: str | None = None
        self._fails_to_start = fails_to_start
        self._renew_at = renew_at

    def start(self) -> datetime | None:
        self.starts += 1
        if self.starts <= self._fails_to_start:
            raise Unavailable("the broker is away")
        self.running, self.broken = True, None
        return self._renew_at if self.starts == 1 else None

    def failure(self) -> str | None:
        return self.broken

    def stop(self) -> None:
        self.stops += 1
        self.running = False


def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def test_what_falls_is_started_again() -> None:
    unit, supervisor = Scripted(), Supervisor(clock())
    supervisor.keep(unit, give_up=True)
    eventually(lambda: supervisor.status()["unit"].state is Condition.RUNNING)
    unit.broken = "it ended with code 1"
    eventually(lambda: unit.starts == 2 and supervisor.status()["unit"].restarts == 1)
    supervisor.stop()
    assert not unit.running


def test_what_cannot_be_started_is_tried_again_and_says_why() -> None:
    seen: list[Status] = []
    unit, supervisor = Scripted(fails_to_start=2), Supervisor(clock(), changed=lambda _, status: seen.append(status))
    supervisor.keep(unit, give_up=False)
    eventually(lambda: supervisor.status()["unit"].state is Condition.RUNNING)
    supervisor.stop()
    assert Status(Condition.WAITING, "the broker is away", 1, clock().now()) in seen
    assert seen[-1].reason is None


def test_certificate_that_grows_old_means_a_fresh_start_and_is_no_failure() -> None:
    time = clock()
    unit, supervisor = Scripted(renew_at=time.now() + timedelta(days=3)), Supervisor(time)
    supervisor.keep(unit, give_up=True)
    eventually(lambda: unit.starts == 1 and unit.running)
    time.advance(timedelta(days=4))
    eventually(lambda: unit.starts == 2 and unit.running)
    assert supervisor.status()["unit"].restarts == 0
    supervisor.stop()


def test_keeping_another_unit_under_a_key_stops_the_first() -> None:
    first, second, supervisor = Scripted(), Scripted(), Supervisor(clock())
    supervisor.keep(first, give_up=True)
    eventually(lambda: first.running)
    supervisor.keep(second, give_up=True)
    eventually(lambda: second.running)
    assert not first.running
    supervisor.drop("unit")
    supervisor.drop("unit")
    assert not second.running
    assert supervisor.status() == {}


def test_stop_leaves_no_thread() -> None:
    supervisor = Supervisor(clock())
    for number in range(5):
        supervisor.keep(Scripted(f"unit-{number}"), give_up=True)
    supervisor.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("keeper")]


class Slow(Scripted):
    """A unit that stops when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_stop = threading.Event()

    def stop(self) -> None:
        self.may_stop.wait(10)
        super().stop()


class Unstartable(Scripted):
    """A unit that never starts."""

    def __init__(self, error: WardstreamError) -> None:
        super().__init__()
        self._error = error

    def start(self) -> datetime | None:
        raise self._error


def test_unit_goes_on_when_its_status_cannot_be_written_down() -> None:
    def changed(key: str, status: Status) -> None:
        raise RuntimeError("the database is locked")

    unit, supervisor = Scripted(fails_to_start=1), Supervisor(clock(), changed=changed)
    supervisor.keep(unit, give_up=True)
    eventually(lambda: unit.starts == 2 and supervisor.status()["unit"].state is Condition.RUNNING)
    unit.broken = "it ended with code 1"
    eventually(lambda: unit.starts == 3 and unit.running)
    supervisor.stop()
    assert not unit.running


@pytest.mark.parametrize(("error", "state"), [(Unavailable("control is away"), Condition.WAITING), (Conflict("taken"), Condition.FAILED)])
def test_unit_is_given_up_for_its_own_failures_alone(error: WardstreamError, state: Condition) -> None:
    keeper = _Keeper(Unstartable(error), clock(), lambda key, status: None, give_up=True)
    keeper._restarts = Restarts(MOST_IN_A_ROW - 1, MOST_IN_A_ROW - 1)
    keeper.begin()
    eventually(lambda: keeper.status.state is state)
    keeper.ask()
    assert keeper.join()


def test_dismissed_unit_is_waited_for_by_its_successor_and_by_nobody_else() -> None:
    first, second, supervisor, forgotten = Slow(), Scripted(), Supervisor(clock()), threading.Event()
    supervisor.keep(first, give_up=True)
    eventually(lambda: first.running)
    supervisor.dismiss("unit", forgotten.set)
    assert supervisor.status() == {}
    supervisor.keep(second, give_up=True)
    assert first.running
    assert (second.starts, forgotten.is_set()) == (0, False)
    first.may_stop.set()
    eventually(lambda: second.running)
    assert not first.running
    assert forgotten.is_set()
    supervisor.stop()


def test_what_follows_a_dismissal_is_done_at_once_where_nothing_runs() -> None:
    forgotten = threading.Event()
    Supervisor(clock()).dismiss("unit", forgotten.set)
    assert forgotten.is_set()


def test_stop_waits_no_longer_than_it_may_and_nothing_is_started_afterwards() -> None:
    slow, late, supervisor = Slow(), Scripted("late"), Supervisor(clock())
    supervisor.keep(slow, give_up=True)
    eventually(lambda: slow.running)
    began = clocks.monotonic()
    assert not supervisor.stop(seconds=0.2)
    assert clocks.monotonic() - began < 2
    supervisor.keep(late, give_up=True)
    assert supervisor.status() == {}
    slow.may_stop.set()
    assert supervisor.stop(seconds=5)
    assert late.starts == 0
