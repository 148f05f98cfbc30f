"""Rows over REST: each is written or comes back with its reason; who may not is refused, whatever the gateway still holds."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.support.doors import door, error
from tests.support.stack import RunningStack, fresh
from tests.support.tables import Table, new_table
from wardstream.client.features import Feature
from wardstream.errors import Denied, NotFound, Unauthenticated

pytestmark = pytest.mark.stack

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


@pytest.fixture(scope="module")
def table(stack: RunningStack) -> Table:
    return new_table(stack)


@pytest.fixture
def client(stack: RunningStack, table: Table) -> Iterator[httpx.Client]:
    with door(stack, key=table.project.owner.api_key) as found:
        yield found


def _rows(**changed: list[Any]) -> pa.Table:
    columns: dict[str, Any] = {"patient": ["a", "b", "c"], "at": [_AT] * 3, "heart_rate": [1.0, 2.0, 3.0], "ward": ["x", None, "z"]}
    return pa.table({**columns, **changed})


def _stream(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def test_rows_are_in_both_stores_when_an_insert_that_waits_returns(stack: RunningStack) -> None:
    group = new_table(stack).group

    report = group.insert(_rows(), wait=True)

    assert (report.accepted, report.rejected, report.materialised) == (3, (), True)
    assert group.progress()["rows"] == 3
    assert group.get_feature_vectors({"patient": ["b"]}).to_pylist()[0]["heart_rate"] == 2.0


def test_a_second_insert_does_not_wait_for_the_next_commit_of_its_own_accord(table: Table) -> None:
    table.group.insert(_rows(), wait=True)

    began = datetime.now(UTC)
    report = table.group.insert(_rows(at=[_AT + timedelta(seconds=1)] * 3), wait=True)

    assert report.materialised
    # The materialiser commits every 5 s where nobody asks for more.
    assert datetime.now(UTC) - began < timedelta(seconds=4.5)


def test_rows_that_do_not_fit_come_back_with_index_and_reason_and_the_others_are_written(table: Table) -> None:
    rows = pa.table(
        {
            "patient": ["a", None, "c", "d", "e"],
            "at": [_AT, _AT, None, _AT, datetime(2150, 1, 1, tzinfo=UTC)],
            "heart_rate": [1.0, 1.0, 1.0, float("nan"), 1.0],
            "ward": ["x"] * 5,
        }
    )

    report = table.group.insert(rows)

    assert report.accepted == 1
    assert [index for index, _ in report.rejected] == [1, 2, 3, 4]
    reasons = [reason for _, reason in report.rejected]
    assert all(word in reason for word, reason in zip(("patient", "at", "heart_rate", "at"), reasons, strict=True)), reasons


@pytest.mark.parametrize(
    "rows",
    [
        _rows().drop_columns(["patient"]),
        _rows().append_column("colour", pa.array(["r", "g", "b"])),
        _rows().append_column("patient", pa.array(["d", "e", "f"])),
        _rows(heart_rate=["1", "2", "3"]),
        _rows(at=["now", "then", "soon"]),
        _rows(heart_rate=[[1.0], [2.0], [3.0]]),
        _rows(patient=[{"a": 1}] * 3),
    ],
    ids=["key-missing", "unknown", "twice", "text-for-number", "text-for-time", "list", "struct"],
)
def test_columns_that_do_not_fit_are_refused_as_a_whole_and_named(client: httpx.Client, table: Table, rows: pa.Table) -> None:
    answer = client.post(_address(table), content=_stream(rows), headers=_ARROW)

    if answer.status_code == 200:  # a value of another type is each row's own fault
        assert answer.json()["accepted"] == 0
        assert len(answer.json()["rejected"]) == 3
    else:
        assert error(answer) == (422, "invalid")


def test_no_rows_are_no_fault(client: httpx.Client, table: Table) -> None:
    answer = client.post(_address(table), content=_stream(_rows().slice(0, 0)), headers=_ARROW)

    assert answer.json() == {"accepted": 0, "rejected": [], "materialised": False}


def test_broken_arrow_is_refused_and_never_read_past_its_end(client: httpx.Client, table: Table) -> None:
    whole = _stream(_rows())
    choose = random.Random(7)
    bodies = [b"", b"arrow", whole[:-30], whole[: len(whole) // 2], b"\xff\xff\xff\xff\xff\xff\xff\x7f", b'{"rows": []}']
    for _ in range(60):
        body = bytearray(whole)
        for _ in range(choose.randint(1, 3)):
            body[choose.randrange(len(body))] = choose.randrange(256)
        bodies.append(bytes(body))

    answers = [client.post(_address(table), content=body, headers=_ARROW) for body in bodies]

    assert {answer.status_code for answer in answers} <= {200, 422}
    assert [error(answer) for answer in answers[:6]] == [(422, "invalid")] * 6 or answers[2].status_code == 200
    assert client.get("/api/v1/whoami").status_code == 200


def test_json_where_arrow_is_wanted_is_told_what_is_right(client: httpx.Client, table: Table) -> None:
    answer = client.post(_address(table), json=[{"patient": "a"}])

    assert error(answer) == (422, "invalid")
    assert "application/vnd.apache.arrow.stream" in answer.json()["message"]


# Who may


def test_a_device_writes_the_records_of_its_own_datasets_alone(stack: RunningStack, table: Table) -> None:
    project = table.project
    project.create_topic("notes")
    project.owner.connection.transport.json(
        "POST",
        f"/registry/subjects/{project.topic('notes')}-value/versions",
        json={"schema": '{"type": "record", "name": "Note", "fields": [{"name": "text", "type": "string"}]}'},
    )
    device = project.add(fresh("bed"), "device", writes=["notes"])

    written = device.rest("outside").transport.json(
        "POST", f"/api/v1/projects/{project.name}/topics/notes/records", json={"records": [{"text": "hello"}]}
    )
    with pytest.raises(NotFound):
        device.rest("outside").transport.json("POST", _address(table), content=_stream(_rows()))

    assert written["accepted"] == 1


def test_an_observer_is_refused_with_the_reason(table: Table) -> None:
    observer = table.project.add(fresh("olaf"), "observer")

    with pytest.raises(Denied, match="ask a data owner"):
        observer.connection.transport.json("POST", _address(table), content=_stream(_rows()))


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        ("sql", {"json": {"sql": "select * from vitals"}}),
        ("online-reads", {"json": {"groups": [{"name": "vitals"}], "entities": {"patient": ["a"]}}}),
        ("feature-groups/vitals/1/rows", {}),
        (
            "training-data",
            {
                "params": {"spec": '{"label_time": "at", "features": [{"group": "vitals", "version": 1}]}'},
                "content": _stream(pa.table({"patient": ["a"], "at": [_AT]})),
            },
        ),
    ],
    ids=["sql", "online", "rows", "training"],
)
def test_rows_of_a_sandboxed_project_stay_inside_and_a_scientist_is_told_how_to_read_them(
    scientist: httpx.Client, table: Table, place: str, request_: dict[str, Any]
) -> None:
    answer = scientist.request("GET" if not request_ else "POST", f"/api/v1/projects/{table.project.name}/{place}", **request_)

    assert error(answer) == (403, "denied")
    assert "wardstream program run" in answer.json()["message"]


@pytest.fixture(scope="module")
def scientist(stack: RunningStack, table: Table) -> Iterator[httpx.Client]:
    with door(stack, key=table.project.add("sven", "data-scientist").api_key) as found:
        yield found


def test_a_scientist_of_an_open_project_reads_rows_outside(stack: RunningStack) -> None:
    project = stack.new_project("open", sandboxed=False)
    scientist = project.add("sven", "data-scientist")
    group = _group(scientist.project.get_feature_store())
    group.insert(_rows(), wait=True)

    assert scientist.project.get_feature_store().sql("select count(*) as n from vitals").to_pylist() == [{"n": 3}]


# Membership ends


def test_a_removed_member_is_refused_at_once_also_where_the_gateway_still_holds_a_producer(stack: RunningStack) -> None:
    project = stack.new_project("removal")
    scientist = project.add("sven", "data-scientist")
    group = _group(scientist.project.get_feature_store())
    assert group.insert(_rows()).accepted == 3  # now a producer in the scientist's name is kept
    owners = next(each for each in project.owner.project.get_feature_store().get_feature_groups() if each.name == "vitals")

    assert project.owner.project.remove_member("sven").settled

    for call in (scientist.connection.whoami, lambda: group.insert(_rows()), scientist.connection.projects.list):
        with pytest.raises(Unauthenticated):
            call()
    owners.insert(_rows(), wait=True)
    assert owners.progress()["records"] == 6


def test_a_member_who_is_added_again_writes_again_and_the_old_key_stays_closed(stack: RunningStack) -> None:
    project = stack.new_project("again")
    first = project.add("sven", "data-scientist")
    assert _group(first.project.get_feature_store()).insert(_rows()).accepted == 3
    assert project.owner.project.remove_member("sven").settled

    second = project.add("sven", "data-scientist")
    assert second.api_key != first.api_key
    group = second.project.get_feature_store().get_feature_group("vitals")

    assert second.connection.whoami().principal == f"{project.name}__sven__g2"
    assert group is not None
    assert group.insert(_rows()).accepted == 3
    with pytest.raises(Unauthenticated):
        first.connection.whoami()


def _group(store: Any) -> Any:
    return store.create_feature_group(
        "vitals",
        primary_key=["patient"],
        event_time="at",
        features=[Feature("patient", "string"), Feature("at", "timestamp"), Feature("heart_rate", "double"), Feature("ward", "string")],
    )


def _address(table: Table) -> str:
    return f"/api/v1/projects/{table.project.name}/feature-groups/{table.group.name}/{table.group.version}/rows"
