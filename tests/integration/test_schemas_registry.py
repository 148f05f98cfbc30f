"""The registry on the real platform: stock Confluent serializers over HTTPS, walls between projects, and the topic as its only memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas.decode import decode_batch
from schemas.errors import IncompatibleSchema
from schemas.log import SchemaLog
from schemas.registry import RegistryService
from schemas.serde import RegistryHttp
from tenancy.acls import SCHEMAS_TOPIC
from tenancy.model import Principal, PrincipalKind, Role
from tenancy.plan import PLATFORM_TOPICS
from tests.support.stack import NewProject, Person, RunningStack, fresh
from tests.support.waiting import eventually
from wardstream.client.credentials import registry_settings
from wardstream.kafka import admin, consumer, producer
from wardstream.names import MemberName, ProjectName
from wardstream.settings import KafkaSettings, TlsSettings

pytestmark = pytest.mark.stack

VITAL = json.dumps(
    {
        "type": "record",
        "name": "Vital",
        "fields": [
            {"name": "patient", "type": "string"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "rate", "type": ["null", "double"], "default": None},
        ],
    }
)
LONGER = json.dumps(
    {**json.loads(VITAL), "fields": [*json.loads(VITAL)["fields"], {"name": "unit", "type": ["null", "string"], "default": None}]}
)
WRONG = json.dumps({"type": "record", "name": "Vital", "fields": [{"name": "rate", "type": "string"}]})


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    made = stack.new_project("reg")
    made.create_topic("vitals")
    return made


def by_key(person: Person) -> SchemaRegistryClient:
    """A stock client with the person's API key, as its basic authentication has it."""
    return stock(person, **{"basic.auth.user.info": f"key:{person.api_key}"})


def by_certificate(person: Person) -> SchemaRegistryClient:
    """A stock client with the person's certificate at the outside door."""
    return SchemaRegistryClient(registry_settings(person.rest("outside").transport))


def stock(person: Person, **settings: str) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": f"{person.stack.url()}/registry", "ssl.ca.location": str(person.stack.root), **settings})


def test_stock_serializers_write_and_read_through_the_registry_and_the_broker(project: NewProject) -> None:
    topic = project.topic("vitals")
    context = SerializationContext(topic, MessageField.VALUE)
    sent: list[dict[str, Any]] = [{"patient": f"p{i}", "at": 1_793_491_200_000 + i, "rate": i / 2 if i % 2 else None} for i in range(50)]
    with by_key(project.owner) as client:
        write = AvroSerializer(client, VITAL)
        project.owner.produce(topic, [write(row, context) for row in sent])
    found = [message.value() for message in project.owner.consume(topic, 50)]
    with by_key(project.owner) as client:
        read = AvroDeserializer(client)
        rows = [read(value, context) for value in found]
    assert [(row["patient"], round(row["at"].timestamp() * 1000), row["rate"]) for row in rows] == [
        (r["patient"], r["at"], r["rate"]) for r in sent
    ]
    catalogue = RegistryHttp(project.owner.connection.transport).catalogue()
    batch = decode_batch([*found, b"\x00\x00\x00\x00\x00"], catalogue)
    assert batch.table.to_pylist() == rows
    assert [reject.index for reject in batch.rejects] == [50]


def test_a_device_finds_its_schema_with_its_certificate_and_cannot_set_one(project: NewProject) -> None:
    project.create_topic("pulse")
    number = RegistryHttp(project.owner.connection.transport).register(f"{project.topic('pulse')}-value", VITAL)
    device = project.add("monitor", "device", writes=["pulse"])
    context = SerializationContext(project.topic("pulse"), MessageField.VALUE)
    with by_certificate(device) as client:
        write = AvroSerializer(client, conf={"auto.register.schemas": False, "use.latest.version": True})
        value = write({"patient": "p", "at": 1, "rate": None}, context)
        assert value[:5] == b"\x00" + number.to_bytes(4, "big")
        device.produce(project.topic("pulse"), [value])
        assert client.get_subjects() == [f"{project.topic('pulse')}-value"]
        with pytest.raises(SchemaRegistryError) as refusal:
            AvroSerializer(client, LONGER)({"patient": "p", "at": 1}, context)
    assert refusal.value.http_status_code == 403


