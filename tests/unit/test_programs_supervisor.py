import threading
from datetime import UTC, datetime, timedelta

from streams.repository import Condition
from streams.supervisor import Status, Supervisor
from tests.support.waiting import eventually
from wardstream.clock import ManualClock
from wardstream.errors import Unavailable


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
