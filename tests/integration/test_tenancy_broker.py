"""Tenancy on the real broker: who may, who may not, and how fast that changes. Speaks to control as the gateway does."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tenancy.acls import MARKER
from tenancy.authority.issuer import new_key
from tenancy.authority.store import AuthorityStore, private_pem
from tenancy.broker import Broker
from tenancy.model import Member, MemberState
from tenancy.plan import row_of
from tenancy.reconcile import Reconciler
from tenancy.redis_users import OnlineStoreUsers
from tenancy.repository import Repository, Revocation, Step
from tenancy.wire import AclRow
from tests.support.stack import RunningStack, fresh
from tests.support.waiting import eventually
from wardstream.client.credentials import signing_request
from wardstream.client.transport import Transport
from wardstream.clock import SystemClock
from wardstream.database import connect
from wardstream.errors import Conflict, Denied, Invalid, InvalidName, NotFound, Unauthenticated, Unavailable, WardstreamError
from wardstream.kafka import client_configuration, deliver, producer
from wardstream.names import MemberName, ProjectName
from wardstream.settings import KafkaSettings, RedisSettings, TlsSettings

pytestmark = pytest.mark.stack


@dataclass
class Caller:
    """Somebody with a grant, calling control through the gateway's certificate."""

    control: Transport
    project: str
    grant: str

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        place = path if path.startswith("/") else f"/v1/projects/{self.project}/{path}"
        return self.control.json(method, place, json=body, headers={"Authorization": f"Bearer {self.grant}"})


@dataclass
class Party:
    """A member with everything it proves itself with."""

    town: Town
    name: str
    role: str
    token: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.town.stack.home / "test-people" / f"{self.town.name}__{self.name}__{secrets.token_hex(2)}"
        self.folder.mkdir(parents=True)

    @cached_property
    def api_key(self) -> str:
        return str(self.town.gateway.json("POST", "/v1/enrolments/api-key", json={"token": self.token})["api_key"])

    @property
    def grant(self) -> str:
        answer = self.town.gateway.json("POST", "/internal/v1/grants", json={"proof": {"api_key": self.api_key}, "door": "outside"})
        return str(answer["grant"])

    @cached_property
    def call(self) -> Caller:
        return Caller(self.town.gateway, self.town.name, self.grant)

    @cached_property
    def kafka(self) -> KafkaSettings:
        """A device at the outside listener; a person's program at the inside one."""
        key = new_key()
        if self.role == "device":
            answer = self.town.gateway.json("POST", "/v1/enrolments/certificate", json={"token": self.token, "csr": signing_request(key)})
        elif self.role == "service":
            path = f"/internal/v1/services/{self.town.name}/{self.name}/certificate"
            answer = self.town.workers.json("POST", path, json={"csr": signing_request(key), "days": 1})
        else:
            body = {"execution": fresh("e")}
            path = f"/v1/projects/{self.town.name}/execution-grants"
            execution = self.town.workers.json("POST", path, json=body, headers={"Authorization": f"Bearer {self.grant}"})
            answer = self.town.programs.json(
                "POST", "/internal/v1/executions/certificate", json={"grant": execution["grant"], "csr": signing_request(key)}
            )
        (self.folder / "key.pem").write_text(private_pem(key))
        (self.folder / "certificate.pem").write_text(answer["certificate"])
        tls = TlsSettings(ca_file=self.town.stack.root, certificate_file=self.folder / "certificate.pem", key_file=self.folder / "key.pem")
        listener = "client" if self.role == "device" else "worker"
        return KafkaSettings(bootstrap_servers=self.town.stack.bootstrap(listener), tls=tls)

    def write(self, topic: str, *values: bytes, seconds: float = 15) -> None:
        deliver(producer(self.kafka), [(topic, None, value, []) for value in values], seconds=seconds)

    def group(self) -> str:
        return f"{self.town.name}.{self.name}.{secrets.token_hex(3)}"


