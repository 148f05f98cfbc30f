"""Shares, roles and ends of projects on the real platform: at the broker, at the doors, in SQL, on open connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError

from tests.support.stack import NewProject, Person, RunningStack, fresh, read
from tests.support.waiting import eventually
from wardstream.client.features import Feature
from wardstream.client.shares import Share
from wardstream.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated, WardstreamError

pytestmark = pytest.mark.stack

REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART)


@pytest.fixture
def giver(stack: RunningStack) -> NewProject:
    return stack.new_project("icu")


@pytest.fixture
def receiver(stack: RunningStack) -> NewProject:
    return stack.new_project("lab")


def share(giver: NewProject, receiver: NewProject, dataset: str, **options: Any) -> Share:
    """Offer and accept; the rights hold when this returns."""
    offered = giver.owner.project.shares.offer(dataset, receiver.name, purpose="sepsis study", **options)
    done = receiver.owner.project.shares.accept(offered.id)
    assert done.settled
    return done.share


def refused(person: Person, topic: str, *, listener: str = "worker") -> bool:
    """Return whether the broker refuses a consumer of `topic`."""
    client = person.consumer(topic, listener=listener)
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            message = client.poll(0.5)
            if message is not None:
                error = message.error()
                return error is not None and error.code() in REFUSED
        raise AssertionError("neither a record nor a refusal")
    finally:
        client.close()


@contextmanager
def reading(person: Person, topic: str, *, listener: str = "worker", **overrides: Any) -> Iterator[Consumer]:
    client = person.consumer(topic, listener=listener, group=None, **overrides)
    try:
        yield client
    finally:
        client.close()


def test_only_an_accepted_share_opens_a_topic_and_no_record_is_copied(giver: NewProject, receiver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    placed = giver.owner.produce(topic, [b"one", b"two"])
    scientist = receiver.add("sam", "data-scientist")
    assert refused(scientist, topic)
    offered = giver.owner.project.shares.offer("vitals", receiver.name, purpose="sepsis study")
    assert offered.state == "offered"
    assert refused(scientist, topic)
    assert receiver.owner.project.shares.datasets() == []
    receiver.owner.project.shares.accept(offered.id)
    messages = scientist.consume(topic, 2, listener="worker")
    assert [(m.partition(), m.offset()) for m in messages] == placed
    # In the catalogue of both sides.
    assert [(each.project, each.name) for each in receiver.owner.project.shares.datasets()] == [(giver.name, "vitals")]
    assert [each.state for each in giver.owner.project.shares.list()] == ["accepted"]
    assert [each.state for each in receiver.owner.project.shares.list()] == ["accepted"]
    # A member who comes later has it too, and one who leaves has not.
    late = receiver.add("zoe", "data-scientist")
    assert len(late.consume(topic, 2, listener="worker")) == 2
    with pytest.raises(WardstreamError):
        scientist.produce(topic, [b"three"], listener="worker")


@pytest.mark.parametrize(
    ("mode", "may"), [("read-only", set()), ("editable-by-owners", {"anna"}), ("editable", {"anna", "sam"})], ids=lambda each: str(each)
)
def test_mode_says_who_writes(giver: NewProject, receiver: NewProject, mode: str, may: set[str]) -> None:
    topic = giver.create_topic("vitals", permission="editable")
    scientist = receiver.add("sam", "data-scientist")
    share(giver, receiver, "vitals", mode=mode)
    for person in (receiver.owner, scientist):
        if person.name in may:
            assert person.produce(topic, [b"x"], listener="worker")
        else:
            with pytest.raises(Denied):
                person.produce(topic, [b"x"], listener="worker")


def test_withdrawal_ends_open_consumers_within_a_second(giver: NewProject, receiver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    scientist, own = receiver.add("sam", "data-scientist"), giver.add("ben", "data-scientist")
    done = share(giver, receiver, "vitals")
    producer = giver.owner.producer()
    with reading(scientist, topic) as theirs, reading(own, topic) as ours:
        giver.owner.produce(topic, [b"begin"])
        read(theirs, 1)
        read(ours, 1)
        start = time.monotonic()
        assert giver.owner.project.shares.withdraw(done.id).settled
        last, control = start, start
        while time.monotonic() - start < 6:
            producer.produce(topic, b"tick")
            producer.poll(0)
            if any(m.error() is None for m in theirs.consume(100, timeout=0.02)):
                last = time.monotonic()
            if any(m.error() is None for m in ours.consume(100, timeout=0.02)):
                control = time.monotonic()
        producer.flush(10)
    assert last - start < 1
    # Whose right stays goes on reading; else the measure above would mean nothing.
    assert control - start > 5


def test_withdrawal_ends_parked_fetches_within_five_seconds(giver: NewProject, receiver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    scientist = receiver.add("sam", "data-scientist")
    done = share(giver, receiver, "vitals")
    # Waits in the broker for more than will come; what was written meanwhile would be given out when the wait is over.
    parked: dict[str, Any] = {
        "fetch.min.bytes": 20_000_000,
        "fetch.message.max.bytes": 25_000_000,
        "fetch.max.bytes": 50_000_000,
        "fetch.wait.max.ms": 15_000,
        "auto.offset.reset": "latest",
    }
    with reading(scientist, topic, **parked) as client:
        eventually(lambda: client.poll(0.1) is None and bool(client.assignment()), within=20)
        time.sleep(2)
        start = time.monotonic()
        giver.owner.project.shares.withdraw(done.id)
        giver.owner.produce(topic, [b"after"] * 20)
        last = start
        while time.monotonic() - start < 17:
            if any(m.error() is None for m in client.consume(100, timeout=0.2)):
                last = time.monotonic()
    assert last - start < 5


def test_an_expired_share_is_over_and_cannot_be_accepted(giver: NewProject, receiver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    giver.owner.produce(topic, [b"one"])
    scientist = receiver.add("sam", "data-scientist")
    soon = datetime.now(UTC) + timedelta(seconds=6)
    done = share(giver, receiver, "vitals", expires_at=soon)
    assert len(scientist.consume(topic, 1, listener="worker", within=6)) == 1
    eventually(lambda: receiver.owner.project.shares.list()[0].state == "expired", within=15)
    assert refused(scientist, topic)
    with pytest.raises(Conflict, match="expired"):
        receiver.owner.project.shares.accept(done.id)


def test_whoever_received_a_dataset_cannot_share_or_delete_it(giver: NewProject, receiver: NewProject) -> None:
    giver.create_topic("vitals")
    share(giver, receiver, "vitals", mode="editable")
    owner = receiver.owner.connection.transport
    with pytest.raises(Denied, match="only its owners may share"):
        owner.json("POST", f"/api/v1/projects/{giver.name}/shares", json={"dataset": "vitals", "receiver": fresh("x"), "purpose": "p"})
    with pytest.raises(Denied):
        owner.json("DELETE", f"/api/v1/projects/{giver.name}/datasets/vitals")
    # And of the giving project nothing else is there.
    for path in ("", "/members", "/shares", "/audit", "/activity", "/roles"):
        with pytest.raises(NotFound):
            owner.json("GET", f"/api/v1/projects/{giver.name}{path}")


def test_an_offer_does_not_tell_which_projects_there_are(giver: NewProject, receiver: NewProject) -> None:
    giver.create_topic("vitals")
    offers = giver.owner.project.shares
    there, nowhere = offers.offer("vitals", receiver.name, purpose="p"), offers.offer("vitals", fresh("none"), purpose="p")
    assert (there.state, nowhere.state) == ("offered", "offered")
    # Nor may anybody but the one that it names see it.
    other = giver.stack.new_project("other").owner
    for call in (other.project.shares.accept, other.project.shares.reject, other.project.shares.withdraw):
        with pytest.raises(NotFound):
            call(there.id)
    receiver.owner.project.shares.reject(there.id)
    with pytest.raises(Conflict, match="rejected"):
        receiver.owner.project.shares.accept(there.id)


def test_rows_of_a_sandboxed_project_do_not_come_into_an_open_one(giver: NewProject, stack: RunningStack) -> None:
    open_project = stack.new_project("open", sandboxed=False)
    giver.create_topic("vitals")
    offered = giver.owner.project.shares.offer("vitals", open_project.name, purpose="p")
    with pytest.raises(Conflict, match="sandboxed"):
        open_project.owner.project.shares.accept(offered.id)
    open_project.owner.project.alter(sandboxed=True)
    assert open_project.owner.project.shares.accept(offered.id).settled
    with pytest.raises(Conflict, match="withdraw it first"):
        open_project.owner.project.alter(sandboxed=False)


FEATURES = [("bed", "string"), ("at", "timestamp"), ("hr", "double"), ("sbp", "double")]


def table_of(giver: NewProject) -> str:
    """Make a feature group with one row and return its dataset."""
    store = giver.owner.project.get_feature_store()
    features = [Feature(name, kind) for name, kind in FEATURES]
    group = store.get_or_create_feature_group("vitals", version=1, features=features, primary_key=["bed"], event_time="at")
    group.insert([{"bed": "b1", "at": datetime.now(UTC), "hr": 71.0, "sbp": 120.0}], wait=True)
    return "vitals_1"


def columns_of(person: Person, project: NewProject, table: str, *columns: str) -> list[str]:
    """Return the columns that the answer has when a program of this person asks for some, or all, of a table's."""
    store = person.rest("inside").projects.get(project.name).get_feature_store()
    return sorted(store.sql(f"SELECT {', '.join(columns) or '*'} FROM {table}").column_names)  # noqa: S608  # names of this test


