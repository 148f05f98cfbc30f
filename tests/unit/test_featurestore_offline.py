"""The offline table: exactly once, durable, and readable by everybody who reads Delta."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

import featurestore
from featurestore.control import Control
from featurestore.model import Feature, FeatureGroup, FeatureType
from featurestore.offline.commit import DataFile, DeltaLog, StaleCommit
from featurestore.offline.compaction import Compactor, compact, files_to_compact, vacuum
from featurestore.offline.table import OfflineTable
from featurestore.repository import GroupState, Repository, StoredGroup
from featurestore.service import Caller, FeatureStoreService, RowStream, _HeldTable
from featurestore.sql.engine import SqlAnswer, SqlEngine
from featurestore.training import training_spec
from tenancy.model import Door, Principal, PrincipalKind, Role
from tests.support.journals import journal
from wardstream.client.transport import Transport
from wardstream.clock import ManualClock
from wardstream.database import connect, migrate
from wardstream.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated, Unavailable, WardstreamError
from wardstream.names import GroupName, MemberName, ProjectName

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
GROUP = FeatureGroup(
    ProjectName("icu"),
    GroupName("vitals"),
    1,
    ("patient",),
    "at",
    (Feature("patient", FeatureType.STRING), Feature("at", FeatureType.TIMESTAMP), Feature("pulse", FeatureType.INT)),
)


def rows(*entries: tuple[str, float, int], offset: int = 0, ingested: datetime = NOON) -> pa.Table:
    """Patient, seconds after noon, pulse; at consecutive offsets of partition 0."""
    patients, times, pulses = zip(*entries, strict=True) if entries else ((), (), ())
    count = len(entries)
    columns = {
        "patient": patients,
        "at": [NOON + timedelta(seconds=seconds) for seconds in times],
        "pulse": pulses,
        "_ingested_at": [ingested] * count,
        "_partition": [0] * count,
        "_offset": list(range(offset, offset + count)),
    }
    return pa.table(columns, schema=GROUP.table_schema())


@pytest.fixture
def table(tmp_path: Path) -> OfflineTable:
    made = OfflineTable(tmp_path, GROUP, clock=ManualClock(NOON))
    made.create()
    return made


def pulses(found: pa.Table) -> list[int]:
    return sorted(found["pulse"].to_pylist())


def test_creating_twice_changes_nothing(table: OfflineTable) -> None:
    table.create()
    assert table.snapshot().version == 0
    assert table.read().schema == GROUP.arrow_schema()
    assert (table.rows(), table.repeats()) == (0, 0)


def test_a_table_that_was_never_made_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist yet"):
        OfflineTable(tmp_path, GROUP).snapshot()


def test_rows_are_read_back_without_repeats_of_which_the_last_ingested_stays(table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1), ("a", 1, 2), ("b", 0, 3)), txn={"t/0": 3}, counters={"records": 3})
    table.append(rows(("a", 0, 4), ("a", 0, 5), offset=3), txn={"t/0": 5}, counters={"records": 2})
    table.append(rows(("b", 0, 6), offset=5, ingested=NOON - timedelta(hours=1)), txn={"t/0": 6}, counters={"records": 2, "rejected": 1})
    assert pulses(table.read()) == [2, 3, 5]
    assert pulses(table.read(deduplicated=False)) == [1, 2, 3, 4, 5, 6]
    progress = table.progress()
    assert (progress.rows, progress.repeats, progress.records, progress.rejected) == (3, 3, 7, 1)
    assert progress.rows + progress.repeats + progress.rejected + progress.deletions == progress.records
    assert progress.newest_event_time == NOON + timedelta(seconds=1)
    assert table.offsets("t") == {0: 6}
    assert table.offsets("u") == {}


def test_every_version_can_be_read_again(table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1)), txn={"t/0": 1}, counters={})
    table.append(rows(("a", 1, 2), offset=1), txn={"t/0": 2}, counters={})
    assert [pulses(table.read(version)) for version in (0, 1, 2)] == [[], [1], [1, 2]]
    with pytest.raises(NotFound, match="no version 3; the newest is 2"):
        table.read(3)


def test_other_engines_read_the_table(table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1), ("b", -1.5, 2)), txn={"topic-id/0": 2}, counters={"records": 2})
    table.append(rows(("a", 5, 3), offset=2), txn={"topic-id/0": 3}, counters={"records": 1})
    delta = DeltaTable(table.path)
    assert delta.transaction_version("topic-id/0") == 3
    assert pulses(delta.to_pyarrow_table()) == [1, 2, 3]
    assert delta.to_pyarrow_table().schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert delta.history(1)[0]["operation"] == "WRITE"
    skipped = delta.to_pyarrow_dataset().to_table(filter=pa.compute.field("at") > NOON + timedelta(seconds=1))
    assert skipped.num_rows == 1
    assert pl.read_delta(str(table.path)).sort("pulse")["pulse"].to_list() == [1, 2, 3]
    compact(table, many=2)
    assert pulses(DeltaTable(table.path).to_pyarrow_table()) == [1, 2, 3]
    assert pl.scan_delta(str(table.path)).filter(pl.col("patient") == "a").collect().height == 2


def test_the_same_batch_again_is_left_out(table: OfflineTable) -> None:
    first = table.append(rows(("a", 0, 1)), txn={"t/0": 1, "t/1": 9}, counters={"records": 1})
    again = table.append(rows(("a", 0, 1)), txn={"t/0": 1, "t/1": 9}, counters={"records": 1})
    assert (first, again) == (1, 1)
    assert table.progress().records == 1


def test_a_batch_cut_before_the_table_moved_on_is_refused_whole(table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1)), txn={"t/0": 1}, counters={"records": 1})
    with pytest.raises(StaleCommit, match="read its offsets again"):
        table.append(rows(("a", 0, 1), ("a", 1, 2)), txn={"t/0": 2}, counters={"records": 2}, expected={})
    assert table.progress().records == 1
    assert table.snapshot().version == 1


def test_offsets_belong_to_the_topics_id_not_to_its_name(table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1)), txn={"old/0": 100}, counters={})
    table.append(rows(("a", 1, 2)), txn={"new/0": 1}, counters={}, expected={})
    assert (table.offsets("old"), table.offsets("new")) == ({0: 100}, {0: 1})


def test_writers_at_the_same_time_lose_nothing(table: OfflineTable, tmp_path: Path) -> None:
    def write(partition: int) -> None:
        own = OfflineTable(tmp_path, GROUP)
        for number in range(10):
            own.append(
                rows((f"p{partition}", number, number), offset=number),
                txn={f"t/{partition}": number + 1},
                counters={"records": 1},
                expected={f"t/{partition}": number},
            )

    threads = [threading.Thread(target=write, args=(partition,)) for partition in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress = table.progress()
    assert (progress.version, progress.rows, progress.records) == (40, 40, 40)
    assert table.offsets("t") == dict.fromkeys(range(4), 10)


def test_a_checkpoint_says_the_same_as_the_entries(table: OfflineTable, tmp_path: Path) -> None:
    for number in range(103):
        table.append(rows(("a", number % 50, number), offset=number), txn={"t/0": number + 1}, counters={"records": 1})
    assert (table.path / "_delta_log" / "_last_checkpoint").exists()
    fresh = OfflineTable(tmp_path, GROUP)
    assert fresh.snapshot() == table.snapshot()
    # Time travel to before the checkpoint does without it.
    assert fresh.rows(60) == 50
    assert fresh.progress().records == 103


@pytest.mark.parametrize("pointer", [b"", b"{", b"{}"])
def test_a_damaged_checkpoint_pointer_is_done_without(table: OfflineTable, tmp_path: Path, pointer: bytes) -> None:
    table.append(rows(("a", 0, 1)), txn={"t/0": 1}, counters={})
    (table.path / "_delta_log" / "_last_checkpoint").write_bytes(pointer)
    assert OfflineTable(tmp_path, GROUP).offsets("t") == {0: 1}


@pytest.mark.parametrize("kept", [0, 4, 100])
def test_a_torn_checkpoint_is_done_without(table: OfflineTable, tmp_path: Path, kept: int) -> None:
    table.append(rows(("a", 0, 1)), txn={"t/0": 1}, counters={"records": 1})
    DeltaTable(table.path).create_checkpoint()
    [checkpoint] = (table.path / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    assert OfflineTable(tmp_path, GROUP).snapshot() == table.snapshot()


def test_a_table_of_a_newer_protocol_is_left_alone(table: OfflineTable, tmp_path: Path) -> None:
    entry = table.path / "_delta_log" / f"{1:020d}.json"
    entry.write_bytes(orjson.dumps({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7}}))
    with pytest.raises(Conflict, match="Delta protocol 3/7"):
        OfflineTable(tmp_path, GROUP).append(rows(("a", 0, 1)), txn={"t/0": 1}, counters={})


def test_a_table_of_other_columns_is_left_alone(table: OfflineTable, tmp_path: Path) -> None:
    other = FeatureGroup(GROUP.project, GROUP.name, 1, GROUP.primary_key, GROUP.event_time, GROUP.features[:2])
    with pytest.raises(Conflict, match="other columns"):
        OfflineTable(tmp_path, other).create()


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_written(table: OfflineTable) -> None:
    nulls = rows(("a", 0, 1)).set_column(0, "patient", pa.array([None], pa.string()))
    for wrong in (nulls, rows(("a", 0, 1)).drop_columns(["at"])):
        with pytest.raises(Invalid, match="does not fit the table"):
            table.append(wrong, txn={"t/0": 1}, counters={})
    assert list(table.path.glob("*.parquet")) == []


def test_unknown_columns_are_refused_by_name(table: OfflineTable) -> None:
    with pytest.raises(Invalid, match="no column weight"):
        table.read(columns=["weight"])


def test_offsets_advance_without_rows(table: OfflineTable) -> None:
    table.append(rows(), txn={"t/0": 7}, counters={"records": 7, "rejected": 7})
    assert table.files() == []
    assert table.offsets("t") == {0: 7}


def test_only_event_times_are_in_the_log_which_is_plain_text(table: OfflineTable) -> None:
    table.append(rows(("patient-4711", 0, 12345)), txn={"t/0": 1}, counters={"records": 1})
    log = b"".join(path.read_bytes() for path in (table.path / "_delta_log").iterdir())
    assert b"4711" not in log
    assert b"12345" not in log
    assert b"2026-11-01T12:00:00.000Z" in log


def test_compaction_sorts_and_counts_the_repeats_it_removes(table: OfflineTable) -> None:
    table.append(rows(("b", 1, 1), ("a", 2, 2), ("a", 1, 3)), txn={"t/0": 3}, counters={"records": 3})
    table.append(rows(("a", 1, 4), ("a", 1, 5), ("c", 0, 6), offset=3), txn={"t/0": 6}, counters={"records": 3})
    before = table.progress()
    done = compact(table, many=2)
    assert done is not None
    assert (done.files, done.rows, done.repeats) == (2, 4, 2)
    assert table.read(deduplicated=False)["pulse"].to_pylist() == [5, 2, 1, 6]
    after = table.progress()
    assert (after.rows, after.repeats, after.records) == (before.rows, before.repeats, before.records) == (4, 2, 6)
    assert pulses(table.read(2)) == pulses(table.read())
    assert compact(table, many=2) is None
    table.append(rows(("a", 1, 7), offset=6), txn={"t/0": 7}, counters={"records": 1})
    assert table.progress().repeats == 3


def test_compaction_leaves_full_files_alone() -> None:
    files = [DataFile(f"{number}", 1, rows) for number, rows in enumerate((10, 100, 10))]
    assert [file.path for file in files_to_compact(files, many=2, full_rows=100)] == ["0", "2"]
    assert files_to_compact(files, many=3, full_rows=100) == []


def test_compaction_leaves_a_file_alone_that_is_larger_than_the_others_together() -> None:
    files = [DataFile(f"{number}", 1, rows) for number, rows in enumerate((64, 11, 7, 2, 1))]
    assert [file.rows for file in files_to_compact(files, many=2)] == []
    files.append(DataFile("5", 1, 3))
    assert [file.rows for file in files_to_compact(files, many=2)] == [1, 2, 3, 7, 11]


def test_a_row_is_rewritten_a_few_times_however_many_files_come() -> None:
    files: list[DataFile] = []
    rewritten = 0
    for number in range(4096):
        files.append(DataFile(f"{number}", 1, 1))
        if chosen := files_to_compact(files, many=64):
            rewritten += sum(file.rows for file in chosen)
            files = [file for file in files if file not in chosen] + [DataFile(f"of {number}", 1, sum(file.rows for file in chosen))]
    assert rewritten <= 4096 * 7
    assert len(files) < 64 + 12


def test_files_that_no_version_of_the_last_day_has_are_removed(table: OfflineTable) -> None:
    clock = ManualClock(NOON)
    for number in range(2):
        table.append(rows(("a", number, number), offset=number), txn={"t/0": number + 1}, counters={})
    compact(table, many=2, clock=clock)
    # Written long ago, and removed at noon: the table's clock stands still.
    written = (NOON - timedelta(days=9)).timestamp()
    for path in table.path.glob("*.parquet"):
        os.utime(path, (written, written))
    clock.advance(timedelta(hours=24))
    assert vacuum(table, clock=clock) == 0
    assert pulses(table.read(2)) == [0, 1]
    clock.advance(timedelta(seconds=1))
    orphan = table.path / "part-of-a-killed-writer.parquet"
    orphan.write_bytes(b"")
    assert vacuum(table, clock=clock) == 2
    assert pulses(table.read()) == [0, 1]
    assert {path.name for path in table.path.glob("*.parquet")} == {*table.snapshot().files, orphan.name}


def test_the_compactor_compacts_beside_a_writer(table: OfflineTable) -> None:
    compactor = Compactor(many=4, memory_mb=128)
    for number in range(12):
        table.append(rows(("a", number % 5, number), offset=number), txn={"t/0": number + 1}, counters={"records": 1})
        compactor.consider(table)
    deadline = time.monotonic() + 30
    # Up to three small files, and those that are larger than all smaller ones together.
    while len(table.files()) > 5:
        assert time.monotonic() < deadline, "nothing was compacted"
        compactor.consider(table)
        time.sleep(0.02)
    compactor.close()
    progress = table.progress()
    assert (progress.rows, progress.repeats, progress.records) == (5, 7, 12)
    assert pulses(table.read()) == [7, 8, 9, 10, 11]


def test_of_two_compactions_at_once_the_second_changes_nothing(table: OfflineTable, tmp_path: Path) -> None:
    for number in range(2):
        table.append(rows(("a", number, number), offset=number), txn={"t/0": number + 1}, counters={})

    class Slower(DeltaLog):
        def commit(self, *arguments: object, **named: object) -> int:
            compact(table, many=2)
            return super().commit(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    slow = OfflineTable(tmp_path, GROUP, log=Slower(table.path))
    assert compact(slow, many=2) is None
    assert table.snapshot().version == 3
    assert pulses(table.read()) == [0, 1]
    assert len(list(table.path.glob("*.parquet"))) == 3


_KILLED = """
import os, sys
from pathlib import Path
import featurestore.offline.commit as commit
from tests.unit.test_featurestore_offline import GROUP, rows
from featurestore.offline.table import OfflineTable

