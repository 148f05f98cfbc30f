"""Tables are exactly what topics say, on the running platform."""

import io
import json
import math
import struct
import time
from typing import Any

import fastavro
import pytest

from streams.letters import TOO_LARGE
from tests.support.stack import RunningStack
from tests.support.tables import BEGIN, Table, new_table, rows
from tests.support.waiting import eventually
from topics.deadletter import parse
from wardstream.clock import to_ms
from wardstream.errors import LimitExceeded
from wardstream.kafka import MOST_RECORD_BYTES, deliver

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def table(stack: RunningStack) -> Table:
    return new_table(stack)


def test_rows_are_in_both_stores_when_an_insert_that_waits_returns(table: Table) -> None:
    table.insert(rows([1, 2, 3], minute=0))
    found = {row["patient"]: row for row in table.group.read().to_pylist()}
    assert found["p2"]["heart_rate"] == 72.0
    vectors = table.group.get_feature_vectors({"patient": ["p1", "p3", "nobody"]})
    assert vectors["heart_rate"].to_pylist() == [71.0, 73.0, None]
    assert vectors["ward"].to_pylist() == ["a", "a", None]


def test_newer_event_time_wins_online_and_repeats_count_once(table: Table) -> None:
    table.insert(rows([10], minute=5, heart_rate=100))
    table.insert(rows([10], minute=4, heart_rate=50))
    table.insert(rows([10], minute=5, heart_rate=200))
    assert table.group.get_feature_vectors({"patient": ["p10"]})["heart_rate"].to_pylist() == [210.0]
    kept = [(row["at"], row["heart_rate"]) for row in table.group.read().to_pylist() if row["patient"] == "p10"]
    assert sorted(rate for _, rate in kept) == [60.0, 210.0]


def test_every_record_is_a_row_a_repeat_or_a_dead_letter_with_its_reason(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows(range(100), minute=0))
    table.insert(rows(range(50), minute=0))
    schema, schema_id = newest_schema(table)
    good = {"patient": "x", "at": to_ms(BEGIN), "heart_rate": 1.0, "ward": None}
    bad = [
        b"",
        b"not Avro",
        struct.pack(">bI", 0, 4_000_000) + b"x",
        record(schema, schema_id, good)[:-2],
        record(schema, schema_id, {**good, "heart_rate": math.nan}),
        record(schema, schema_id, {**good, "at": 253_402_300_799_000}),
    ]
    owner = table.project.owner
    owner.produce(table.group.topic, bad)
    owner.produce(table.group.topic, [record(schema, schema_id, good)])
    found = table.settled(records=157)
    assert found["difference"] == 0
    assert (found["records"], found["rows"], found["repeats"], found["dead_letters"], found["behind"]) == (157, 101, 50, 6, 0)
    assert (found["online_equal"], found["online_rows"], found["online_different"]) == (True, 101, 0)
    letters = [parse(message.headers()) for message in owner.consume(f"{table.group.topic}-dlq", 6)]
    assert {letter.processor for letter in letters} == {"materialiser"}
    reasons = " | ".join(sorted(letter.reason for letter in letters))
    for part in ("heart_rate is NaN", "ahead of the time of arrival", "4000000 is not one of this project's", "does not begin with 0x00"):
        assert part in reasons


def test_a_large_record_that_cannot_be_used_stops_nothing(stack: RunningStack) -> None:
    table = new_table(stack)
    owner = table.project.owner
    # Zeros travel compressed: one more byte than a letter holds is still a small batch.
    values = [bytes(2 << 20), bytes(MOST_RECORD_BYTES + 1), b"not Avro"]
    deliver(owner.producer(message_max_bytes=32 << 20), [(table.group.topic, b"key", value, []) for value in values], seconds=20)
    table.insert(rows([1], minute=0))
    found = table.settled(records=4)
    assert (found["rows"], found["dead_letters"], found["difference"]) == (1, 3, 0)
    letters = {parse(message.headers()).offset: message for message in owner.consume(f"{table.group.topic}-dlq", 3)}
    assert [(letters[offset].key(), letters[offset].value()) for offset in sorted(letters)] == [
        (b"key", values[0]),
        (None, None),
        (b"key", values[2]),
    ]
    assert parse(letters[1].headers()).reason.startswith(TOO_LARGE)


def test_records_that_were_acknowledged_are_known_where_another_is_refused(table: Table) -> None:
    # Not compressed, and in a batch of its own, so the broker refuses only the second.
    client = table.project.owner.producer(compression_type="none")
    acknowledged: set[int] = set()
    messages: list[Any] = [(table.group.topic, None, value, []) for value in (b"not Avro", bytes(4 << 20))]
    with pytest.raises(LimitExceeded, match="MSG_SIZE_TOO_LARGE"):
        deliver(client, messages, seconds=20, acknowledged=acknowledged)
    assert acknowledged == {0}


def test_group_without_online_rows_has_its_table(stack: RunningStack) -> None:
    table = new_table(stack, online_enabled=False)
    table.insert(rows(range(5), minute=0))
    found = table.settled(records=5)
    assert (found["rows"], found["difference"], found["online_equal"]) == (5, 0, None)


def test_second_group_of_a_project_is_filled_by_the_process_that_is_there(table: Table) -> None:
    before = table.materialiser()
    second = table.project.owner.project.get_feature_store().create_feature_group(
        "second", primary_key=["patient"], event_time="at", features=table.group.features
    )
    report = second.insert(rows([1], minute=0), wait=True)
    assert report.materialised
    assert table.materialiser() == before


def test_committed_offsets_follow_the_table(table: Table) -> None:
    table.insert(rows([77], minute=1))
    offsets = table.group.progress()["offsets"]
    assert sum(offsets.values()) == table.group.progress()["records"]


def test_isolated_insert_waits_for_no_rhythm(stack: RunningStack) -> None:
    table = new_table(stack, partitions=1)
    table.insert(rows([1], minute=0))
    eventually(lambda: time.time() - table.status()["committed_at"] > 5.2, within=10)
    began = time.monotonic()
    table.insert(rows([2], minute=0))
    assert time.monotonic() - began < 3


def newest_schema(table: Table) -> tuple[Any, int]:
    answer = table.project.owner.connection.transport.json("GET", f"/registry/subjects/{table.group.topic}-value/versions/latest")
    return fastavro.parse_schema(json.loads(answer["schema"])), int(answer["id"])


def record(schema: Any, schema_id: int, row: dict[str, object]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, schema, row)
    return struct.pack(">bI", 0, schema_id) + body.getvalue()
