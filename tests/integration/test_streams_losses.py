"""What tables and online rows are after a topic or the online store lost something, on the running platform."""

import base64
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import redis
from confluent_kafka import TopicPartition

from featurestore.online.pseudonym import Pseudonyms
from featurestore.online.redis import connect
from streams.materialise import SETTINGS, MaterialiserSettings
from tests.support.stack import RunningStack
from tests.support.tables import Table, new_table, rows
from tests.support.waiting import eventually
from wardstream.errors import LimitExceeded
from wardstream.kafka import admin
from wardstream.names import ProjectName
from wardstream.settings import KafkaSettings, TlsSettings

pytestmark = pytest.mark.stack


def store_of(table: Table) -> tuple[redis.Redis, Pseudonyms]:
    """The online store as the project's materialiser reaches it."""
    settings = MaterialiserSettings.model_validate_json((table.folder / SETTINGS).read_text())
    client = connect(settings.redis, user=settings.redis_user, password=settings.redis_password)
    return client, Pseudonyms(ProjectName(table.project.name), base64.b64decode(settings.pseudonym_key))


def pulses(table: Table, *patients: str) -> list[float | None]:
    found: list[float | None] = table.group.get_feature_vectors({"patient": patients})["heart_rate"].to_pylist()
    return found


def test_online_rows_that_were_lost_are_there_again_though_no_record_comes(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows([1, 2], minute=0))
    client, pseudonyms = store_of(table)
    mark = f"p:{{{table.project.name}}}:marks"
    eventually(lambda: client.hget(mark, "vitals_1") == b"2", within=10)
    lost = [key.decode() for key in pseudonyms.online_keys("patient", [("p1",), ("p2",)])]
    assert client.unlink(*lost, mark) == 3
    assert pulses(table, "p1", "p2") == [None, None]
    eventually(lambda: pulses(table, "p1", "p2") == [71.0, 72.0], within=30)
    found = table.reconciliation()
    assert (found["difference"], found["online_rows"], found["online_equal"]) == (0, 2, True)


def test_online_rows_of_a_deleted_group_leave_the_store(stack: RunningStack) -> None:
    table = new_table(stack)
    kept = table.project.owner.project.get_feature_store().create_feature_group(
        "kept", primary_key=["patient"], event_time="at", features=table.group.features
    )
    for group in (table.group, kept):
        group.insert(rows([1, 2], minute=0), wait=True)
    client, pseudonyms = store_of(table)
    keys = [key.decode() for key in pseudonyms.online_keys("patient", [("p1",), ("p2",)])]
    assert all(client.hget(key, "vitals_1") for key in keys)
    table.group.delete()
    assert [client.hget(key, "vitals_1") for key in keys] == [None, None]
    assert client.hget(f"p:{{{table.project.name}}}:marks", "vitals_1") is None
    assert all(client.hget(key, "kept_1") for key in keys)


def test_records_that_the_topic_lost_are_named_and_the_others_go_on(stack: RunningStack) -> None:
    table = new_table(stack, partitions=1)
    table.insert(rows([1, 2], minute=0))
    process = table.materialiser()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        table.insert(rows([3, 4, 5], minute=1), wait=False)
        end = cut(stack, table)
        table.insert(rows([6], minute=2), wait=False)
    finally:
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: status(table).get("state") == "incomplete", within=40)
    assert status(table)["gap"] == f"the topic had deleted the records 2 to {end - 1} of partition 0 before the table had them"
    found = table.settled(records=3)
    assert (found["records"], found["rows"], found["difference"], found["behind"]) == (3, 3, 0, 0)


def test_tables_of_one_project_are_counted_for_one_at_a_time(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows([1], minute=0))
    start = Barrier(4)

    def count(_: int) -> bool:
        start.wait()
        try:
            return bool(table.reconciliation()["difference"] == 0)
        except LimitExceeded:
            return False

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(count, range(4)))
    assert 1 <= sum(answers) < 4
    assert table.reconciliation()["difference"] == 0


def status(table: Table) -> dict[str, Any]:
    try:
        return table.status()
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return {}


def cut(stack: RunningStack, table: Table) -> int:
    """Delete all records of the topic's partition, as retention does; returns where it begins now."""
    folder = stack.home / "pki" / "platform"
    tls = TlsSettings(ca_file=stack.root, certificate_file=folder / "ws-control.crt", key_file=folder / "ws-control.key")
    client = admin(KafkaSettings(bootstrap_servers=stack.bootstrap("internal"), tls=tls))
    place = TopicPartition(table.group.topic, 0, -1)
    return int(client.delete_records([place])[place].result(15).low_watermark)