class Dying(commit.DeltaLog):
    def _put_if_absent(self, version, actions):
        if sys.argv[2] == "before":
            os._exit(9)
        super()._put_if_absent(version, actions)
        os._exit(9)

table = OfflineTable(Path(sys.argv[1]), GROUP)
table = OfflineTable(Path(sys.argv[1]), GROUP, log=Dying(table.path))
table.append(rows(("a", 0, 1), ("b", 0, 2)), txn={"t/0": 2}, counters={"records": 2}, expected={})
"""


@pytest.mark.parametrize(("when", "offset"), [("before", 0), ("after", 2)])
def test_a_writer_killed_around_the_commit_leaves_all_or_nothing(table: OfflineTable, tmp_path: Path, when: str, offset: int) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), when], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == 9
    assert len(list(table.path.glob("*.parquet"))) == 1
    assert table.offsets("t").get(0, 0) == offset
    # Started again at the table's offset, the writer brings what is missing, and nothing twice.
    if offset < 2:
        table.append(rows(("a", 0, 1), ("b", 0, 2)), txn={"t/0": 2}, counters={"records": 2}, expected={})
    assert (table.progress().rows, table.progress().repeats, table.progress().records) == (2, 0, 2)
    assert pulses(DeltaTable(table.path).to_pyarrow_table()) == [1, 2]


class RefusingControl:
    """Control's answer to whatever it is asked."""

    def __init__(self, error: WardstreamError) -> None:
        self.error = error

    def json(self, method: str, path: str, **arguments: object) -> object:
        raise self.error