def test_another_project_finds_nothing(stack: RunningStack, project: NewProject) -> None:
    registry = RegistryHttp(project.owner.connection.transport)
    number = registry.register(f"{project.topic('vitals')}-value", VITAL)
    subject = f"{project.topic('vitals')}-value"
    with by_key(stack.new_project("other").owner) as stranger:
        asked: list[Callable[[], object]] = [
            partial(stranger.get_schema, number),
            partial(stranger.get_latest_version, subject),
            partial(stranger.get_versions, subject),
            partial(stranger.get_compatibility, subject),
        ]
        for ask in asked:
            with pytest.raises(SchemaRegistryError) as refusal:
                ask()
            assert (refusal.value.http_status_code, refusal.value.error_code) in {(404, 40401), (404, 40403)}
        assert stranger.get_subjects() == []


def test_without_proof_nothing_is_answered(project: NewProject) -> None:
    for settings in ({}, {"basic.auth.user.info": "key:wsk_wrong"}):
        with stock(project.owner, **settings) as client, pytest.raises(SchemaRegistryError) as refusal:
            client.get_subjects()
        assert refusal.value.http_status_code == 401


def test_what_flink_asks_is_answered(project: NewProject) -> None:
    transport = project.owner.connection.transport
    number = RegistryHttp(transport).register(f"{project.topic('vitals')}-value", VITAL)
    found = transport.json("GET", f"/registry/schemas/ids/{number}?fetchMaxId=false&subject=")
    assert json.loads(found["schema"]) == json.loads(VITAL)


def test_topics_with_schemas_are_applied_once(project: NewProject) -> None:
    text = (
        f"topics:\n  - name: labs\n    partitions: 2\n    config: {{retention.ms: 86400000}}\n    schema: {json.dumps(json.loads(VITAL))}\n"
    )
    topics = project.owner.project.topics
    assert [change["change"] for change in topics.plan(text)] == ["create", "register schema"]
    assert [change["change"] for change in topics.apply(text)] == ["create", "register schema"]
    assert topics.plan(text) == topics.apply(text) == []
    assert [change["change"] for change in topics.apply(text.replace("86400000", "3600000"))] == ["alter settings"]
    with by_key(project.owner) as client:
        assert client.get_latest_version(f"{project.topic('labs')}-value").version == 1


def platform_kafka(stack: RunningStack, name: str) -> KafkaSettings:
    folder = stack.home / "pki" / "platform"
    tls = TlsSettings(ca_file=stack.root, certificate_file=folder / f"{name}.crt", key_file=folder / f"{name}.key")
    return KafkaSettings(bootstrap_servers=stack.bootstrap("internal"), tls=tls)


@contextmanager
def following(kafka: KafkaSettings, topic: str) -> Iterator[SchemaLog]:
    """A registry's log on a topic, read to its end."""
    log = SchemaLog(
        make_consumer=lambda: consumer(kafka, group="ws-query.registry", enable_partition_eof=True),
        make_producer=lambda: producer(kafka, linger_ms=0),
        topic=topic,
    )
    log.start()
    try:
        log.wait_until_ready(15)
        yield log
    finally:
        log.stop()


@pytest.fixture
def own_topic(stack: RunningStack) -> str:
    """A topic like `_schemas` of its own, so that a second registry does not write into the platform's."""
    name = f"_ws-{fresh('schemas')}"
    client = admin(platform_kafka(stack, "ws-control"))
    like = next(each for each in PLATFORM_TOPICS if each.name == SCHEMAS_TOPIC)
    client.create_topics([NewTopic(name, num_partitions=like.partitions, replication_factor=1, config=dict(like.config))])[name].result(15)
    return name


OWNER = Principal(PrincipalKind.MEMBER, ProjectName("icu"), MemberName("anna"), Role.DATA_OWNER)