def test_a_share_by_columns_opens_these_columns_of_the_table_and_no_topic(giver: NewProject, receiver: NewProject) -> None:
    dataset = table_of(giver)
    scientist = receiver.add("sam", "data-scientist")
    done = share(giver, receiver, dataset, columns=["hr"])
    inside = scientist.rest("inside").transport
    table = f"{giver.name.replace('-', '_')}__vitals"
    assert columns_of(scientist, receiver, table) == ["at", "bed", "hr"]
    with pytest.raises((Invalid, NotFound)):
        columns_of(scientist, receiver, table, "sbp")
    described = inside.json("GET", f"/api/v1/projects/{giver.name}/feature-groups/vitals/1")
    assert "sbp" not in str(described)
    body: dict[str, Any] = {"groups": [{"name": "vitals", "version": 1, "features": None}], "entities": {"bed": ["b1"]}}
    online = inside.json("POST", f"/api/v1/projects/{giver.name}/online-reads", json=body)
    assert list(online["groups"][0]["columns"]) == ["hr"]
    body["groups"][0]["features"] = ["sbp"]
    with pytest.raises(NotFound):
        inside.json("POST", f"/api/v1/projects/{giver.name}/online-reads", json=body)
    assert refused(scientist, f"{giver.name}.{dataset}")
    # Outside, rows of a sandboxed project stay where they are.
    with pytest.raises(Denied, match="stay inside"):
        scientist.project.get_feature_store().sql("SELECT 1")
    giver.owner.project.shares.withdraw(done.id)
    with pytest.raises((Invalid, NotFound)):
        columns_of(scientist, receiver, table)