def owner(*, member: str = "olga", generation: int = 1) -> Caller:
    principal = Principal(PrincipalKind.MEMBER, GROUP.project, MemberName(member), Role.DATA_OWNER, generation, Door.INSIDE)
    return Caller(principal, "grant")


def store(folder: Path, control: WardstreamError, sql: object = None) -> FeatureStoreService:
    """A feature store that holds `GROUP`; nothing but catalogue, control and warehouse is asked."""
    database = connect(f"sqlite:///{folder / 'catalogue.sqlite'}")
    migrate(database, Path(featurestore.__file__).parent / "migrations")
    repository = Repository(database)
    with repository.transaction() as catalogue:
        catalogue.add_group(StoredGroup(GROUP, 1, GroupState.ACTIVE, "icu__olga", NOON))
    unused: Any = None
    return FeatureStoreService(
        repository=repository,
        control=Control(cast(Transport, RefusingControl(control))),
        registry=unused,
        online=unused,
        usage=unused,
        sql=cast(SqlEngine, sql),
        journal=journal(folder / "audit"),
        warehouse=folder,
        clock=ManualClock(NOON),
    )


@pytest.mark.parametrize("refusal", [Conflict("used by a processor"), Denied("ask a data owner"), Unauthenticated("the grant is over")])
def test_a_group_whose_deletion_control_refuses_is_still_there(tmp_path: Path, refusal: WardstreamError) -> None:
    service = store(tmp_path, refusal)
    for _ in range(2):
        with pytest.raises(type(refusal), match=refusal.message):
            service.delete_group(owner(), "icu", "vitals", 1)
        assert [each.group.dataset for each in service.groups(owner(), "icu")] == ["vitals_1"]


