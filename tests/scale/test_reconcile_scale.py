"""A hundred projects at once, on a broker of their own: `make test-scale`, some three minutes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock

import pytest

from tenancy.authority.store import AuthorityStore
from tenancy.broker import Broker
from tenancy.model import Role
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers
from tenancy.repository import Repository
from tests.integration.test_tenancy_broker import Caller, Peers, control_kafka, control_tls
from tests.support.scale import expected_rows, fill, new_member
from tests.support.stack import RunningStack, start, temporary_home
from tests.support.waiting import eventually
from wardstream.clock import SystemClock
from wardstream.database import connect
from wardstream.processes import recorded
from wardstream.settings import RedisSettings

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(560)]

ONLY = ("--only", "kafka,redis,control")
PROJECTS, MEMBERS = 100, 10
# Each has a topic of records and one of dead letters: a hundred topics a project.
DATASETS = 50


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with temporary_home("scale") as folder:
        start(folder, *ONLY)
        yield folder


def test_a_hundred_projects_are_reconciled_in_time_and_one_more_member_within_a_second(home: Path) -> None:
    (control,) = (record for record in recorded(home / "processes") if record.name == "control")
    os.kill(control.pid, signal.SIGTERM)
    eventually(lambda: not control.alive)
    stack = RunningStack(home)
    engine = connect(f"sqlite:///{home / 'database' / 'tenancy.sqlite'}")
    repository, broker = Repository(engine), Broker(control_kafka(stack), replication_factor=1)
    secret = AuthorityStore(home / "pki" / "authority").secret()
    assert secret is not None
    reconciler = Reconciler(
        repository=repository,
        broker=broker,
        users=OnlineStoreUsers(RedisSettings(port=stack.ports["redis"], tls=control_tls(stack)), secret),
        secret=secret,
        functions=Path("featurestore/online/functions.lua"),
        clock=SystemClock(),
        settle_seconds=30,
        rights=Lock(),
    )
    made = fill(repository, "s", projects=PROJECTS, members=MEMBERS, datasets=DATASETS)

    scratch = _timed(reconciler.everything)
    print(f"\nfrom scratch {scratch:.1f} s")
    nothing = min(_timed(reconciler.everything) for _ in range(2))
    rows = broker.acl_rows(broker.addresses()[0])
    found = Counter(row.principal for row in rows)
    wrong = {name: (count, found[name]) for name, count in expected_rows(made, members=MEMBERS, datasets=DATASETS) if found[name] != count}

    with repository.transaction() as tenancy:
        for project in made[:3]:
            tenancy.put_member(new_member(project, "late", Role.DATA_OWNER))
    inside = [_timed(partial(reconciler.settle, project)) for project in made[:3]]
    engine.dispose()

    start(home, *ONLY)
    peers = Peers(stack)
    proof = {"api_key": (home / "admin.key").read_text()}
    grant = peers("ws-gateway").json("POST", "/internal/v1/grants", json={"proof": proof, "door": "outside"})["grant"]
    whole = _timed(lambda: Caller(peers("ws-gateway"), "s-new", grant)("POST", "/v1/projects", {"name": "s-new", "owner": "olga"}))
    peers.close()
    print(
        f"\n{PROJECTS} projects, {PROJECTS * MEMBERS} members, {PROJECTS * DATASETS * 2} topics, {len(rows)} rows: "
        f"from scratch {scratch:.1f} s, nothing to do {nothing:.1f} s, "
        f"one member {', '.join(f'{each:.2f}' for each in inside)} s, a new project over control {whole:.2f} s"
    )
    assert not wrong
    assert scratch < 120
    assert nothing < 5
    assert sorted(inside)[1] < 1


def _timed(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun
