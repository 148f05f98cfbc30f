"""Reconciliation on the real broker: quotas and users like rights, results per item, what was changed by hand and by whom, at scale."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from tenancy.authority.store import AuthorityStore
from tenancy.broker import Broker
from tenancy.model import Role
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers, StoreUser
from tenancy.repository import Repository
from tenancy.wire import AclRow
from tests.integration.test_tenancy_broker import Peers, Town, control_kafka, control_tls, rows_of
from tests.support.scale import expected_rows, fill, new_member
from tests.support.stack import RunningStack, fresh, run_launcher
from tests.support.waiting import eventually
from wardstream.clock import SystemClock
from wardstream.database import connect
from wardstream.errors import Denied, Invalid, LimitExceeded, Unavailable
from wardstream.settings import KafkaSettings, RedisSettings, TlsSettings

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def peers(stack: RunningStack) -> Iterator[Peers]:
    opened = Peers(stack)
    yield opened
    opened.close()


@pytest.fixture
def town(peers: Peers) -> Town:
    return Town(peers)


@pytest.fixture
def broker(stack: RunningStack) -> Broker:
    return Broker(control_kafka(stack), replication_factor=1)


@pytest.fixture
def other_hand(stack: RunningStack) -> Broker:
    """A super user that is not control: what an operator has with a broker's certificate and Kafka's own tools."""
    folder = stack.home / "pki" / "platform"
    tls = TlsSettings(ca_file=stack.root, certificate_file=folder / "ws-broker-1.crt", key_file=folder / "ws-broker-1.key")
    return Broker(KafkaSettings(bootstrap_servers=stack.bootstrap("internal"), tls=tls), replication_factor=1)


@pytest.fixture
def repository(stack: RunningStack) -> Iterator[Repository]:
    engine = connect(f"sqlite:///{stack.home / 'database' / 'tenancy.sqlite'}")
    yield Repository(engine)
    engine.dispose()


@pytest.fixture
def users(stack: RunningStack) -> OnlineStoreUsers:
    return OnlineStoreUsers(RedisSettings(port=stack.ports["redis"], tls=control_tls(stack)), _secret(stack))


def _secret(stack: RunningStack) -> bytes:
    secret = AuthorityStore(stack.home / "pki" / "authority").secret()
    assert secret is not None
    return secret


@pytest.fixture
def reconciler(stack: RunningStack, broker: Broker, users: OnlineStoreUsers, repository: Repository) -> Reconciler:
    return Reconciler(
        repository=repository,
        broker=broker,
        users=users,
        secret=_secret(stack),
        functions=Path("featurestore/online/functions.lua"),
        clock=SystemClock(),
        settle_seconds=20,
        rights=Lock(),
    )


# One item that is refused


def test_a_row_that_the_broker_refuses_is_named_and_keeps_no_other_from_being_made(broker: Broker) -> None:
    name = fresh("u")
    good, bad = AclRow(2, f"{name}.x", 3, f"User:{name}", "*", 3, 3), AclRow(2, f"{name}.x", 3, name, "*", 3, 3)
    with pytest.raises(Unavailable, match=f"read on topic {name}.x for {name}: ") as refusal:
        broker.create_acls({good, bad})
    assert set(refusal.value.details["refused"]) == {str(bad)}  # type: ignore[call-overload]  # details are objects
    eventually(lambda: rows_of(broker, name) == {good})
    broker.create_acls({good})
    broker.delete_acls({good})
    broker.delete_acls({good})
    eventually(lambda: not rows_of(broker, name))


def test_a_quota_that_the_broker_refuses_is_named_and_keeps_no_other_from_being_set(broker: Broker) -> None:
    good, bad = fresh("u"), fresh("u")
    with pytest.raises(Unavailable, match=bad):
        broker.alter_quotas({bad: {"producer_byte_rate": -5.0}, good: {"producer_byte_rate": 7.0}})
    assert eventually(lambda: broker.quotas(good)) == {good: {"producer_byte_rate": 7.0}}
    broker.alter_quotas({good: {"producer_byte_rate": None}})
    eventually(lambda: not broker.quotas(good))


def test_a_user_that_the_online_store_refuses_is_named_and_keeps_no_other_from_being_made(users: OnlineStoreUsers) -> None:
    name = fresh("u")
    good = StoreUser(f"{name}.read", secrets.token_hex(32), f"p:{{{name}}}:*", frozenset({"ping"}))
    with pytest.raises(Unavailable, match=f"{name}.write"):
        users.put([replace(good, name=f"{name}.write", commands=frozenset({"no-such-command"})), good])
    assert good in users.found()
    users.remove([good.name])
    assert good not in users.found()


# Quotas


def test_quotas_of_a_project_are_at_the_broker_for_each_member_and_go_with_them(town: Town, broker: Broker) -> None:
    first = f"{town.name}__olga"
    limits = town.admin("PATCH", "quota", {"limits": {"producer_byte_rate": 50_000, "request_percentage": 40}})
    assert {"name": "producer_byte_rate", "limit": 50_000, "used": None} in limits
    assert broker.quotas(first) == {first: {"producer_byte_rate": 50_000.0, "request_percentage": 40.0}}
    late = town.add("late", "data-scientist")
    assert broker.quotas(f"{town.name}__{late.name}")[f"{town.name}__late"]["producer_byte_rate"] == 50_000.0
    town.admin("PATCH", "quota", {"limits": {"producer_byte_rate": None, "request_percentage": None}})
    assert broker.quotas(first) == {}


def test_the_bound_of_a_removed_member_is_not_lifted_while_a_certificate_of_it_lives(
    town: Town, broker: Broker, reconciler: Reconciler
) -> None:
    town.topic("beats", permission="editable")
    gone, held = town.add("gone", "data-scientist"), town.add("held", "data-scientist")
    _ = held.kafka
    for each in (gone, held):
        town.owner.call("DELETE", f"members/{each.name}")
    principal = f"{town.name}__held"
    broker.alter_quotas({principal: {"consumer_byte_rate": None}})
    eventually(lambda: not broker.quotas(principal))
    reconciler.everything()
    assert broker.quotas(principal) == {principal: {"consumer_byte_rate": 1.0}}
    # Nobody can come as this one any more: it never had a certificate.
    assert broker.quotas(f"{town.name}__gone") == {}
    assert reconciler.everything().changes == ()


@pytest.mark.parametrize(
    ("quota", "make"),
    [
        ("topics", lambda town: town.topic("three")),
        ("partitions", lambda town: town.owner.call("PATCH", "datasets/two", {"partitions": 2})),
        ("members", lambda town: town.add("third", "observer")),
    ],
)
def test_a_quota_of_n_lets_n_be_there_and_refuses_one_more(town: Town, quota: str, make: Callable[[Town], object]) -> None:
    town.topic("one")
    town.admin("PATCH", "quota", {"limits": {quota: 2}})
    town.topic("two")
    with pytest.raises(LimitExceeded, match=f"has 2 of 2 {quota}, 1 more would be too many: an administrator can raise it"):
        make(town)
    shown = {each["name"]: each for each in town.owner.call("GET", "quota")}
    assert (shown[quota]["limit"], shown[quota]["used"]) == (2, 2)
    with pytest.raises(Denied):
        town.owner.call("PATCH", "quota", {"limits": {quota: 3}})
    town.admin("PATCH", "quota", {"limits": {quota: 3}})
    make(town)


def test_a_quota_that_cannot_be_is_refused_in_words(town: Town) -> None:
    for limits, words in ({"beds": 1}, "not a quota"), ({"topics": -1}, "from 0 to"), ({"producer_byte_rate": 0}, "from 1 to"):
        with pytest.raises(Invalid, match=words):
            town.admin("PATCH", "quota", {"limits": limits})


# By hand


def test_what_was_changed_by_hand_is_found_put_right_and_told_with_who_did_it(
    town: Town, stack: RunningStack, broker: Broker, other_hand: Broker
) -> None:
    topic = town.topic("beats")
    town.add("monitor", "device", writes=["beats"])
    own = rows_of(broker, f"{town.name}__monitor")
    eve = AclRow(2, topic, 3, f"User:{fresh('eve')}", "*", 3, 3)
    run_launcher(stack.home, "reconcile", "--once")
    other_hand.create_acls({eve})
    other_hand.delete_acls(own)
    other_hand.alter_quotas({f"{town.name}__monitor": {"producer_byte_rate": 5.0}})
    eventually(lambda: eve in broker.acl_rows(broker.addresses()[0]) and broker.quotas(f"{town.name}__monitor"))

    dry = run_launcher(stack.home, "reconcile", "--once", "--dry-run", "--output", "json")
    found = {(each["kind"], each["change"], each["subject"]) for each in json.loads(dry.stdout)["differences"]}
    assert dry.returncode == 3, dry.stderr
    assert {("right", "delete", str(eve)), ("right", "create", str(next(iter(own)))), ("quota", "alter", f"{town.name}__monitor")} <= found
    assert eve in broker.acl_rows(broker.addresses()[0])

    applied = run_launcher(stack.home, "reconcile", "--once")
    assert applied.returncode == 0, applied.stderr
    assert str(eve) in applied.stdout
    assert eve not in broker.acl_rows(broker.addresses()[0])
    assert rows_of(broker, f"{town.name}__monitor") == own
    assert broker.quotas(f"{town.name}__monitor") == {}
    again = run_launcher(stack.home, "reconcile", "--once", "--dry-run")
    assert (again.returncode, again.stdout.strip()) == (0, "Nothing differs")

    (rights,) = _repairs(town, f"delete {eve}")
    assert (rights["create"], rights["delete"]) == (1, 1)
    assert {each.partition(" at ")[0] for each in rights["altered_by"]} == {"ws-broker-1 from 127.0.0.1"}
    assert {each.rpartition(" (")[2] for each in rights["altered_by"]} == {"CreateAcls)", "DeleteAcls)"}
    (quotas,) = _repairs(town, f"alter {town.name}__monitor: without producer_byte_rate")
    assert any("ws-broker-1" in each and "AlterClientQuotas" in each for each in quotas["altered_by"])


def _repairs(town: Town, what: str) -> list[dict[str, Any]]:
    """Return what the audit says of the repairs that name `what`."""
    found = town.admin("GET", "/v1/audit?limit=1000")
    details = [each["details"] for each in found if each["action"].endswith(".repair") and each["principal"] == "ws-control"]
    parsed = [json.loads(each) if isinstance(each, str) else each for each in details]
    return [each for each in parsed if what in each["what"]]


def test_what_is_done_by_hand_under_controls_own_name_is_told_from_what_control_does(
    town: Town, stack: RunningStack, broker: Broker
) -> None:
    town.topic("beats")
    eve = AclRow(2, f"{town.name}.beats", 3, f"User:{fresh('eve')}", "*", 3, 3)
    run_launcher(stack.home, "reconcile", "--once")
    time.sleep(0.6)
    # Not control's broker, but one made here with control's certificate.
    broker.create_acls({eve})
    time.sleep(0.6)
    run_launcher(stack.home, "reconcile", "--once")
    (entry,) = _repairs(town, f"delete {eve}")
    assert [each.partition(" at ")[0] for each in entry["altered_by"]] == ["ws-control from 127.0.0.1"]


def test_only_the_launcher_may_have_everything_reconciled(town: Town) -> None:
    with pytest.raises(Denied):
        town.gateway.json("POST", "/internal/v1/reconcile", json={"dry_run": True})


# At scale; ten times as much is `make test-scale`


def test_fifty_datasets_and_members_are_reconciled_quickly_and_once(reconciler: Reconciler, repository: Repository, broker: Broker) -> None:
    made = fill(repository, fresh("s"), projects=5, members=10, datasets=10)
    begun = time.monotonic()
    assert reconciler.everything().settled
    scratch = time.monotonic() - begun
    found = Counter(row.principal for row in broker.acl_rows(broker.addresses()[0]))
    assert {name: found[name] for name, _ in expected_rows(made, members=10, datasets=10)} == dict(
        expected_rows(made, members=10, datasets=10)
    )
    begun = time.monotonic()
    assert not [each for each in reconciler.everything().changes if made[0] in each.subject]
    nothing = time.monotonic() - begun
    with repository.transaction() as tenancy:
        tenancy.put_member(new_member(made[0], "late", Role.DATA_OWNER))
    begun = time.monotonic()
    assert reconciler.settle(made[0]).settled
    one = time.monotonic() - begun
    assert scratch < 20
    assert nothing < 5
    assert one < 1
