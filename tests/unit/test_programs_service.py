"""The life of an execution, on a database of its own and a clock that is moved by hand."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from streams.control import Control
from streams.programs.model import (
    LEASE_SECONDS,
    MOST_ATTEMPTS,
    REVOKED,
    Execution,
    ExecutionState,
    Program,
    abandoned,
    ended,
    with_files_left_out,
)
from streams.programs.service import ProgramService
from streams.repository import Repository
from tenancy.grants import GrantSigner, GrantVerifier
from tenancy.model import Door, Principal, PrincipalKind, Role
from tests.support.journals import journal
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unavailable
from wardstream.names import MemberName, PrincipalName, ProjectName

MIGRATIONS = Path(__file__).resolve().parents[2] / "streams" / "migrations"
START = datetime(2026, 1, 1, tzinfo=UTC)
ICU = ProjectName("icu")


def member(name: str, role: Role = Role.DATA_SCIENTIST, door: Door = Door.OUTSIDE, project: str = ICU) -> Principal:
    return Principal(PrincipalKind.MEMBER, ProjectName(project), MemberName(name), role, door=door)


MOST_EXECUTIONS = 3


class SigningControl(Control):
    """Control's one route that is asked here, answered by a key of this test's own."""

    def __init__(self, signer: GrantSigner) -> None:
        self._signer = signer

    def report_usage(self, project: ProjectName, used: Mapping[str, int]) -> dict[str, int | None]:
        return {"executions": MOST_EXECUTIONS}

    def execution_grant(self, grant: str, project: ProjectName, execution: str, run_as: str | None) -> str:
        principal = member(run_as or "mia", Role.SERVICE if run_as else Role.DATA_SCIENTIST, Door.INSIDE)
        return self._signer.sign(replace(principal, execution=execution), timedelta(hours=1))[0]


@dataclass
class Announced:
    """A queue that remembers, and can be away."""

    ids: list[str] = field(default_factory=list)
    away: bool = False

    def announce(self, execution: Execution) -> None:
        if self.away:
            raise Unavailable("the broker is away")
        self.ids.append(execution.id)


@dataclass
class House:
    programs: ProgramService
    queue: Announced
    clock: ManualClock
    folder: Path

    def run(self, principal: Principal | None = None, **options: object) -> Execution:
        return self.programs.run(principal or member("mia"), "grant", ICU, Program("main.py", {"main.py": b"print()"}), **options)  # type: ignore[arg-type]

    def get(self, id: str) -> Execution:
        return self.programs.get(member("anna", Role.DATA_OWNER), ICU, id)

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        self.programs.reconcile()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = connect(f"sqlite:///{tmp_path / 'streams.sqlite'}")
    migrate(engine, MIGRATIONS)
    key, clock, queue = ec.generate_private_key(ec.SECP256R1()), ManualClock(START), Announced()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    programs = ProgramService(
        repository=Repository(engine),
        control=SigningControl(GrantSigner(private, clock)),
        queue=queue,
        folder=tmp_path / "executions",
        verifier=GrantVerifier(public, clock),
        journal=journal(tmp_path / "audit"),
        clock=clock,
    )
    yield House(programs, queue, clock, tmp_path / "executions")
    engine.dispose()


def test_execution_is_queued_taken_once_and_ended_by_its_worker_alone(house: House) -> None:
    queued = house.run()
    assert (queued.state, queued.principal, queued.started_by) == (ExecutionState.QUEUED, "icu__mia", "icu__mia")
    assert house.queue.ids == [queued.id]
    work = house.programs.take(queued.id, "one")
    assert (work.program.files, work.execution.attempt) == ({"main.py": b"print()"}, 1)
    with pytest.raises(Conflict, match="is running"):
        house.programs.take(queued.id, "two")
    with pytest.raises(Conflict, match="not two's"):
        house.programs.end(queued.id, "two", ExecutionState.SUCCEEDED, 0, None)
    house.programs.end(queued.id, "one", ExecutionState.SUCCEEDED, 0, None)
    assert house.get(queued.id).state is ExecutionState.SUCCEEDED
    assert not (house.folder / queued.id / "in").exists()


def test_silent_worker_loses_it_and_the_next_one_gets_it_until_it_was_tried_often_enough(house: House) -> None:
    id = house.run().id
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert house.programs.take(id, f"worker-{attempt}").execution.attempt == attempt
        house.later(LEASE_SECONDS - 1)
        house.programs.beat(id, f"worker-{attempt}")
        house.later(LEASE_SECONDS - 1)
        assert house.get(id).state is ExecutionState.RUNNING
        house.later(2)
        with pytest.raises(Conflict):
            house.programs.beat(id, f"worker-{attempt}")
    found = house.get(id)
    assert (found.state, found.reason) == (
        ExecutionState.FAILED,
        "its worker ended while it ran, 2 times; look at the program worker's log",
    )
    assert house.queue.ids == [id, id]
    assert not (house.folder / id / "in").exists()


def test_absence_of_the_stream_worker_costs_no_worker_its_lease(house: House) -> None:
    id = house.run().id
    house.programs.take(id, "one")
    house.clock.advance(timedelta(hours=1))
    house.programs.resume()
    house.later(LEASE_SECONDS - 1)
    assert house.get(id).state is ExecutionState.RUNNING


def test_what_could_not_be_announced_is_announced_when_the_broker_is_back(house: House) -> None:
    house.queue.away = True
    id = house.run().id
    with pytest.raises(Unavailable):
        house.programs.reconcile()
    house.queue.away = False
    house.programs.reconcile()
    house.programs.reconcile()
    assert house.queue.ids == [id]
    house.later(60)
    assert house.queue.ids == [id, id]


def test_stop_ends_what_waits_and_asks_what_runs(house: House) -> None:
    waiting, running = house.run().id, house.run().id
    house.programs.take(running, "one")
    assert house.programs.stop(member("mia"), ICU, waiting).state is ExecutionState.STOPPED
    assert not (house.folder / waiting / "in").exists()
    with pytest.raises(Conflict):
        house.programs.take(waiting, "one")
    house.programs.stop(member("mia"), ICU, running)
    assert house.programs.beat(running, "one")
    house.programs.end(running, "one", ExecutionState.STOPPED, None, "stopped")
    assert house.programs.stop(member("mia"), ICU, running).state is ExecutionState.STOPPED


def test_revocation_ends_what_acts_for_a_member_or_was_started_by_it(house: House) -> None:
    own, other, as_service = house.run().id, house.run(member("anna", Role.DATA_OWNER), run_as="trainer").id, house.run(run_as="trainer").id
    house.programs.revoke("icu__mia", 1)
    assert house.get(own).reason == REVOKED
    assert house.get(as_service).state is ExecutionState.STOPPED
    assert house.get(other).state is ExecutionState.QUEUED
    assert [(house.folder / id / "in").exists() for id in (own, as_service, other)] == [False, False, True]


def test_log_that_is_sent_again_changes_nothing(house: House) -> None:
    id = house.run().id
    house.programs.take(id, "one")
    house.programs.add_log(id, "one", 0, b"one\ntwo\n")
    house.programs.add_log(id, "one", 4, b"two\nthree\n")
    assert house.programs.log(member("mia"), ICU, id, tail=2) == "two\nthree\n"
    with pytest.raises(Conflict):
        house.programs.add_log(id, "two", 0, b"forged")


def test_others_projects_have_no_executions_here(house: House) -> None:
    id = house.run().id
    stranger = member("eve", project="virology")
    with pytest.raises(NotFound, match="project icu is not there"):
        house.programs.get(stranger, "icu", id)
    with pytest.raises(NotFound, match="no execution"):
        house.programs.get(stranger, "virology", id)
    with pytest.raises(Denied):
        house.run(member("otto", Role.OBSERVER))


def test_queue_of_a_project_is_bounded(house: House) -> None:
    ids = [house.run().id for _ in range(MOST_EXECUTIONS)]

    with pytest.raises(LimitExceeded, match="has 3 of 3 executions, 1 more would be too many: an administrator can raise it"):
        house.run()
    house.programs.stop(member("mia"), "icu", ids[0])
    house.run()


def test_results_leave_a_sandboxed_project_but_tables_do_not(house: House) -> None:
    id = house.run().id
    house.programs.take(id, "one")
    out = house.folder / id / "out"
    out.mkdir()
    for name, size in (("small", 1000), ("large", (10 << 20) + 1)):
        (out / name).write_bytes(b"x" * size)
        house.programs._note_file(id, name)
    assert house.programs.file(member("mia"), ICU, id, "small") == out / "small"
    with pytest.raises(Denied, match="ask a data owner"):
        house.programs.file(member("mia"), ICU, id, "large")
    assert house.programs.file(member("mia", door=Door.INSIDE), ICU, id, "large") == out / "large"
    assert house.programs.file(member("anna", Role.DATA_OWNER), ICU, id, "large") == out / "large"
    with pytest.raises(NotFound, match="left no file"):
        house.programs.file(member("mia"), ICU, id, "../in/main.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other.py"}, "not among its files"),
        ({"name": "main.sh", "files": {"main.sh": b""}}, "Python script"),
        ({"files": {"main.py": b"", "key.pem": b""}}, "choose another"),
        ({"files": {"main.py": b"", "-rf": b""}}, "not a file name"),
        ({"arguments": ("a\0b",)}, "arguments"),
        ({"memory_mb": 63}, "from 64 to 65536"),
        ({"cpu_seconds": 86_401}, "from 1 to 86400"),
        ({"label": "GPU"}, "not a worker label"),
    ],
)
def test_program_that_cannot_be_right_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((Invalid, LimitExceeded), match=message):
        replace(Program("main.py", {"main.py": b""}), **change)  # type: ignore[arg-type]  # a test's values


def test_end_of_a_program_is_told_in_words() -> None:
    assert ended(0, None, cpu_seconds=5) == (ExecutionState.SUCCEEDED, None)
    assert ended(1, None, cpu_seconds=5) == (ExecutionState.FAILED, "it ended with code 1; its log says more")
    assert ended(152, None, cpu_seconds=5)[1] == "it was killed; it may have used its 5 s of processor time"
    assert ended(143, "stopped", cpu_seconds=5) == (ExecutionState.STOPPED, "stopped")
    assert ended(137, "it wrote more than 5 MiB to /out", cpu_seconds=5)[0] is ExecutionState.FAILED


def test_abandoned_execution_that_was_to_stop_has_stopped() -> None:
    running = Execution("x", ICU, "main.py", PrincipalName("icu__mia"), PrincipalName("icu__mia"), "cpu", ExecutionState.RUNNING, 1, START)
    assert abandoned(running) == (ExecutionState.QUEUED, None)
    assert abandoned(replace(running, stop_requested=True)) == (ExecutionState.STOPPED, "stopped")


def test_worker_that_sends_a_large_file_keeps_its_execution(house: House) -> None:
    id = house.run().id
    house.programs.take(id, "one")

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            house.later(LEASE_SECONDS / 2)
            yield b"x"

    asyncio.run(house.programs.add_file(id, "one", "model.bin", slowly()))
    house.later(LEASE_SECONDS - 1)
    found = house.get(id)
    assert (found.state, found.files) == (ExecutionState.RUNNING, ("model.bin",))


def test_file_of_a_worker_that_lost_the_execution_is_not_kept(house: House) -> None:
    id = house.run().id
    house.programs.take(id, "one")

    async def too_slowly() -> AsyncIterator[bytes]:
        yield b"x"
        house.later(LEASE_SECONDS + 1)
        yield b"y"

    with pytest.raises(Conflict):
        asyncio.run(house.programs.add_file(id, "one", "model.bin", too_slowly()))
    assert list((house.folder / id / "out").iterdir()) == []


def test_files_too_large_to_be_kept_are_named() -> None:
    assert with_files_left_out(None, []) is None
    assert with_files_left_out(None, ["a"]) == "not kept, since a file has at most 256 MiB: a"
    assert with_files_left_out("stopped", list("abcde")) == "stopped; not kept, since a file has at most 256 MiB: a, b, c and 2 more"