class Peers:
    """Control as each of the platform's processes reaches it; one client a process for all tests here."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self._open: dict[str, Transport] = {}

    def __call__(self, process: str) -> Transport:
        if process not in self._open:
            self._open[process] = self.stack.platform("control", process)
        return self._open[process]

    def close(self) -> None:
        for transport in self._open.values():
            transport.close()


@dataclass
class Town:
    """One project of one test."""

    peers: Peers
    name: str = field(default_factory=lambda: fresh("t"))

    def __post_init__(self) -> None:
        self.stack = self.peers.stack
        self.gateway, self.workers, self.programs = (self.peers(name) for name in ("ws-gateway", "ws-stream-worker", "ws-program-worker"))
        proof = {"api_key": (self.stack.home / "admin.key").read_text()}
        answer = self.gateway.json("POST", "/internal/v1/grants", json={"proof": proof, "door": "outside"})
        self.admin = Caller(self.gateway, self.name, answer["grant"])
        made = self.admin("POST", "/v1/projects", {"name": self.name, "owner": "olga"})
        assert made["settled"]
        self.owner = Party(self, "olga", "data-owner", made["owner_token"])

    def add(self, name: str, role: str, **lists: list[str]) -> Party:
        added = self.owner.call("POST", "members", {"name": name, "role": role, **lists})
        assert added["settled"]
        return Party(self, name, role, added["enrolment_token"] or "")

    def topic(self, dataset: str, **more: object) -> str:
        return str(self.owner.call("POST", "datasets", {"name": dataset, **more})["topic"])


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


def control_tls(stack: RunningStack) -> TlsSettings:
    folder = stack.home / "pki" / "platform"
    return TlsSettings(ca_file=stack.root, certificate_file=folder / "ws-control.crt", key_file=folder / "ws-control.key")


def control_kafka(stack: RunningStack) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=stack.bootstrap("internal"), tls=control_tls(stack))


def rows_of(broker: Broker, principal: str) -> frozenset[AclRow]:
    return broker.acl_rows(broker.addresses()[0], (f"User:{principal}",))


@pytest.fixture
def reconciler(stack: RunningStack, broker: Broker) -> Iterator[Reconciler]:
    """Control's reconciler, asked by the test instead of the clock."""
    engine = connect(f"sqlite:///{stack.home / 'database' / 'tenancy.sqlite'}")
    secret = AuthorityStore(stack.home / "pki" / "authority").secret()
    assert secret is not None
    yield Reconciler(
        repository=Repository(engine),
        broker=broker,
        users=OnlineStoreUsers(RedisSettings(port=stack.ports["redis"], tls=control_tls(stack)), secret),
        secret=secret,
        functions=Path("featurestore/online/functions.lua"),
        clock=SystemClock(),
        settle_seconds=10,
        rights=Lock(),
    )
    engine.dispose()


@pytest.fixture
def repository(stack: RunningStack) -> Iterator[Repository]:
    engine = connect(f"sqlite:///{stack.home / 'database' / 'tenancy.sqlite'}")
    yield Repository(engine)
    engine.dispose()


class Watching:
    """A consumer on its own thread: when it got records, and what it was refused."""

    def __init__(self, party: Party, topic: str, **overrides: Any) -> None:
        self.received: list[float] = []
        self.refused: set[str] = set()
        self.fetches = 0
        self._client = _consumer(party, {"statistics.interval.ms": 100, "stats_cb": self._count, **overrides})
        self._client.subscribe([topic])
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _count(self, statistics: str) -> None:
        brokers = json.loads(statistics)["brokers"].values()
        self.fetches = sum(each.get("req", {}).get("Fetch", 0) for each in brokers)

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._client.consume(1000, 0.02):
                error = message.error()
                if error is None:
                    self.received.append(time.monotonic())
                else:
                    self.refused.add(error.name())


def _consumer(party: Party, settings: dict[str, Any]) -> Consumer:
    return Consumer(
        {
            **client_configuration(party.kafka),
            "group.id": party.group(),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **settings,
        }
    )


_NOT_THE_TOPIC = "TOPIC_AUTHORIZATION_FAILED"


