"""Changes of processors that meet each other, on a database of its own and with units that run nothing."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streams.control import Control
from streams.model import ProcessorSpec, kind_named
from streams.programs.sandbox import Sandbox
from streams.query import Query
from streams.repository import Condition, Repository, StoredProcessor, Wanted
from streams.service import ProcessorService
from streams.supervisor import Supervisor
from streams.units import FaustUnit, processor_key
from tenancy.model import Principal, PrincipalKind, Role
from tests.support.journals import journal
from tests.support.waiting import eventually
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import NotFound
from wardstream.names import DatasetName, MemberName, PrincipalName, ProjectName
from wardstream.settings import KafkaSettings, RedisSettings, StreamWorkerSettings, TlsSettings

MIGRATIONS = Path(__file__).resolve().parents[2] / "streams" / "migrations"
START = datetime(2026, 1, 1, tzinfo=UTC)
ICU, BEATS = ProjectName("icu"), MemberName("beats")
SPEC = kind_named("ecg_10s").spec(project=ICU, name=BEATS, source=DatasetName("ecg"), result=DatasetName("ecg_10s_1"))
ANNA = Principal(PrincipalKind.MEMBER, ICU, MemberName("anna"), Role.DATA_OWNER)


class Silent(Control):
    """Control's one route that is asked here."""

    def __init__(self) -> None:
        self.rights: list[tuple[str, object]] = []

    def put_service(
        self, grant: str, project: ProjectName, member: MemberName, *, reads: object, writes: object, internals: object
    ) -> None:
        self.rights.append((member, reads))


class Unit:
    """A unit that stops when it may."""

    def __init__(self, house: "House", spec: ProcessorSpec) -> None:
        self.key = processor_key(spec.project, spec.name)
        self._house = house

    def start(self) -> datetime | None:
        self._house.did.append("start")
        return None

    def failure(self) -> str | None:
        return None

    def stop(self) -> None:
        self._house.may_stop.wait(10)
        self._house.did.append("stop")

    def forget(self) -> None:
        self._house.did.append("forget")


class House:
    def __init__(self, repository: Repository) -> None:
        self.did: list[str] = []
        self.may_stop = threading.Event()
        self.control = Silent()
        self.repository = repository
        clock = ManualClock(START)
        self.supervisor = Supervisor(clock)
        self.service = ProcessorService(
            repository=repository,
            control=self.control,
            query=Query.__new__(Query),  # asked at a deployment alone
            supervisor=self.supervisor,
            unit_of=lambda spec: Unit(self, spec),
            log_of=lambda spec: Path("log"),
            journal=journal(),
            clock=clock,
        )

    def run(self, wanted: Wanted = Wanted.RUNNING) -> None:
        stored = StoredProcessor(SPEC, wanted, PrincipalName("icu__anna"), START, Condition.STARTING, None, 0, START)
        with self.repository.transaction() as streams:
            streams.put_processor(stored)
        self.service.start_all()
        if wanted is Wanted.RUNNING:
            eventually(lambda: self.did == ["start"])

    def wanted(self) -> Wanted:
        with self.repository.transaction() as streams:
            found = streams.processor(ICU, BEATS)
        assert found is not None
        return found.wanted


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = connect(f"sqlite:///{tmp_path / 'streams.sqlite'}")
    migrate(engine, MIGRATIONS)
    found = House(Repository(engine))
    yield found
    found.may_stop.set()
    found.supervisor.stop()
    engine.dispose()


def test_revocation_waits_for_nothing_and_files_are_forgotten_when_the_processor_is_stopped(house: House) -> None:
    house.run()
    house.service.revoke(ICU, BEATS)
    assert (house.wanted(), house.did) == (Wanted.REMOVED, ["start"])
    house.may_stop.set()
    eventually(lambda: house.did == ["start", "stop", "forget"])
    with pytest.raises(NotFound):
        house.service.describe(ANNA, ICU, BEATS)


def test_revocation_overtakes_a_change_that_waits_for_the_processor_to_stop(house: House) -> None:
    house.run()
    refused: list[NotFound] = []

    def pause() -> None:
        try:
            house.service.pause(ANNA, ICU, BEATS)
        except NotFound as error:
            refused.append(error)

    pausing = threading.Thread(target=pause)
    pausing.start()
    eventually(lambda: house.supervisor.status() == {})
    house.service.revoke(ICU, BEATS)
    house.service.revoke(ICU, MemberName("mia"))
    house.may_stop.set()
    pausing.join()
    assert (house.wanted(), len(refused)) == (Wanted.REMOVED, 1)
    eventually(lambda: house.did == ["start", "stop", "forget"])


def test_processor_that_was_revoked_while_it_was_started_is_stopped(house: House) -> None:
    house.may_stop.set()
    house.run(Wanted.PAUSED)
    with house.repository.transaction() as streams:
        stored = streams.processor(ICU, BEATS)
    assert stored is not None
    house.service.revoke(ICU, BEATS)
    # What a change does that was under way.
    house.service._run(stored)
    assert house.supervisor.status() == {}
    eventually(lambda: house.did in (["forget", "start", "stop", "forget"], ["forget", "stop", "forget"]))


@pytest.mark.parametrize("wanted", [Wanted.RUNNING, Wanted.PAUSED])
def test_removed_processor_has_no_rights_and_its_files_are_forgotten(house: House, wanted: Wanted) -> None:
    house.may_stop.set()
    house.run(wanted)
    house.service.remove(ANNA, "grant", ICU, BEATS)
    assert house.wanted() is Wanted.REMOVED
    assert house.control.rights == [("beats", ())]
    assert house.did == (["start", "stop", "forget"] if wanted is Wanted.RUNNING else ["forget"])


def test_faust_worker_that_is_forgotten_leaves_neither_keys_nor_a_sandbox(tmp_path: Path) -> None:
    none, url = tmp_path / "none", "https://127.0.0.1:1"
    tls = TlsSettings(ca_file=none, certificate_file=none, key_file=none)
    settings = StreamWorkerSettings(
        name="ws-stream-worker",
        port=1,
        home=tmp_path,
        tls=tls,
        platform_ca_file=none,
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", tls=tls),
        worker_bootstrap_servers="127.0.0.1:1",
        redis=RedisSettings(port=1, tls=tls),
        database_url="sqlite://",
        warehouse=none,
        grants_key_file=none,
        control_url=url,
        query_url=url,
        inside_url=url,
        jars=none,
    )
    sandbox = Sandbox(tmp_path / "sandboxes", records=tmp_path / "processes", environment={})
    unit = FaustUnit(SPEC, settings, Silent(), sandbox)
    keys, job = tmp_path / "streams" / "processors" / unit.key, sandbox.folder_of(unit.key)
    for folder in (keys, job):
        folder.mkdir(parents=True)
        (folder / "key.pem").write_text("key")
    unit.forget()
    unit.forget()
    assert (keys.exists(), job.exists()) == (False, False)
