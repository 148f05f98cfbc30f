"""The online store on a real Redis with its rights, and both stores when the writer is killed."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
import redis

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, Feature, FeatureGroup, FeatureType
from featurestore.offline.table import OfflineTable
from featurestore.online.redis import RedisOnlineStore
from featurestore.online.store import OnlineStore, Selection, read_vectors
from featurestore.sink import Batch, FeatureSink, OnlineCopy, remove_online
from tests.property.test_featurestore_sink import MemoryStore
from wardstream.errors import Denied, Unavailable
from wardstream.names import GroupName, ProjectName

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
KEY = b"k" * 32
# The rights of section 5.2 of the plan: commands one by one, because a category lets SCAN and DBSIZE through.
READER = "nocommands +hmget +hgetall +hdel +fcall_ro +ping"
WRITER = "nocommands +hget +hset +hdel +unlink +fcall +ping"


def group(name: str, key: str = "patient", project: str = "icu", ttl: int | None = None) -> FeatureGroup:
    features = (
        Feature(key, FeatureType.STRING),
        Feature("at", FeatureType.TIMESTAMP),
        Feature("pulse", FeatureType.INT),
        Feature("note", FeatureType.STRING),
    )
    return FeatureGroup(ProjectName(project), GroupName(name), 1, (key,), "at", features, ttl_seconds=ttl)


VITALS, LABS, BEDS = group("vitals"), group("labs"), group("beds", "bed")


def rows(*entries: tuple[str, float, float, int], key: str = "patient", offset: int = 0) -> pa.Table:
    """Key, event and ingest time in seconds after noon, pulse."""
    return pa.table(
        {
            key: [entry[0] for entry in entries],
            "at": [NOON + timedelta(seconds=entry[1]) for entry in entries],
            "pulse": [entry[3] for entry in entries],
            "note": [f"note {entry[3]}" for entry in entries],
            INGESTED_AT: [NOON + timedelta(seconds=entry[2]) for entry in entries],
            PARTITION: [0] * len(entries),
            OFFSET: list(range(offset, offset + len(entries))),
        },
        schema=group("any", key).table_schema(),
    )


@dataclass(frozen=True)
class Server:
    """A Redis with the function library loaded; every user's password is `word`."""

    port: int
    word: str

    def client(self, user: str) -> redis.Redis:
        return redis.Redis(port=self.port, username=user, password=self.word, socket_timeout=5)

    def store(self, user: str, project: str = "icu") -> RedisOnlineStore:
        return RedisOnlineStore(self.client(user), ProjectName(project), KEY)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("redis")
    word = secrets.token_hex(16)
    users = [
        "user default off",
        f"user control on >{word} ~* +@all",
        *(f"user {project}.read on >{word} ~p:{{{project}}}:* {READER}" for project in ("icu", "lab")),
        *(f"user {project}.write on >{word} ~p:{{{project}}}:* {WRITER}" for project in ("icu", "lab")),
    ]
    (folder / "users.acl").write_text("\n".join(users) + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [*command, "--dir", str(folder), "--aclfile", str(folder / "users.acl")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    made = Server(port, word)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                made.client("control").ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)
        made.client("control").function_load((ROOT / "featurestore/online/functions.lua").read_text())
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@pytest.fixture(autouse=True)
def _empty(server: Server) -> None:
    server.client("control").flushdb()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, server: Server) -> OnlineStore:
    if request.param == "memory":
        return MemoryStore()
    return RedisOnlineStore(server.client("control"), ProjectName("icu"), KEY)


def stored(server: Server) -> dict[bytes, dict[bytes, bytes]]:
    """Everything in the store, as Redis has it."""
    control = server.client("control")
    return {key: cast(dict[bytes, bytes], control.hgetall(key)) for key in cast(list[bytes], control.scan(count=10_000)[1])}


def pulses(store: OnlineStore, *patients: str) -> list[int | None]:
    found: list[int | None] = store.get_many([VITALS], {"patient": patients})[0].values["pulse"].to_pylist()
    return found


class TestContractOfOnlineStores:
    def test_what_was_put_is_got_and_what_was_not_is_null(self, store: OnlineStore) -> None:
        assert store.put_many(VITALS, rows(("a", 0, 0, 1), ("b", 0, 0, 2))) == 2
        [found] = store.get_many([VITALS], {"patient": ["b", "nobody", "a", "b"]})
        assert found.values.to_pylist()[0] == {"pulse": 2, "note": "note 2"}
        assert found.values["pulse"].to_pylist() == [2, None, 1, 2]
        assert found.event_time.to_pylist() == [NOON, None, NOON, NOON]

    def test_newer_event_time_wins_whatever_the_order_of_arrival(self, store: OnlineStore) -> None:
        store.put_many(VITALS, rows(("a", 5, 0, 1)))
        assert store.put_many(VITALS, rows(("a", 4, 9, 2))) == 0
        assert store.put_many(VITALS, rows(("a", 6, 0, 3))) == 1
        assert pulses(store, "a") == [3]

    def test_of_equal_event_times_the_later_ingested_wins(self, store: OnlineStore) -> None:
        store.put_many(VITALS, rows(("a", 0, 5, 1)))
        assert store.put_many(VITALS, rows(("a", 0, 4, 2))) == 0
        assert store.put_many(VITALS, rows(("a", 0, 6, 3))) == 1
        assert pulses(store, "a") == [3]

    def test_of_equal_both_the_later_call_wins_and_a_replay_writes_nothing(self, store: OnlineStore) -> None:
        store.put_many(VITALS, rows(("a", 0, 0, 1)))
        assert store.put_many(VITALS, rows(("a", 0, 0, 2), offset=1)) == 1
        assert store.put_many(VITALS, rows(("a", 0, 0, 2), offset=1)) == 0
        assert pulses(store, "a") == [2]

    def test_within_a_call_the_same_rules_hold(self, store: OnlineStore) -> None:
        assert store.put_many(VITALS, rows(("a", 1, 0, 1), ("a", 2, 0, 2), ("a", 0, 9, 3), ("a", 2, 1, 4), ("a", 2, 1, 5))) == 1
        assert pulses(store, "a") == [5]

    def test_groups_of_one_entity_do_not_touch_each_other(self, store: OnlineStore) -> None:
        store.put_many(VITALS, rows(("a", 0, 0, 1)))
        if isinstance(store, RedisOnlineStore):
            store.put_many(LABS, rows(("a", -5, 0, 2)))
            store.put_many(BEDS, rows(("a", -9, 0, 3), key="bed"))
            found = store.get_many([LABS, BEDS, VITALS], {"patient": ["a"], "bed": ["a"]})
            assert [each.values["pulse"].to_pylist() for each in found] == [[2], [3], [1]]

    def test_nothing_put_is_nothing_written(self, store: OnlineStore) -> None:
        assert store.put_many(VITALS, VITALS.table_schema().empty_table()) == 0
        assert store.get_many([VITALS], {"patient": []})[0].values.num_rows == 0


def test_thousands_of_entities_go_in_calls_that_redis_accepts(server: Server) -> None:
    names = [f"p{number}" for number in range(2_500)]
    entries = [(name, 0.0, 0.0, number) for number, name in enumerate(names)]
    assert server.store("icu.write").put_many(VITALS, rows(*entries)) == 2_500
    assert pulses(server.store("icu.read"), *names) == list(range(2_500))
    writer = server.client("icu.write")
    with pytest.raises(redis.ResponseError, match="at most 1000 keys"):
        writer.fcall("put", 1_001, *[f"p:{{icu}}:x:{number}" for number in range(1_001)], "f", *[b"r" * 21] * 1_001)


def test_a_row_too_short_to_be_compared_is_refused_before_anything_is_written(server: Server) -> None:
    with pytest.raises(redis.ResponseError, match="at least 21 bytes"):
        server.client("icu.write").fcall("put", 1, "p:{icu}:patient:x", "vitals_1", b"short")
    with pytest.raises(redis.ResponseError, match="one row a key"):
        server.client("icu.write").fcall("put", 1, "p:{icu}:patient:x", "vitals_1")