def test_a_group_whose_deletion_may_have_begun_is_not_shown(tmp_path: Path) -> None:
    service = store(tmp_path, Unavailable("control is away"))
    with pytest.raises(Unavailable):
        service.delete_group(owner(), "icu", "vitals", 1)
    assert service.groups(owner(), "icu") == []


@pytest.mark.parametrize("training", [False, True])
def test_removed_member_gets_no_further_batch_of_an_open_stream(tmp_path: Path, table: OfflineTable, training: bool) -> None:
    count = 200_000
    keys, zeros = [str(number) for number in range(count)], np.zeros(count, np.int32)
    times = pa.array(np.full(count, NOON.replace(tzinfo=None), "datetime64[us]")).cast(pa.timestamp("us", "UTC"))
    columns = [pa.array(keys), times, pa.array(zeros), times, pa.array(zeros), pa.array(np.arange(count))]
    table.append(pa.table(columns, names=GROUP.table_schema().names), txn={"t/0": count}, counters={"records": count})
    service = store(tmp_path, Unavailable("control is not asked"))

    def opened(caller: Caller) -> RowStream:
        if not training:
            return service.rows(caller, "icu", "vitals", 1)
        spec = training_spec("label", [{"group": "vitals", "version": 1}])
        return service.training_data(caller, "icu", spec, pa.table({"patient": keys, "label": times})).rows

    streams = {caller.principal.name: opened(caller) for caller in (owner(), owner(generation=2), owner(member="otto"))}
    batches = {str(name): iter(stream) for name, stream in streams.items()}
    assert all(next(each).num_rows < count for each in batches.values())
    service.revoke("icu__olga", 1)
    with pytest.raises(Unauthenticated, match="no longer a member"):
        next(batches.pop("icu__olga"))
    assert all(next(each).num_rows > 0 for each in batches.values())
    for stream in streams.values():
        stream.close()


