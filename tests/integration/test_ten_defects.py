"""The ten defects of the Hopsworks Kafka authorizer, each absent here.

Public source of October 2024; what is theirs stands first in each docstring.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the library re-exports these without saying so
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509

from featurestore.model import record_key
from tenancy.authority.issuer import issue, new_key
from tenancy.authority.profile import DEVICE, Unit
from tenancy.authority.store import AuthorityStore, private_pem
from tenancy.broker import Broker
from tenancy.wire import AclRow
from tests.integration.test_tenancy_broker import Party, Peers, Town, Watching, control_kafka, rows_of
from tests.support.stack import RunningStack
from tests.support.waiting import eventually
from wardstream.errors import Denied, Unavailable
from wardstream.kafka import client_configuration, consumer, deliver, producer
from wardstream.settings import KafkaSettings, TlsSettings

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


def admin_of(party: Party) -> AdminClient:
    return AdminClient({**client_configuration(party.kafka), "log_level": 0})


def refusal(futures: Mapping[Any, Future[Any]]) -> str:
    """Return the broker's refusal of an administrative call, "done" without one."""
    for future in futures.values():
        try:
            future.result(20)
        except KafkaException as error:
            return str(error.args[0].name())
    return "done"


def test_1_group_of_another_is_not_joined_reset_described_or_deleted(town: Town) -> None:
    """Resource Group is always allowed: any tenant joins, resets, describes or deletes another's group."""
    topic = town.topic("beats", permission="editable")
    anna, bert = town.add("anna", "data-scientist"), town.add("bert", "data-scientist")
    anna.write(topic, b"1", b"2")
    group = anna.group()
    theirs = consumer(anna.kafka, group=group)
    theirs.subscribe([topic])
    assert eventually(lambda: theirs.poll(0.5), within=20)
    theirs.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    theirs.close()
    for member in (bert, Town(town.peers).add("eve", "data-scientist")):
        admin = admin_of(member)
        assert refusal(admin.describe_consumer_groups([group], request_timeout=10)) == "GROUP_AUTHORIZATION_FAILED"
        assert refusal(admin.delete_consumer_groups([group], request_timeout=10)) == "GROUP_AUTHORIZATION_FAILED"
        back = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0)])
        assert refusal(admin.alter_consumer_group_offsets([back], request_timeout=10)) == "GROUP_AUTHORIZATION_FAILED"
        assert _joined(member, group, topic) == "GROUP_AUTHORIZATION_FAILED"
    again = consumer(anna.kafka, group=group)
    assert again.committed([TopicPartition(topic, 0)], timeout=10)[0].offset == 1
    again.close()


def _joined(party: Party, group: str, topic: str) -> str:
    client = consumer(party.kafka, group=group, group_protocol="classic")
    client.subscribe([topic])
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            message = client.poll(0.5)
            if message is not None:
                error = message.error()
                return error.name() if error is not None else "done"
    finally:
        client.close()
    return "nothing"


def test_2_members_write_exactly_once_under_their_own_transactional_ids(town: Town) -> None:
    """TransactionalId is denied, and IdempotentWrite was until 2024: no exactly-once for members."""
    topic = town.topic("beats", permission="editable")
    anna, bert = town.add("anna", "data-scientist"), town.add("bert", "data-scientist")
    client = _transactional(anna, f"{town.name}.anna.copy")
    client.begin_transaction()
    client.produce(topic, b"undone")
    client.abort_transaction()
    client.begin_transaction()
    client.produce(topic, b"kept")
    client.commit_transaction()
    assert _values(bert, topic, 1) == [b"kept"]
    for identity in (f"{town.name}.bert.copy", f"{town.name}.copy", f"ws.{town.name}.materialiser.1.copy"):
        with pytest.raises(KafkaException) as refused:
            _transactional(anna, identity)
        assert refused.value.args[0].name() == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"


def _transactional(party: Party, identity: str) -> Producer:
    client = producer(party.kafka, transactional_id=identity)
    client.init_transactions(15)
    return client


def _values(party: Party, topic: str, count: int) -> list[bytes]:
    client = consumer(party.kafka, group=party.group())
    client.subscribe([topic])
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(message.value() or b"" for message in client.consume(100, 0.3) if message.error() is None)
        return len(found) >= count

    try:
        eventually(enough, within=20)
        # What should not come would come now.
        enough()
    finally:
        client.close()
    return found


