"""Use cases and settling on a broker in memory, for what a real one does seldom: refuse, be late, and both at once."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import delete, update

import tenancy
from tenancy import tables
from tenancy.audit import AuditEvent, Outcome
from tenancy.authentication import Authentication
from tenancy.broker import Broker, TopicState
from tenancy.model import (
    MATERIALISER,
    Dataset,
    DatasetKind,
    DatasetPermission,
    Member,
    MemberState,
    Principal,
    PrincipalKind,
    Project,
    Role,
)
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers, StoreUser
from tenancy.repository import Existence, Repository
from tenancy.revocation import Revoker
from tenancy.service import TenancyService
from tenancy.wire import AclRow
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Conflict, Invalid
from wardstream.names import DatasetName, MemberName, ProjectName

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ICU, OLGA = ProjectName("icu-west"), MemberName("olga")
OWNER = Principal(PrincipalKind.MEMBER, ICU, OLGA, Role.DATA_OWNER)
ADDRESS = ("broker", 9093)


class Memory:
    """Topics and rows as one broker keeps them; rows are shown `late` seconds after they were accepted."""

    def __init__(self) -> None:
        self.kept: dict[str, TopicState] = {}
        self.refused: set[str] = set()
        self.rates: dict[str, dict[str, float]] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.late = 0.0
        self._changes: list[tuple[float, bool, frozenset[AclRow]]] = []
        self._lock = threading.Lock()

    def addresses(self) -> list[tuple[str, int]]:
        return [ADDRESS]

    def everywhere(self, question: Callable[[tuple[str, int]], bool]) -> list[bool]:
        return [question(ADDRESS)]

    def topic_names(self) -> frozenset[str]:
        return frozenset(self.kept)

    def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        return {name: self.kept[name] for name in names if name in self.kept}

    def create_topics(self, topics: Iterable[tuple[str, int, Mapping[str, str]]]) -> None:
        bad = ""
        for name, partitions, config in topics:
            if name in self.refused:
                bad = name
            else:
                self.kept[name] = TopicState(name, partitions, dict(config), f"id of {name}")
        if bad:
            raise Invalid(f"the broker refused to create {bad}")

    def add_partitions(self, name: str, total: int) -> None:
        self.kept[name] = replace(self.kept[name], partitions=total)

    def alter_config(self, name: str, set_to: Mapping[str, str], remove: Collection[str]) -> None:
        if name in self.refused:
            self.meanwhile()
            raise Invalid(f"the broker refused to alter {name}")
        found = self.kept[name]
        self.kept[name] = replace(found, config={**{k: v for k, v in found.config.items() if k not in remove}, **set_to})

    def delete_topics(self, names: Collection[str]) -> None:
        for name in names:
            self.kept.pop(name, None)

    def acl_rows(self, address: tuple[str, int], principals: Collection[str | None] = (None,)) -> frozenset[AclRow]:
        now, found = time.monotonic(), set[AclRow]()
        with self._lock:
            for shown_at, added, rows in self._changes:
                if shown_at <= now:
                    found = found | rows if added else found - rows
        return frozenset(row for row in found if None in principals or row.principal in principals)

    def create_acls(self, rows: Collection[AclRow]) -> None:
        self._change(rows, added=True)

    def delete_acls(self, rows: Collection[AclRow]) -> None:
        self._change(rows, added=False)

    def quotas_at(self, _: tuple[str, int], principals: Collection[str | None] = (None,)) -> dict[str, dict[str, float]]:
        return {name: values for name, values in self.rates.items() if values and (None in principals or name in principals)}

    def alter_quotas(self, changes: Mapping[str, Mapping[str, float | None]]) -> None:
        for name, values in changes.items():
            known = {**self.rates.get(name, {}), **values}
            self.rates[name] = {key: value for key, value in known.items() if value is not None}

    def _change(self, rows: Collection[AclRow], *, added: bool) -> None:
        with self._lock:
            self._changes.append((time.monotonic() + self.late, added, frozenset(rows)))


class NoUsers:
    """An online store that nobody looks into."""

    def found(self) -> frozenset[StoreUser]:
        return frozenset()

    def put(self, users: Collection[StoreUser]) -> None:
        pass


class House:
    """One project with an owner and its materialiser."""

    def __init__(self, folder: Path) -> None:
        self.engine = connect(f"sqlite:///{folder / 'tenancy.sqlite'}")
        migrate(self.engine, Path(tenancy.__file__).parent / "migrations")
        self.repository = Repository(self.engine)
        self.broker = Memory()
        clock = ManualClock(NOW)
        self.reconciler = Reconciler(
            repository=self.repository,
            broker=cast(Broker, self.broker),
            users=cast(OnlineStoreUsers, NoUsers()),
            secret=b"s" * 32,
            functions=folder,
            clock=clock,
            settle_seconds=5,
            rights=threading.Lock(),
        )
        self.service = TenancyService(
            repository=self.repository,
            authentication=cast(Authentication, None),
            reconciler=self.reconciler,
            revoker=cast(Revoker, None),
            secret=b"s" * 32,
            clock=clock,
        )
        with self.repository.transaction() as tenancy_:
            tenancy_.add_project(Project(ICU, "", sandboxed=True, created_at=NOW))
            for name, role in ((OLGA, Role.DATA_OWNER), (MATERIALISER, Role.SERVICE)):
                tenancy_.put_member(Member(ICU, name, role, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW))

    def create(self, name: str, config: Mapping[str, str] | None = None) -> None:
        self.service.create_dataset(
            OWNER,
            ICU,
            DatasetName(name),
            kind=DatasetKind.TOPIC,
            partitions=1,
            config=config or {},
            permission=DatasetPermission.EDITABLE_BY_OWNERS,
        )

    def dataset(self, name: str) -> Dataset | None:
        with self.repository.transaction() as tenancy_:
            found = tenancy_.dataset(ICU, DatasetName(name))
        return found.dataset if found is not None and found.state is Existence.THERE else None

    def told(self, why: str) -> list[tuple[str, str]]:
        """Return action and subject of the entries that give `why`."""
        entries = self.service.audit_entries(OWNER, ICU, limit=100, after=None)
        return [(entry.action, entry.subject) for entry in entries if why in entry.details]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_setting_that_the_broker_refuses_is_taken_back(house: House) -> None:
    house.create("lab", {"retention.ms": "1000"})
    house.broker.refused.add("icu-west.lab")
    with pytest.raises(Invalid, match=r"refused to alter icu-west\.lab"):
        house.service.alter_dataset(OWNER, ICU, DatasetName("lab"), config={"retention.ms": "7"})
    kept = house.dataset("lab")
    assert kept is not None
    assert kept.config == {"retention.ms": "1000"}
    assert house.told("taken back") == [("dataset.alter", "lab")]
    assert house.reconciler.settle(ICU).settled


def test_taking_a_setting_back_leaves_the_permission_that_somebody_else_set_meanwhile(house: House) -> None:
    house.create("lab", {"retention.ms": "1000"})
    house.broker.refused.add("icu-west.lab")

    def protect() -> None:
        lab = house.dataset("lab")
        assert lab is not None
        with house.repository.transaction() as tenancy_:
            tenancy_.alter_dataset(replace(lab, permission=DatasetPermission.READ_ONLY))

    house.broker.meanwhile = protect
    with pytest.raises(Invalid):
        house.service.alter_dataset(OWNER, ICU, DatasetName("lab"), config={"retention.ms": "7"})
    kept = house.dataset("lab")
    assert kept is not None
    assert (kept.config, kept.permission) == ({"retention.ms": "1000"}, DatasetPermission.READ_ONLY)


def test_a_dataset_that_the_broker_refuses_leaves_nothing(house: House) -> None:
    house.broker.refused.add("icu-west.lab")
    with pytest.raises(Invalid, match=r"refused to create icu-west\.lab"):
        house.create("lab")
    assert house.dataset("lab") is None
    assert not house.broker.kept
    assert house.told("the broker refuses it") == [("dataset.delete", "lab")]


def refuse_a_neighbour(house: House) -> None:
    """Let the project want of `lab` what the broker refuses, as versions before kept it."""
    house.create("lab")
    lab = house.dataset("lab")
    assert lab is not None
    with house.repository.transaction() as tenancy_:
        tenancy_.alter_dataset(replace(lab, config={"retention.ms": "7"}))
    house.broker.refused.add("icu-west.lab")


def test_repeating_a_dataset_never_deletes_it_for_what_another_is_refused(house: House) -> None:
    house.create("vitals")
    refuse_a_neighbour(house)
    with pytest.raises(Invalid):
        house.create("vitals")
    assert house.dataset("vitals") is not None
    assert "icu-west.vitals" in house.broker.kept


def test_what_the_broker_refuses_keeps_neither_other_topics_nor_rights_waiting(house: House) -> None:
    house.create("vitals")
    refuse_a_neighbour(house)
    vitals = house.dataset("vitals")
    assert vitals is not None
    anna = Member(ICU, MemberName("anna"), Role.OBSERVER, 1, MemberState.ACTIVE, frozenset(), frozenset(), NOW)
    with house.repository.transaction() as tenancy_:
        tenancy_.alter_dataset(replace(vitals, config={"retention.ms": "9"}))
        tenancy_.put_member(anna)
    with pytest.raises(Invalid, match=r"icu-west\.lab"):
        house.reconciler.settle(ICU)
    assert house.broker.kept["icu-west.vitals"].config["retention.ms"] == "9"
    assert house.broker.acl_rows(ADDRESS, (f"User:{anna.principal_name}",))


def test_a_use_case_that_only_waits_for_the_broker_survives_its_refusal(house: House) -> None:
    house.create("vitals")
    refuse_a_neighbour(house)
    assert not house.service.delete_dataset(OWNER, ICU, DatasetName("vitals")).settled
    assert house.dataset("vitals") is None


def test_datasets_made_at_once_in_one_project_settle_at_once(house: House) -> None:
    house.broker.late = 0.05
    began = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(house.create, [f"d{number}" for number in range(6)]))
    # Each would have waited for `settle_seconds` to show the rights that it had read before the others came.
    assert time.monotonic() - began < 4


def test_a_device_is_not_given_what_a_processor_writes(house: House) -> None:
    house.create("result")
    written = frozenset({DatasetName("result")})
    with house.repository.transaction() as tenancy_:
        tenancy_.put_member(Member(ICU, MemberName("proc"), Role.SERVICE, 1, MemberState.ACTIVE, frozenset(), written, NOW))
    with pytest.raises(Conflict, match="result is the result of proc: leave it out of writes"):
        house.service.add_member(OWNER, ICU, MemberName("monitor"), Role.DEVICE, writes=written)


def log(house: House, events: int) -> None:
    for number in range(events):
        with house.repository.transaction() as tenancy_:
            tenancy_.audit(AuditEvent("icu-west__olga", ICU, "member.add", str(number + 1), Outcome.ALLOWED, {}), NOW)


def test_audit_list_shows_the_newest_entries_and_pages_on_from_a_number(house: House) -> None:
    log(house, 5)

    def subjects(after: int | None) -> list[str]:
        return [entry.subject for entry in house.service.audit_entries(OWNER, ICU, limit=2, after=after)]

    assert subjects(None) == ["4", "5"]
    assert subjects(0) == ["1", "2"]
    assert subjects(2) == ["3", "4"]


def test_audit_whose_head_was_removed_or_set_back_is_broken_behind_it(house: House) -> None:
    log(house, 3)
    assert house.service.verify_audit(OWNER).intact
    second = house.service.audit_entries(OWNER, ICU, limit=1, after=1)[0]
    with house.engine.begin() as connection:
        connection.execute(update(tables.audit_head).values(sequence=2, hash=second.hash))
    back = house.service.verify_audit(OWNER)
    assert (back.intact, back.broken_at) == (False, 3)
    with house.engine.begin() as connection:
        connection.execute(delete(tables.audit_head))
    gone = house.service.verify_audit(OWNER)
    assert (gone.intact, gone.broken_at) == (False, 1)
