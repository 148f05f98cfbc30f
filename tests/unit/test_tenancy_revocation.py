"""A revocation's way through processes and broker, on a database of the test's own."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tenancy
from tenancy.authority.issuer import new_key
from tenancy.broker import Broker
from tenancy.grants import GrantVerifier
from tenancy.model import Member, MemberState, Project, Role
from tenancy.repository import Repository, Revocation, Step, Transaction
from tenancy.revocation import Peers, Revoker
from tests.support.waiting import eventually
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Unavailable
from wardstream.names import MemberName, ProjectName

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ICU, ANNA = ProjectName("icu-west"), MemberName("anna")
BOTH = frozenset({"gateway", "query"})


class Outside:
    """Broker and processes, as far as a revocation asks them; keeps in which order it did."""

    names = BOTH

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.awake = BOTH
        self.broker_answers = True
        self.at_the_broker: Callable[[], None] = lambda: None

    def tell(self, revocation: Revocation) -> frozenset[str]:
        self.happened.append("told")
        return revocation.peers & self.awake

    def set_consumer_rate(self, principal: str, bytes_a_second: float | None) -> None:
        self.happened.append("broker")
        self.at_the_broker()
        if not self.broker_answers:
            raise Unavailable("no broker answers")

    def delete_all_acls(self, principal: str) -> None:
        pass

    def everywhere(self, question: Callable[[tuple[str, int]], frozenset[str]]) -> list[frozenset[str]]:
        return [frozenset()]


class Case:
    """One member that was removed a moment ago."""

    def __init__(self, folder: Path) -> None:
        engine = connect(f"sqlite:///{folder / 'tenancy.sqlite'}")
        migrate(engine, Path(tenancy.__file__).parent / "migrations")
        self.repository = Repository(engine)
        self.outside = Outside()
        clock = ManualClock(NOW)
        public = new_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.revoker = Revoker(
            repository=self.repository,
            broker=cast(Broker, self.outside),
            peers=cast(Peers, self.outside),
            verifier=GrantVerifier(public, clock),
            clock=clock,
            settle_seconds=1,
            rights=threading.Lock(),
        )
        member = Member(ICU, ANNA, Role.OBSERVER, 1, MemberState.REMOVED, frozenset(), frozenset(), NOW)
        self.begun = Revocation(member.principal_name, ICU, ANNA, 1, Step.DECIDED, BOTH, NOW)
        with self.repository.transaction() as tenancy_:
            tenancy_.add_project(Project(ICU, "", sandboxed=True, created_at=NOW))
            tenancy_.put_member(member)
            tenancy_.add_revocation(self.begun)

    def kept(self) -> tuple[Step, frozenset[str]]:
        with self.repository.transaction() as tenancy_:
            found = tenancy_.revocation(self.begun.principal)
        return found.step, found.peers


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_processes_are_told_while_the_broker_is_asked(case: Case) -> None:
    assert case.revoker.carry_out(case.begun).settled
    assert sorted(case.outside.happened) == ["broker", "told"]
    assert case.kept() == (Step.DONE, frozenset())


def test_who_acknowledged_while_the_broker_was_away_stays_told(case: Case) -> None:
    case.outside.broker_answers = False
    assert not case.revoker.carry_out(case.begun).settled
    assert case.kept() == (Step.DECIDED, frozenset())
    case.outside.broker_answers, case.outside.awake = True, frozenset()
    assert case.revoker.resume() == 0
    assert case.kept() == (Step.DONE, frozenset())


def test_a_process_that_is_away_is_told_by_a_later_run(case: Case) -> None:
    case.outside.awake = frozenset({"query"})
    assert case.revoker.resume() == 1
    assert case.kept() == (Step.GENERATION, frozenset({"gateway"}))
    case.outside.awake = BOTH
    assert case.revoker.resume() == 0


def test_what_a_process_acknowledged_while_the_broker_was_slow_is_not_written_back(case: Case) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go_on.wait(10)

    case.outside.at_the_broker, case.outside.awake = wait, frozenset()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(case.revoker.carry_out, case.begun)]
        assert reached.wait(10)
        case.outside.awake = BOTH
        runs.append(pool.submit(case.revoker.carry_out, case.begun))
        # The second tells the processes although the first is still at the broker.
        eventually(lambda: case.kept() == (Step.DECIDED, frozenset()))
        go_on.set()
        assert all(run.result(10).settled for run in runs)
    assert sorted(case.outside.happened) == ["broker", "told", "told"]


# Killed between any two steps


class Killed(BaseException):
    """The process ends here: nothing of its own may catch it."""


class Remembering(Outside):
    """Broker and processes that keep what was done to them, also over the end of the process that did it."""

    def __init__(self) -> None:
        super().__init__()
        self.rate: float | None = None
        self.rows = frozenset({"read on topic icu-west."})
        self.step: Callable[[], None] = lambda: None

    def tell(self, revocation: Revocation) -> frozenset[str]:
        self.step()
        return revocation.peers

    def set_consumer_rate(self, principal: str, bytes_a_second: float | None) -> None:
        self.step()
        self.rate = bytes_a_second

    def delete_all_acls(self, principal: str) -> None:
        self.step()
        self.rows = frozenset()

    def everywhere(self, question: Callable[[tuple[str, int]], frozenset[str]]) -> list[frozenset[str]]:
        self.step()
        return [self.rows]


class StepByStep(Repository):
    """Ends the process before a transaction or after it was committed, when it is its turn."""

    step: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        self.step()
        with super().transaction() as tenancy_:
            yield tenancy_
        self.step()


# Before and after each transaction, and before each call outside; the last is behind the end.
@pytest.mark.parametrize("steps", range(24))
def test_a_revocation_that_was_killed_anywhere_is_finished_in_its_order(tmp_path: Path, steps: int) -> None:
    case = Case(tmp_path)
    outside, repository = Remembering(), StepByStep(case.repository._engine)
    left = iter(range(steps))

    def step() -> None:
        if next(left, None) is None:
            raise Killed

    def revoker() -> Revoker:
        return Revoker(
            repository=repository,
            broker=cast(Broker, outside),
            peers=cast(Peers, outside),
            verifier=GrantVerifier(new_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), ManualClock(NOW)),
            clock=ManualClock(NOW),
            settle_seconds=1,
            rights=threading.Lock(),
        )

    def generation() -> int:
        with case.repository.transaction() as tenancy_:
            found = tenancy_.member(ICU, ANNA)
        assert found is not None
        return found.generation

    outside.step = repository.step = step
    with suppress(Killed):
        revoker().resume()
    # What is held back in a broker is emptied before rows go, and nobody gets the name before they are gone.
    assert outside.rows or outside.rate == 1.0
    assert generation() == 1 or not outside.rows
    outside.step = repository.step = lambda: None
    assert revoker().resume() == 0
    assert (outside.rate, outside.rows, generation(), case.kept()) == (1.0, frozenset(), 2, (Step.DONE, frozenset()))


def test_every_step_of_a_revocation_is_among_those_that_a_kill_is_tried_at(tmp_path: Path) -> None:
    case, done = Case(tmp_path), list[int]()
    outside, repository = Remembering(), StepByStep(case.repository._engine)
    outside.step = repository.step = lambda: done.append(1)
    case.revoker._broker, case.revoker._peers, case.revoker._repository = cast(Broker, outside), cast(Peers, outside), repository
    case.revoker.resume()
    assert 10 < len(done) < 24