def test_the_topic_alone_restores_what_the_platform_s_registry_answers(stack: RunningStack, project: NewProject) -> None:
    subject = f"{project.topic('vitals')}-value"
    RegistryHttp(project.owner.connection.transport).register(subject, VITAL)
    with following(platform_kafka(stack, "ws-query"), "_schemas") as log, log.reading() as state:
        restored = [v.version for v in state.versions(subject)], state.versions(subject)[-1].id
    with by_key(project.owner) as client:
        assert restored == (client.get_versions(subject), client.get_latest_version(subject).schema_id)


def test_a_restarted_registry_knows_what_was_registered_set_and_deleted(stack: RunningStack, own_topic: str) -> None:
    kafka = platform_kafka(stack, "ws-control")
    with following(kafka, own_topic) as log:
        service = RegistryService(log)
        first = service.register(OWNER, "icu.vitals-value", VITAL)
        service.register(OWNER, "icu.vitals-value", LONGER)
        service.set_level(OWNER, "icu.vitals-value", "FULL_TRANSITIVE")
        service.register(OWNER, "icu.gone-value", VITAL)
        service.delete_subject(OWNER, "icu.gone-value")
        service.delete_subject(OWNER, "icu.gone-value", permanent=True)
    with following(kafka, own_topic) as log:
        service = RegistryService(log)
        assert service.subjects(OWNER, deleted=True) == ["icu.vitals-value"]
        assert service.versions(OWNER, "icu.vitals-value") == [1, 2]
        assert service.level(OWNER, "icu.vitals-value") == "FULL_TRANSITIVE"
        assert service.register(OWNER, "icu.vitals-value", VITAL) == first
        with pytest.raises(IncompatibleSchema):
            service.register(OWNER, "icu.vitals-value", WRONG)


def test_many_clients_registering_one_schema_get_one_id(stack: RunningStack, own_topic: str) -> None:
    with following(platform_kafka(stack, "ws-control"), own_topic) as log, ThreadPoolExecutor(8) as pool:
        service = RegistryService(log)
        subjects = [f"icu.bed{number % 4}-value" for number in range(32)]
        made = list(pool.map(lambda subject: service.register(OWNER, subject, VITAL), subjects))
        assert {(found.id, found.version) for found in made} == {(1, 1)}
        assert log.ready() is None


def test_records_of_others_do_not_stop_the_registry(stack: RunningStack, own_topic: str) -> None:
    kafka = platform_kafka(stack, "ws-control")
    with following(kafka, own_topic) as log:
        client = producer(kafka, linger_ms=0)
        for key, value in ((b"\xff", b"x"), (b'{"keytype":"FUTURE"}', b"{}"), (b"-", None)):
            client.produce(own_topic, key=key, value=value)
        assert client.flush(10) == 0
        RegistryService(log).register(OWNER, "icu.vitals-value", VITAL)
        assert RegistryService(log).subjects(OWNER) == ["icu.vitals-value"]


def test_two_registries_at_once_never_give_one_id_to_two_schemas(stack: RunningStack, own_topic: str) -> None:
    kafka = platform_kafka(stack, "ws-control")
    with following(kafka, own_topic) as one, following(kafka, own_topic) as other, ThreadPoolExecutor(2) as pool:

        def register(work: tuple[SchemaLog, str]) -> dict[int, str]:
            log, name = work
            service, made = RegistryService(log), dict[int, str]()
            for number in range(20):
                text = json.dumps({"type": "record", "name": f"{name}{number}", "fields": []})
                made[eventually(partial(service.register, OWNER, f"icu.{name}{number}-value", text)).id] = text
            return made

        made = list(pool.map(register, [(one, "left"), (other, "right")]))
    assert len(made[0] | made[1]) == 40
    with following(kafka, own_topic) as log:
        for number, text in (made[0] | made[1]).items():
            assert json.loads(RegistryService(log).by_id(OWNER, number).schema) == json.loads(text)