class AnsweringEngine:
    """Has an answer of three parts to every statement; `meanwhile` happens while it runs."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.answers: list[SqlAnswer] = []

    def run(self, sql: str, tables: object, **options: object) -> SqlAnswer:
        self.meanwhile()
        self.answers.append(SqlAnswer(io.BytesIO(b"123"), 1, 3))
        return self.answers[-1]


def test_removed_member_gets_no_answer_of_sql_and_no_further_part_of_one(tmp_path: Path, table: OfflineTable) -> None:
    sql = AnsweringEngine()
    service = store(tmp_path, Unavailable("control is not asked"), sql)
    olga, otto = (iter(service.sql(owner(member=member), "icu", "SELECT pulse FROM vitals").chunks(1)) for member in ("olga", "otto"))
    assert (next(olga), next(otto)) == (b"1", b"1")
    sql.meanwhile = lambda: service.revoke("icu__olga", 1)
    with pytest.raises(Unauthenticated, match="no longer a member"):
        service.sql(owner(), "icu", "SELECT pulse FROM vitals")
    assert sql.answers[-1].file.closed
    with pytest.raises(Unauthenticated, match="no longer a member"):
        next(olga)
    assert list(otto) == [b"2", b"3"]


def test_a_table_is_single_until_a_row_repeats_one_of_any_file_and_again_after_compaction(table: OfflineTable) -> None:
    held = _HeldTable(table)

    def single_after(*entries: tuple[str, float, int]) -> bool:
        start = table.offsets("t").get(0, 0)
        table.append(rows(*entries, offset=start), txn={"t/0": start + len(entries)}, counters={"records": len(entries)})
        single = held.pinned(look=True).single
        assert single == (table.rows() == table.dataset().count_rows())
        return single

    assert held.pinned(look=True).single
    assert single_after(("a", 0, 1), ("b", 0, 2))
    assert single_after(("a", 1, 3), ("b", -1, 4))
    assert not single_after(("c", 0, 5), ("c", 0, 6))
    assert not single_after(("d", 0, 7))
    assert compact(table, many=2) is not None
    assert held.pinned(look=True).single
    assert single_after(("c", 1, 8))
    assert not single_after(("b", 0, 9))
    assert not held.pinned().single


def test_offsets_of_a_table_are_told_without_reading_its_files(tmp_path: Path, table: OfflineTable) -> None:
    table.append(rows(("a", 0, 1), ("a", 0, 2)), txn={"t/0": 2, "t/1": 0}, counters={"records": 2})
    for path in table.files():
        path.unlink()
    service = store(tmp_path, Unavailable("control is not asked"))
    assert service.offsets(owner(), "icu", "vitals", 1) == {0: 2, 1: 0}
    with pytest.raises(NotFound):
        service.offsets(owner(), "icu", "vitals", 2)
