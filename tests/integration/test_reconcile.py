"""Reconciliation on the real broker: quotas and users like rights, results per item, what was changed by hand and by whom, at scale."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest

from tenancy.authority.store import AuthorityStore
from tenancy.broker import Broker
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers, StoreUser
from tenancy.repository import Repository
from tenancy.wire import AclRow
from tests.integration.test_tenancy_broker import Peers, Town, control_kafka, control_tls, rows_of
from tests.support.stack import RunningStack, fresh
from tests.support.waiting import eventually
from wardstream.clock import SystemClock
from wardstream.database import connect
from wardstream.errors import Unavailable
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