def test_a_restricted_member_reads_what_it_was_given_and_nothing_else(giver: NewProject) -> None:
    dataset = table_of(giver)
    giver.create_topic("notes")
    added = giver.owner.project.add_member("rita", "restricted", columns={dataset: ["hr"]})
    rita = Person(giver.stack, giver.name, "rita", added.token)
    assert columns_of(rita, giver, "vitals") == ["at", "bed", "hr"]
    with pytest.raises((Invalid, NotFound)):
        columns_of(rita, giver, "vitals", "sbp")
    assert refused(rita, f"{giver.name}.{dataset}")
    assert [each.name for each in rita.project.topics.list()] == [dataset]
    with pytest.raises(Denied):
        rita.project.members()


def test_a_role_of_the_projects_own_leaves_out_what_it_says_at_broker_and_door(giver: NewProject) -> None:
    topic = giver.create_topic("vitals", permission="editable")
    giver.owner.produce(topic, [b"one"])
    giver.owner.project.put_role("reader", "data-scientist", ["record.write", "processor.deploy"])
    reader = giver.add("rob", "reader")
    assert len(reader.consume(topic, 1, listener="worker")) == 1
    with pytest.raises(Denied):
        reader.produce(topic, [b"x"], listener="worker")
    giver.owner.project.put_role("reader", "data-scientist", ["record.read"])
    assert refused(reader, topic)
    assert reader.produce(topic, [b"x"], listener="worker")
    with pytest.raises(Conflict, match="rob"):
        giver.owner.project.remove_role("reader")