def test_nobody_gets_records_after_being_removed_while_their_fetch_waits_in_the_broker(town: Town) -> None:
    topic = town.topic("beats", permission="editable")
    writer = producer(town.add("monitor", "device", writes=["beats"]).kafka)
    deliver(writer, [(topic, None, b"before", [])], seconds=15)
    parked = {
        "fetch.min.bytes": 20_000_000,
        "fetch.message.max.bytes": 25_000_000,
        "fetch.max.bytes": 50_000_000,
        "auto.offset.reset": "latest",
    }
    # The broker closes an idle connection after 5 s, which ends the long wait; the short one only the bound on the principal empties.
    waits_ms = {"anna": 3_000, "bert": 15_000}
    with ExitStack() as open_:
        watching = {
            name: open_.enter_context(Watching(town.add(name, "data-scientist"), topic, **parked, **{"fetch.wait.max.ms": wait_ms}))
            for name, wait_ms in waits_ms.items()
        }
        eventually(lambda: all(each.fetches for each in watching.values()), within=20)
        asked = watching["anna"].fetches
        # The moment after a fetch was answered and the next one sent: it waits for as long as it can.
        eventually(lambda: watching["anna"].fetches > asked, every=0.01)
        for name in waits_ms:
            town.owner.call("DELETE", f"members/{name}")
        deliver(writer, [(topic, None, b"after %d" % number, []) for number in range(100)], seconds=15)
        written = time.monotonic()
        eventually(lambda: all(each.refused for each in watching.values()) and time.monotonic() - written > 15.5, within=25)
    assert [each.received for each in watching.values()] == [[], []]


def test_open_consumer_of_a_removed_member_gets_its_last_record_within_a_second(town: Town) -> None:
    topic = town.topic("beats", permission="editable")
    device = town.add("monitor", "device", writes=["beats"])
    anna = town.add("anna", "data-scientist")
    client: Producer = producer(device.kafka, linger_ms=5)
    stop = Event()

    def beat() -> None:
        while not stop.wait(0.005):
            client.produce(topic, b"beat")
            client.poll(0)

    beating = Thread(target=beat)
    beating.start()
    try:
        with Watching(anna, topic) as watching:
            eventually(lambda: len(watching.received) > 20)
            start = time.monotonic()
            town.owner.call("DELETE", "members/anna")
            eventually(lambda: watching.refused)
    finally:
        stop.set()
        beating.join()
        client.flush(10)
    last = max(watching.received) - start
    assert last < 1, f"the last record came {last:.2f} s after the order"


def test_open_producer_of_a_removed_member_writes_nothing_more(town: Town) -> None:
    topic = town.topic("notes", permission="editable")
    anna = town.add("anna", "data-scientist")
    client = producer(anna.kafka)
    deliver(client, [(topic, None, b"before", [])], seconds=15)
    town.owner.call("DELETE", "members/anna")
    with pytest.raises((Denied, Unavailable)):
        deliver(client, [(topic, None, b"after", [])], seconds=10)


def test_removed_member_proves_nothing_and_comes_back_as_somebody_else(town: Town, broker: Broker) -> None:
    topic = town.topic("notes", permission="editable")
    anna = town.add("anna", "data-scientist")
    anna.write(topic, b"one")
    town.owner.call("DELETE", "members/anna")
    assert rows_of(broker, f"{town.name}__anna") == frozenset()
    with pytest.raises(Unauthenticated):
        anna.call("GET", "datasets")
    with pytest.raises(Unauthenticated):
        _ = anna.grant
    back = town.add("anna", "data-scientist")
    back.write(topic, b"two")
    assert rows_of(broker, f"{town.name}__anna__g2")
    assert rows_of(broker, f"{town.name}__anna") == frozenset()
    assert broker.quotas(f"{town.name}__anna__g2") == {}
    with pytest.raises((Denied, Unavailable)):
        anna.write(topic, b"with the old certificate", seconds=5)