def test_no_identifier_is_in_a_key(server: Server) -> None:
    server.store("icu.write").put_many(VITALS, rows(("patient-4711", 0, 0, 1)))
    found = stored(server)
    assert found.pop(b"p:{icu}:bytes").keys() == {b"vitals_1"}
    [key] = found
    assert key.startswith(b"p:{icu}:patient:")
    assert b"4711" not in key


def test_a_stale_row_is_null_with_its_age(server: Server) -> None:
    short = group("short", ttl=10)
    server.store("icu.write").put_many(short, rows(("a", 0, 0, 1), ("b", -60, 0, 2)))
    [found] = read_vectors(server.store("icu.read"), [Selection(short, ("pulse",))], {"patient": ["a", "b", "c"]}, now=NOON)
    assert found.values["pulse"].to_pylist() == [1, None, None]
    assert found.age_seconds.to_pylist() == [0.0, 60.0, None]


def test_a_reader_cannot_write_and_a_writer_cannot_read_whole_hashes(server: Server) -> None:
    with pytest.raises(Denied, match="write to the online store"):
        server.store("icu.read").put_many(VITALS, rows(("a", 0, 0, 1)))
    with pytest.raises(Denied, match="read from the online store"):
        server.store("icu.write").get_many([VITALS], {"patient": ["a"]})


@pytest.mark.parametrize("user", ["icu.read", "icu.write"])
@pytest.mark.parametrize(
    "command",
    [
        ("SCAN", "0"),
        ("KEYS", "*"),
        ("RANDOMKEY",),
        ("DBSIZE",),
        ("FLUSHALL",),
        ("EVAL", "return 1", "0"),
        ("FUNCTION", "LIST"),
        ("ACL", "LIST"),
        ("CONFIG", "GET", "*"),
        ("HMGET", "p:{lab}:patient:x", "vitals_1"),
        ("HSET", "p:{lab}:patient:x", "vitals_1", "r"),
        ("FCALL", "put", "1", "p:{lab}:patient:x", "vitals_1", "r" * 21),
        ("FCALL_RO", "read", "1", "p:{lab}:patient:x", "vitals_1"),
        ("FCALL_RO", "put", "1", "p:{icu}:patient:x", "vitals_1", "r" * 21),
    ],
    ids=" ".join,
)
def test_a_project_neither_lists_keys_nor_reaches_another_projects(server: Server, user: str, command: tuple[str, ...]) -> None:
    server.store("lab.write", "lab").put_many(group("vitals", project="lab"), rows(("x", 0, 0, 1)))
    with pytest.raises(redis.ResponseError):
        server.client(user).execute_command(*command)  # type: ignore[no-untyped-call]  # redis has no types for it


def test_the_default_user_is_nobody(server: Server) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=server.port).ping()


def test_a_store_that_does_not_answer_is_unavailable_not_empty(server: Server) -> None:
    gone = RedisOnlineStore(redis.Redis(port=1, socket_timeout=1), ProjectName("icu"), KEY)
    with pytest.raises(Unavailable, match="Redis does not answer"):
        gone.get_many([VITALS], {"patient": ["a"]})
    wrong = RedisOnlineStore(redis.Redis(port=server.port, username="icu.read", password="wrong"), ProjectName("icu"), KEY)
    with pytest.raises(Denied):
        wrong.get_many([VITALS], {"patient": ["a"]})