def test_3_a_processors_internal_topics_are_made_from_its_declaration(town: Town, broker: Broker) -> None:
    """An unknown topic means Create, which is denied: changelogs and repartition topics cannot be made."""
    town.topic("beats")
    internal = f"ws.{town.name}.proc.1.proc-changelog"
    town.owner.call("PUT", "services/proc", {"reads": ["beats"], "writes": [], "internals": [{"name": internal, "partitions": 2}]})
    assert broker.topics([internal])[internal].partitions == 2
    proc = Party(town, "proc", "service", "")
    proc.write(internal, b"state")
    assert _internal(proc, internal) == [b"state"]
    # No member reads or writes it, or moves the processor's place in its sources.
    assert _first_answer(town.owner, internal) == "TOPIC_AUTHORIZATION_FAILED"
    with pytest.raises(Denied):
        town.owner.write(internal, b"other state")
    admin = admin_of(town.owner)
    place = ConsumerGroupTopicPartitions(f"ws.{town.name}.proc.1.source", [TopicPartition(f"{town.name}.beats", 0, 0)])
    assert refusal(admin.alter_consumer_group_offsets([place], request_timeout=10)) == "GROUP_AUTHORIZATION_FAILED"
    # And nobody makes topics by themselves, the processor neither.
    for party in (proc, town.owner):
        admin = admin_of(party)
        made = admin.create_topics([NewTopic(f"ws.{town.name}.proc.1.more", 1, 1)], request_timeout=10)
        assert refusal(made) == "TOPIC_AUTHORIZATION_FAILED"


def _internal(party: Party, topic: str) -> list[bytes]:
    client = consumer(party.kafka, group=f"ws.{party.town.name}.{party.name}.1.source")
    client.subscribe([topic])
    try:
        message = eventually(lambda: client.poll(0.5), within=20)
        assert message is not None
        assert message.error() is None, message.error()
        return [message.value() or b""]
    finally:
        client.close()


def test_4_a_topic_made_anew_under_an_old_name_has_none_of_its_old_rights(town: Town, broker: Broker) -> None:
    """The owner of a topic is cached for ever: deleted and made elsewhere, it keeps its old owner until a restart."""
    topic = town.topic("beats")
    device = town.add("monitor", "device", writes=["beats"])
    device.write(topic, b"1")
    assert town.owner.call("DELETE", "datasets/beats")["settled"]
    assert not [row for row in broker.acl_rows(broker.addresses()[0]) if row.name.startswith(topic)]
    assert town.topic("beats") == topic
    with pytest.raises((Denied, Unavailable)):
        device.write(topic, b"2", seconds=5)


def test_5_a_role_that_was_lowered_counts_at_once_and_not_after_an_interval(town: Town) -> None:
    """Roles and shares are cached and expire after a polling interval."""
    topic = town.topic("beats", permission="editable")
    anna = town.add("anna", "data-scientist")
    anna.write(topic, b"1")
    begun = time.monotonic()
    town.owner.call("PATCH", "members/anna", {"role": "observer"})
    with pytest.raises((Denied, Unavailable)):
        anna.write(topic, b"2", seconds=5)
    with Watching(anna, topic) as watching:
        eventually(lambda: watching.received or watching.refused)
    bert = town.add("bert", "data-scientist")
    with Watching(bert, topic) as watching:
        eventually(lambda: watching.received)
        town.owner.call("DELETE", "members/bert")
        answered = time.monotonic()
        eventually(lambda: time.monotonic() > answered + 2)
        assert not [each for each in watching.received if each > answered + 1]
    assert time.monotonic() - begun < 60


def test_6_a_share_that_is_only_offered_opens_nothing(town: Town, broker: Broker) -> None:
    """The share query ignores the accepted flag: a pending share already opens the topics."""
    topic, other = town.topic("vitals"), Town(town.peers)
    town.owner.write(topic, b"1")
    sam = other.add("sam", "data-scientist")
    offered = town.owner.call("POST", "shares", {"dataset": "vitals", "receiver": other.name, "purpose": "study"})
    assert offered["state"] == "offered"
    assert not [row for row in rows_of(broker, f"{other.name}__sam") if row.name == topic]
    assert _first_answer(sam, topic) == "TOPIC_AUTHORIZATION_FAILED"
    other.owner.call("POST", f"shares/{offered['id']}/accept")
    assert _values(sam, topic, 1) == [b"1"]


def _first_answer(party: Party, topic: str) -> str:
    with Watching(party, topic) as watching:
        eventually(lambda: watching.received or watching.refused, within=15)
        return next(iter(watching.refused), "records")


def test_7_a_share_opens_one_topic_and_one_by_columns_none(town: Town, broker: Broker) -> None:
    """One share row opens all topics of a project; a share restricted to columns has no form in Kafka."""
    shared, kept, other = town.topic("vitals"), town.topic("notes"), Town(town.peers)
    sam = other.add("sam", "data-scientist")
    offered = town.owner.call("POST", "shares", {"dataset": "vitals", "receiver": other.name, "purpose": "study"})
    other.owner.call("POST", f"shares/{offered['id']}/accept")
    foreign = {row for row in rows_of(broker, f"{other.name}__sam") if row.name.startswith(f"{town.name}.")}
    assert foreign == {AclRow(2, shared, 3, f"User:{other.name}__sam", "*", 3, 3)}
    assert _first_answer(sam, kept) == "TOPIC_AUTHORIZATION_FAILED"
    assert _first_answer(sam, f"{shared}-dlq") == "TOPIC_AUTHORIZATION_FAILED"