@pytest.mark.parametrize("step", [Step.DECIDED, Step.THROTTLED, Step.ROWS_GONE, Step.GENERATION])
def test_removal_that_a_crash_cut_short_is_finished_by_control(town: Town, repository: Repository, broker: Broker, step: Step) -> None:
    town.topic("notes", permission="editable")
    town.add("anna", "data-scientist")
    project, name = ProjectName(town.name), MemberName("anna")
    with repository.transaction() as tenancy:
        member = tenancy.member(project, name)
        assert member is not None
        # The state that each step leaves behind: what comes after it has not happened.
        generation = 2 if step is Step.GENERATION else 1
        tenancy.put_member(replace(member, state=MemberState.REMOVED, generation=generation))
        tenancy.add_revocation(
            Revocation(member.principal_name, project, name, 1, step, frozenset({"a-process-that-is-no-more"}), datetime.now(UTC))
        )
    if step in (Step.ROWS_GONE, Step.GENERATION):
        broker.delete_all_acls(member.principal_name)

    def finished() -> bool:
        with repository.transaction() as tenancy:
            found = next(one for one in tenancy.revocations() if one.principal == member.principal_name)
            after: Member | None = tenancy.member(project, name)
        return found.step is Step.DONE and after is not None and after.generation == 2 and not rows_of(broker, member.principal_name)

    eventually(finished, within=15)
    if step is Step.DECIDED:
        assert broker.quotas(member.principal_name) == {member.principal_name: {"consumer_byte_rate": 1.0}}


def test_member_of_another_project_gets_nothing_at_the_broker(town: Town) -> None:
    topic = town.topic("beats", permission="editable")
    town.owner.write(topic, b"secret")
    stranger = Town(town.peers).add("eve", "data-scientist")
    with pytest.raises(Denied):
        stranger.write(topic, b"x")
    with pytest.raises(Denied):
        stranger.write(f"{topic}-dlq", b"x")
    with Watching(stranger, topic) as watching:
        eventually(lambda: _NOT_THE_TOPIC in watching.refused)
    assert watching.received == []
    assert _asking_for(stranger, f"{town.name}.olga.x") == "GROUP_AUTHORIZATION_FAILED"


def _asking_for(party: Party, group: str) -> str:
    """Return what the broker answers to a question for a group's offsets."""
    client = AdminClient(client_configuration(party.kafka))
    (future,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=10).values()
    try:
        future.result()
    except KafkaException as error:
        return str(error.args[0].name())
    return "answered"


def test_nobody_uses_the_group_of_another_member(town: Town) -> None:
    anna = town.add("anna", "data-scientist")
    town.add("ann", "data-scientist")
    assert _asking_for(anna, f"{town.name}.anna.x") == "answered"
    for group in (f"{town.name}.ann.x", f"{town.name}.x", f"{town.name}.olga.x", f"ws.{town.name}.materialiser.1"):
        assert _asking_for(anna, group) == "GROUP_AUTHORIZATION_FAILED"


def test_device_writes_its_own_topic_and_reads_nothing(town: Town) -> None:
    own, other = town.topic("beats"), town.topic("lab", permission="editable")
    device = town.add("monitor", "device", writes=["beats"])
    device.write(own, b"1")
    for topic in (other, f"{own}-dlq"):
        with pytest.raises(Denied):
            device.write(topic, b"1")
    with Watching(device, own) as watching:
        eventually(lambda: watching.refused)
    assert watching.received == []


def test_processor_writes_results_and_dead_letters_and_people_do_not(town: Town) -> None:
    town.topic("beats")
    group = {"name": "beats_10s_1", "kind": "feature-group", "permission": "editable"}
    with pytest.raises(Conflict, match="a feature group's"):
        town.owner.call("POST", "datasets", group)
    result = str(Caller(town.peers("ws-query"), town.name, town.owner.grant)("POST", "datasets", group)["topic"])
    with pytest.raises(Conflict, match="a feature group's"):
        town.owner.call("DELETE", "datasets/beats_10s_1")
    internal = f"ws.{town.name}.proc.1.log"
    service = town.owner.call(
        "PUT", "services/proc", {"reads": ["beats"], "writes": ["beats_10s_1"], "internals": [{"name": internal, "partitions": 2}]}
    )
    assert service["role"] == "service"
    proc = Party(town, "proc", "service", "")
    for topic in (result, f"{town.name}.beats-dlq", internal):
        proc.write(topic, b"1")
    with pytest.raises(Denied):
        proc.write(f"{town.name}.beats", b"1")
    for topic in (result, f"{town.name}.beats-dlq", internal):
        with pytest.raises(Denied):
            town.owner.write(topic, b"1")