def test_a_lost_key_ends_and_the_member_enrols_as_another_principal(giver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    device = giver.add("monitor", "device", writes=["vitals"])
    device.produce(topic, [b"one"])
    done = giver.owner.project.lost_key("monitor")
    assert done.settled
    assert done.principal == f"{giver.name}__monitor__g2"
    with pytest.raises(WardstreamError):
        device.produce(topic, [b"stolen"])
    assert done.token is not None
    again = Person(giver.stack, giver.name, "monitor", done.token)
    again.folder = again.folder.with_name(again.folder.name + "-again")
    assert again.produce(topic, [b"two"]) == [(0, 1)]


def test_an_owner_who_is_demoted_in_a_sandbox_loses_the_certificate_outside(giver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    second = giver.add("olga", "data-owner")
    second.produce(topic, [b"one"])
    done = giver.owner.project.alter_member("olga", role="observer")
    assert done.settled
    assert done.token is not None
    with pytest.raises(WardstreamError):
        second.produce(topic, [b"two"])
    with pytest.raises(Conflict, match="author"):
        giver.owner.project.alter_member("anna", role="observer")


def test_a_role_that_is_lowered_counts_at_the_next_request(giver: NewProject) -> None:
    giver.create_topic("vitals")
    second = giver.add("olga", "data-owner")
    assert second.project.add_member("dave", "device", writes=["vitals"]).token
    giver.owner.project.alter_member("olga", role="data-scientist")
    with pytest.raises(Denied):
        second.project.add_member("dora", "device", writes=["vitals"])


def test_the_author_stays_until_the_project_is_handed_over(giver: NewProject) -> None:
    second = giver.add("olga", "data-owner")
    with pytest.raises(Conflict, match="author"):
        second.project.remove_member("anna")
    with pytest.raises(Denied, match="author"):
        second.project.hand_over("olga")
    giver.owner.project.hand_over("olga")
    assert second.project.remove_member("anna").settled


def test_a_closed_project_has_no_members_and_its_shares_are_over(giver: NewProject, receiver: NewProject) -> None:
    topic = giver.create_topic("vitals")
    giver.owner.produce(topic, [b"one"])
    ben = giver.add("ben", "observer")
    sam = receiver.add("sam", "data-scientist")
    share(giver, receiver, "vitals")
    assert len(sam.consume(topic, 1, listener="worker")) == 1
    with pytest.raises(WardstreamError):
        ben.project.close()
    assert giver.owner.project.close().settled
    for person in (giver.owner, ben):
        with pytest.raises(Unauthenticated):
            person.connection.whoami()
    assert refused(sam, topic)
    state = giver.stack.admin.projects.get(giver.name)
    assert state.state == "closed"
    assert {member.state for member in state.members()} == {"removed"}
    with pytest.raises(Conflict):
        giver.stack.admin.projects.create(giver.name, owner="eve")


def test_a_membership_for_a_time_ends_by_itself(giver: NewProject) -> None:
    added = giver.owner.project.add_member("guest", "observer", expires_at=datetime.now(UTC) + timedelta(seconds=4))
    guest = Person(giver.stack, giver.name, "guest", added.token)
    assert guest.connection.whoami().role == "observer"

    def gone() -> bool:
        try:
            guest.connection.whoami()
        except Unauthenticated:
            return True
        return False

    eventually(gone, within=12)