def test_concurrent_writers_end_with_the_newest_row(server: Server) -> None:
    def write(start: int) -> None:
        own = server.store("icu.write")
        for second in range(start, 60, 3):
            own.put_many(VITALS, rows(*((f"p{number}", second, 0, second) for number in range(50))))

    threads = [threading.Thread(target=write, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pulses(server.store("icu.read"), *(f"p{number}" for number in range(50))) == [59] * 50


_WRITER = """
import os, sys
from pathlib import Path
import redis
from featurestore.offline.table import OfflineTable
from featurestore.online.redis import RedisOnlineStore
from featurestore.sink import FeatureSink
from tests.integration.test_featurestore_stores import KEY, VITALS, batches

class Dying(OfflineTable):
    def append(self, *arguments, **named):
        if "before-commit" in sys.argv:
            os._exit(9)
        version = super().append(*arguments, **named)
        if "after-commit" in sys.argv:
            os._exit(9)
        return version

online = RedisOnlineStore(redis.Redis(port=int(sys.argv[2]), username="icu.write", password=os.environ["WORD"]), "icu", KEY)
table = Dying(Path(sys.argv[1]), VITALS)
table.create()
sink = FeatureSink(VITALS, table, online, topic_id="topic")
for batch in batches():
    sink.accept(batch)
    sink.write_online()
sink.flush_offline()
"""


def batches() -> list[Batch]:
    """Two batches of the same patients, later seconds in the second; one malformed record."""
    first = rows(*((f"p{number}", 0, 1, number) for number in range(20)))
    second = rows(*((f"p{number}", 5, 2, number + 100) for number in range(20)), offset=21)
    return [Batch(first, ((0, 20),), {0: 21}), Batch(second, (), {0: 41})]


@pytest.mark.parametrize("when", ["before-commit", "after-commit"])
def test_a_writer_killed_between_the_stores_leaves_them_equal_after_a_restart(server: Server, tmp_path: Path, when: str) -> None:
    def run(*more: str) -> int:
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(server.port), *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORD": server.word}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=60).returncode

    assert run(when) == 9
    table = OfflineTable(tmp_path, VITALS)
    assert table.offsets("topic") == ({} if when == "before-commit" else {0: 41})
    assert run() == 0
    progress = table.progress()
    assert (progress.records, progress.rows, progress.repeats, progress.rejected) == (41, 40, 0, 1)
    names = [f"p{number}" for number in range(20)]
    assert pulses(server.store("icu.read"), *names) == [number + 100 for number in range(20)]


def test_a_store_that_lost_its_data_is_rebuilt_from_the_table(server: Server, tmp_path: Path) -> None:
    table = OfflineTable(tmp_path, VITALS)
    table.create()
    writer = server.store("icu.write")
    sink = FeatureSink(VITALS, table, writer, topic_id="topic")
    for batch in batches():
        sink.accept(batch)
    sink.flush_offline()
    copy = OnlineCopy(table, writer)
    copy.keep()
    before = stored(server)
    counted = before.pop(b"p:{icu}:bytes")
    assert before.pop(b"p:{icu}:marks") == {b"vitals_1": b"41"}
    assert len(before) == 20
    server.client("control").flushdb()
    assert copy.keep() == 20
    after = stored(server)
    assert after.pop(b"p:{icu}:marks") == {b"vitals_1": b"41"}
    assert after.pop(b"p:{icu}:bytes") == counted
    assert after == before
    # What a field and its key take: each row once, however often it was written.
    assert int(counted[b"vitals_1"]) == sum(
        len(key) + len(field) + len(row) for key, fields in after.items() for field, row in fields.items()
    )


def test_rows_of_a_group_are_removed_by_whoever_reads_and_those_of_others_stay(server: Server, tmp_path: Path) -> None:
    table = OfflineTable(tmp_path, VITALS)
    table.create()
    writer = server.store("icu.write")
    sink = FeatureSink(VITALS, table, writer, topic_id="topic")
    for batch in batches():
        sink.accept(batch)
    sink.flush_offline()
    OnlineCopy(table, writer).keep()
    writer.put_many(LABS, rows(("p1", 0, 0, 7)))
    assert remove_online(table, server.store("icu.read")) == 20
    found = stored(server)
    assert found.pop(b"p:{icu}:bytes").keys() == {b"labs_1"}
    [left] = found.values()
    assert set(left) == {b"labs_1"}