def test_removing_a_processor_removes_its_topics_and_gives_its_result_back(town: Town, broker: Broker) -> None:
    town.topic("beats")
    result = town.topic("result")
    internal = f"ws.{town.name}.proc.1.log"
    body = {"reads": ["beats"], "writes": ["result"], "internals": [{"name": internal}]}
    town.owner.call("PUT", "services/proc", body)
    assert internal in broker.topic_names()
    with pytest.raises(Conflict, match="used by proc"):
        town.owner.call("DELETE", "datasets/result")
    town.owner.call("DELETE", "members/proc")
    assert internal not in broker.topic_names()
    town.owner.write(result, b"1")
    town.owner.call("PUT", "services/proc", body)
    assert rows_of(broker, f"{town.name}__proc__g2")


def test_deleted_dataset_leaves_neither_topics_nor_rights(town: Town, broker: Broker) -> None:
    topic = town.topic("beats", permission="editable")
    town.add("monitor", "device", writes=["beats"])
    deleted = town.owner.call("DELETE", "datasets/beats")
    assert deleted["settled"]
    assert not {topic, f"{topic}-dlq"} & broker.topic_names()
    assert not [row for row in broker.acl_rows(broker.addresses()[0]) if row.name in (topic, f"{topic}-dlq")]
    first = town.owner.call("POST", "datasets", {"name": "beats"})
    assert first["topic"] == topic


def test_dataset_made_twice_is_one_and_other_settings_are_a_conflict(town: Town, broker: Broker) -> None:
    body = {"name": "beats", "partitions": 2, "config": {"retention.ms": "3600000"}}
    first = town.owner.call("POST", "datasets", body)
    assert town.owner.call("POST", "datasets", body) == first
    with pytest.raises(Conflict, match="alter it instead"):
        town.owner.call("POST", "datasets", {**body, "partitions": 3})
    states = broker.topics([first["topic"], f"{first['topic']}-dlq"])
    assert states[first["topic"]].config == {"retention.ms": "3600000", "message.timestamp.type": "LogAppendTime"}
    assert (states[first["topic"]].partitions, states[f"{first['topic']}-dlq"].partitions) == (2, 1)
    assert states[first["topic"]].topic_id == first["topic_id"]


def test_dataset_is_altered_at_the_broker(town: Town, broker: Broker) -> None:
    topic = town.topic("beats", config={"retention.ms": "3600000"})
    scientist = town.add("anna", "data-scientist")
    with pytest.raises(Denied):
        scientist.write(topic, b"1")
    altered = town.owner.call("PATCH", "datasets/beats", {"partitions": 3, "config": {"segment.ms": "60000"}, "permission": "editable"})
    assert (altered["partitions"], altered["permission"]) == (3, "editable")
    assert broker.topics([topic])[topic].config == {"segment.ms": "60000", "message.timestamp.type": "LogAppendTime"}
    scientist.write(topic, b"1")
    with pytest.raises(Conflict, match="cannot be removed"):
        town.owner.call("PATCH", "datasets/beats", {"partitions": 2})


def test_rights_from_outside_are_taken_back_and_missing_ones_made(town: Town, broker: Broker, reconciler: Reconciler) -> None:
    topic = town.topic("beats")
    device = town.add("monitor", "device", writes=["beats"])
    own = rows_of(broker, f"{town.name}__monitor")
    foreign = {
        AclRow(2, topic, 3, "User:eve", "*", 3, 3),
        AclRow(2, "*", 3, "User:*", "*", 3, 3),
        AclRow(2, topic, 3, f"User:{town.name}__monitor", "*", 3, 3),
        AclRow(2, topic, 3, f"User:{town.name}__monitor", "10.0.0.1", 4, 2),
    }
    broker.create_acls(foreign)
    broker.delete_acls(own)
    address = broker.addresses()[0]
    eventually(lambda: foreign <= broker.acl_rows(address) and not own & broker.acl_rows(address))
    assert reconciler.everything().settled
    found = broker.acl_rows(address)
    assert not foreign & found
    assert own <= found
    device.write(topic, b"1")