def test_8_rights_can_be_listed_by_kafkas_own_call_and_are_those_of_the_model(town: Town, stack: RunningStack) -> None:
    """`acls()` returns null: nothing can be listed, so there is no audit of rights and no check of drift."""
    topic = town.topic("beats")
    town.add("monitor", "device", writes=["beats"])
    admin = AdminClient(client_configuration(control_kafka(stack)))
    found = admin.describe_acls(_everything_of(f"User:{town.name}__monitor")).result(20)
    assert [(row.name, row.operation.name, row.permission_type.name) for row in found] == [(topic, "WRITE", "ALLOW")]


def _everything_of(principal: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # None stands for any name; the annotation forgets it
        ResourcePatternType.ANY,
        principal,
        None,  # type: ignore[arg-type]  # any host
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def _with_certificate(stack: RunningStack, folder: Path, listener: str, unit: Unit, name: str) -> AdminClient:
    """Return a client whose certificate the outside authority signed, with a super user among its other names."""
    authority = AuthorityStore(stack.home / "pki" / "authority").authority("outside")
    assert authority is not None
    key = new_key()
    names = [x509.DNSName("ws-control"), x509.DNSName("ws-broker-1"), x509.UniformResourceIdentifier("wardstream://platform/ws-control")]
    made = issue(authority, replace(DEVICE, unit=unit), key.public_key(), common_name=name, names=names, now=datetime.now(UTC))
    folder.mkdir()
    (folder / "key.pem").write_text(private_pem(key))
    (folder / "certificate.pem").write_text(made.chain)
    tls = TlsSettings(ca_file=stack.root, certificate_file=folder / "certificate.pem", key_file=folder / "key.pem")
    settings = KafkaSettings(bootstrap_servers=stack.bootstrap(listener), tls=tls)
    return AdminClient({**client_configuration(settings), "log_level": 0}, logger=logging.getLogger("nobody"))


def test_9_a_super_users_name_in_a_certificate_makes_nobody_a_super_user(town: Town, stack: RunningStack, tmp_path: Path) -> None:
    """A super user is matched on any SAN of the presented chain."""
    town.topic("beats")
    member = _with_certificate(stack, tmp_path / "member", "client", Unit.MEMBER, f"{town.name}__olga")
    assert set(member.list_topics(timeout=15).topics) == {f"{town.name}.beats", f"{town.name}.beats-dlq"}
    made = member.create_topics([NewTopic(f"{town.name}.mine", 1, 1)], request_timeout=10)
    assert refusal(made) == "TOPIC_AUTHORIZATION_FAILED"
    for listener, unit in (("client", Unit.PLATFORM), ("worker", Unit.PLATFORM), ("internal", Unit.PLATFORM), ("internal", Unit.MEMBER)):
        other = _with_certificate(stack, tmp_path / f"{listener}-{unit}", listener, unit, "ws-control")
        with pytest.raises(KafkaException):
            other.list_topics(timeout=3)


def test_10_own_topics_are_described_and_altered_and_no_database_is_asked(town: Town, stack: RunningStack) -> None:
    """DescribeConfigs, Alter and Delete are denied on own topics; a database outage is a refusal for everybody."""
    topic = town.topic("beats", permission="editable", config={"retention.ms": "3600000"})
    anna = town.add("anna", "data-scientist")
    admin = admin_of(anna)
    configs = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)], request_timeout=10)
    assert next(iter(configs.values())).result(15)["retention.ms"].value == "3600000"
    assert town.owner.call("PATCH", "datasets/beats", {"partitions": 2})["partitions"] == 2
    client = producer(anna.kafka)
    database = sqlite3.connect(stack.home / "database" / "tenancy.sqlite", isolation_level=None)
    try:
        database.execute("BEGIN EXCLUSIVE")
        deliver(client, [(topic, None, b"while the database is away", [])], seconds=10)
        with Watching(anna, topic) as watching:
            eventually(lambda: watching.received)
    finally:
        database.execute("ROLLBACK")
        database.close()
    assert town.owner.call("DELETE", "datasets/beats")["settled"]


def test_keys_of_two_parts_never_meet() -> None:
    """Also theirs: key parts joined without a border, so that compaction mixes records of two patients."""
    assert record_key(("1", "23")) != record_key(("12", "3"))