def test_list_of_rights_without_the_marker_is_not_repaired_from(broker: Broker, reconciler: Reconciler) -> None:
    reconciler.everything()
    address = broker.addresses()[0]
    before = broker.acl_rows(address)
    broker.delete_acls({row_of(MARKER)})
    try:
        eventually(lambda: row_of(MARKER) not in broker.acl_rows(address))
        with pytest.raises(Unavailable, match="marker is missing; nothing was changed"):
            reconciler.everything()
        assert broker.acl_rows(address) == before - {row_of(MARKER)}
    finally:
        broker.create_acls({row_of(MARKER)})
    eventually(lambda: row_of(MARKER) in broker.acl_rows(address))


def test_user_of_the_online_store_that_was_changed_is_put_right(town: Town, reconciler: Reconciler, stack: RunningStack) -> None:
    secret = AuthorityStore(stack.home / "pki" / "authority").secret()
    assert secret is not None
    users = OnlineStoreUsers(RedisSettings(port=stack.ports["redis"], tls=control_tls(stack)), secret)
    mine = {user for user in users.found() if user.name.startswith(f"{town.name}.")}
    assert {user.name for user in mine} == {f"{town.name}.read", f"{town.name}.write"}
    reader = next(user for user in mine if user.name.endswith(".read"))
    users.put([replace(reader, keys="*"), replace(reader, name="nobodys.read")])
    reconciler.everything()
    after = users.found()
    assert mine <= after
    assert "nobodys.read" not in {user.name for user in after}


def test_many_datasets_made_at_once_are_all_settled(town: Town) -> None:
    with ThreadPoolExecutor(6) as pool:
        begun = time.monotonic()
        made = list(pool.map(lambda number: town.owner.call("POST", "datasets", {"name": f"d{number}"}), range(12)))
    assert len(made) == 12
    # Each call answered as soon as its own part was shown, not when its patience ended.
    assert time.monotonic() - begun < 15


def test_many_members_added_at_once_all_have_their_rights(town: Town, broker: Broker) -> None:
    town.topic("beats", permission="editable")
    with ThreadPoolExecutor(6) as pool:
        added = list(
            pool.map(lambda number: town.owner.call("POST", "members", {"name": f"m{number}", "role": "data-scientist"}), range(12))
        )
    assert all(one["settled"] for one in added)
    rows = [rows_of(broker, one["member"]["principal"]) for one in added]
    assert {len(each) for each in rows} == {5}


# What is answered to whom


@pytest.mark.parametrize(
    ("method", "path", "body", "error", "words"),
    [
        (
            "POST",
            "members",
            {"name": "x", "role": "boss"},
            Invalid,
            "roles are data-owner, data-scientist, observer, restricted, device, service",
        ),
        ("POST", "members", {"name": "A B", "role": "observer"}, InvalidName, "not a member name"),
        ("POST", "members", {"name": "x", "role": "device", "writes": ["none"]}, NotFound, "create it first"),
        ("POST", "members", {"name": "x", "role": "device", "reads": ["none"]}, Invalid, "a device only writes"),
        ("POST", "members", {"name": "x", "role": "observer", "reads": ["none"]}, Invalid, "leave out reads"),
        ("POST", "members", {"name": "materialiser", "role": "service"}, Conflict, "exists already"),
        ("POST", "members", {"name": "x", "role": "observer", "rolle": 1}, Invalid, "rolle"),
        ("DELETE", "members/nobody", None, NotFound, "member nobody"),
        ("DELETE", "members/olga", None, Conflict, "author of project"),
        ("DELETE", "members/materialiser", None, Conflict, "stays as long"),
        ("POST", "members/nobody/enrolment-token", None, NotFound, "member nobody"),
        ("POST", "datasets", {"name": "ecg_1"}, InvalidName, "may not end in"),
        ("POST", "datasets", {"name": "ecg-dlq"}, InvalidName, "dead letters"),
        ("POST", "datasets", {"name": "ecg", "kind": "feature-group"}, Conflict, "a feature group's"),
        ("POST", "datasets", {"name": "ecg", "partitions": 0}, Invalid, "from 1 to 64"),
        ("POST", "datasets", {"name": "ecg", "partitions": 65}, Invalid, "from 1 to 64"),
        ("POST", "datasets", {"name": "ecg", "config": {"retention.ms": "week"}}, Invalid, "retention.ms must be"),
        ("POST", "datasets", {"name": "ecg", "permission": "all"}, Invalid, "permission"),
        ("PATCH", "datasets/none", {"partitions": 2}, NotFound, "is not there"),
        ("DELETE", "datasets/none", None, NotFound, "is not there"),
        ("PUT", "services/materialiser", {}, Conflict, "platform's own service"),
        ("PUT", "services/olga", {}, Conflict, "is a data-owner"),
        ("PUT", "services/x", {"reads": ["none"]}, NotFound, "create it first"),
        ("PUT", "services/x", {"internals": [{"name": "ws.other.x.y"}]}, Invalid, "begins with"),
        ("GET", "/v1/projects/ws-x", None, InvalidName, "reserved"),
        ("GET", "/v1/audit?limit=0", None, Invalid, "limit"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    town: Town, method: str, path: str, body: object, error: type[WardstreamError], words: str
) -> None:
    with pytest.raises(error) as refusal:
        town.owner.call(method, path, body)
    assert words in refusal.value.message


def test_stranger_gets_the_answer_for_what_is_not_there(town: Town) -> None:
    town.topic("beats")
    eve = Town(town.peers).owner.call
    attempts: list[Callable[[str], tuple[str, str, object]]] = [
        lambda project: ("GET", f"/v1/projects/{project}", None),
        lambda project: ("GET", f"/v1/projects/{project}/members", None),
        lambda project: ("POST", f"/v1/projects/{project}/members", {"name": "eve", "role": "data-owner"}),
        lambda project: ("DELETE", f"/v1/projects/{project}/members/olga", None),
        lambda project: ("POST", f"/v1/projects/{project}/members/olga/enrolment-token", None),
        lambda project: ("GET", f"/v1/projects/{project}/datasets", None),
        lambda project: ("POST", f"/v1/projects/{project}/datasets", {"name": "beats"}),
        lambda project: ("PATCH", f"/v1/projects/{project}/datasets/beats", {"partitions": 2}),
        lambda project: ("DELETE", f"/v1/projects/{project}/datasets/beats", None),
        lambda project: ("PUT", f"/v1/projects/{project}/services/proc", {"reads": ["beats"]}),
        lambda project: ("GET", f"/v1/audit?project={project}", None),
    ]
    for attempt in attempts:
        answers = []
        for project in (town.name, "nowhere"):
            with pytest.raises(NotFound) as refusal:
                eve(*attempt(project))
            answers.append(refusal.value.message.replace(project, "*"))
        assert answers[0] == answers[1]


def test_refused_attempt_is_an_entry_of_the_audit(town: Town) -> None:
    anna = town.add("anna", "data-scientist")
    with pytest.raises(Denied):
        anna.call("POST", "members", {"name": "eve", "role": "data-owner"})
    entries = town.owner.call("GET", f"/v1/audit?project={town.name}&limit=1000")
    assert [(one["action"], one["outcome"]) for one in entries if one["principal"] == f"{town.name}__anna"][-1] == ("member.add", "refused")
    assert town.owner.call("GET", "/v1/audit/verify")["intact"]


def test_removal_and_its_entry_are_one(town: Town) -> None:
    town.add("anna", "data-scientist")
    town.owner.call("DELETE", "members/anna")
    last = town.owner.call("GET", f"/v1/audit?project={town.name}&limit=1000")[-1]
    assert (last["action"], last["subject"], last["outcome"]) == ("member.remove", f"{town.name}__anna", "allowed")


def test_administrator_sees_projects_and_no_datasets(town: Town) -> None:
    town.topic("beats")
    assert town.name in {project["name"] for project in town.admin("GET", "/v1/projects")}
    with pytest.raises(Denied, match="ask a data owner"):
        town.admin("GET", "datasets")
    with pytest.raises(NotFound):
        town.admin("DELETE", "datasets/beats")
    with pytest.raises(Denied):
        town.admin("POST", "members", {"name": "root", "role": "data-owner"})


def test_scientist_deploys_only_what_that_scientist_could_do(town: Town) -> None:
    town.topic("raw")
    town.topic("open", permission="editable")
    anna = town.add("anna", "data-scientist")
    with pytest.raises(Denied, match="editable by owners"):
        anna.call("PUT", "services/proc", {"reads": ["open"], "writes": ["raw"]})
    anna.call("PUT", "services/proc", {"reads": ["raw"], "writes": ["open"]})
    with pytest.raises(Conflict, match="result of proc"):
        anna.call("PUT", "services/proc2", {"writes": ["open"]})


@pytest.mark.parametrize("process", ["ws-query", "ws-program-worker", "ws-launcher", "ws-gateway"])
def test_process_gets_only_what_is_its_own(town: Town, process: str) -> None:
    peer = town.peers(process)
    asked: dict[tuple[str, str], tuple[object, set[str]]] = {
        ("POST", "/internal/v1/grants"): ({"proof": {"api_key": "x"}}, {"ws-gateway"}),
        ("POST", f"/internal/v1/services/{town.name}/materialiser/certificate"): ({"csr": "x"}, {"ws-stream-worker"}),
        ("POST", "/internal/v1/executions/certificate"): ({"grant": "x", "csr": "x"}, {"ws-program-worker"}),
        ("GET", f"/internal/v1/projects/{town.name}/storage-credentials"): (None, {"ws-query", "ws-stream-worker"}),
        ("GET", "/internal/v1/projects"): (None, {"ws-stream-worker"}),
        ("GET", "/internal/v1/revocations"): (None, {"ws-query", "ws-stream-worker"}),
    }
    for (method, path), (body, allowed) in asked.items():
        if process not in allowed:
            with pytest.raises(Denied, match="may not ask for this"):
                peer.json(method, path, json=body)


def test_query_reads_and_the_stream_worker_writes_the_online_store(town: Town) -> None:
    path = f"/internal/v1/projects/{town.name}/storage-credentials"
    with pytest.raises(Unauthenticated):
        town.peers("ws-query").json("GET", path)
    reading = town.peers("ws-query").json("GET", path, headers={"Authorization": f"Bearer {town.owner.grant}"})
    writing = town.peers("ws-stream-worker").json("GET", path)
    assert (reading["redis_user"], writing["redis_user"]) == (f"{town.name}.read", f"{town.name}.write")
    assert reading["redis_password"] != writing["redis_password"]
    assert reading["pseudonym_key"] == writing["pseudonym_key"]


def test_call_without_a_grant_or_with_a_false_one_is_refused(town: Town) -> None:
    for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic abc"}):
        with pytest.raises(Unauthenticated):
            town.gateway.json("GET", "/v1/projects", headers=headers)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/certificates/acting",
        "/api/v1/projects/{project}/execution-grants",
        "/api/internal/v1/grants",
        "/internal/v1/grants",
        "/api/v1/../internal/v1/grants",
        "/api/v1/projects/..%2f..%2finternal/v1/grants",
        "/api/v1/enrolments/../certificates/acting",
        "/api/v1/enrolments/..%2Fcertificates%2Facting",
    ],
)
def test_no_door_leads_to_what_only_processes_may_ask(stack: RunningStack, path: str) -> None:
    """A person outside with an inside certificate in their own name would be past the sandbox."""
    owner = stack.new_project("doors").owner
    body = {"csr": signing_request(new_key()), "lifetime_seconds": 600}
    with pytest.raises((NotFound, Invalid, Denied)):
        owner.connection.transport.json("POST", path.format(project=owner.project_name), json=body)
