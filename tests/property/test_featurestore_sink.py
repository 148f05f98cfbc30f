"""Both stores after any course of events: batches, flushes, kills, replays, partitions that change hands."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.ingest import encode_rows, record_schema
from featurestore.model import INGESTED_AT, OFFSET, PARTITION, Feature, FeatureGroup, FeatureType
from featurestore.offline.compaction import compact
from featurestore.offline.table import OfflineTable
from featurestore.online.row import RowCodec, UnpackedRows
from featurestore.online.store import newest_of_batch
from featurestore.sink import Batch, FeatureSink, OnlineCopy, assemble, offline_due, online_due, rebuild_online, remove_online
from schemas.decode import SchemaCatalogue, decode_batch
from wardstream.names import GroupName, ProjectName

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
GROUP = FeatureGroup(
    ProjectName("icu"),
    GroupName("vitals"),
    1,
    ("patient",),
    "at",
    (Feature("patient", FeatureType.STRING), Feature("at", FeatureType.TIMESTAMP), Feature("pulse", FeatureType.INT)),
)
TOPIC_ID = "Xk3vPq0hT2uJ8sWdYb1mCg"


class MemoryStore:
    """The rules of the online store in a dictionary, for one group."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, ...], bytes] = {}
        self.marked: int | None = None

    def put_many(self, group: FeatureGroup, table: pa.Table) -> int:
        newest = newest_of_batch(group, table, [INGESTED_AT, PARTITION, OFFSET])
        keys = zip(*(newest[key].to_pylist() for key in group.key_columns), strict=True)
        written = 0
        for key, row in zip(keys, RowCodec(group).pack(newest), strict=True):
            old = self.rows.get(key)
            if old is None or _times(old) < _times(row) or (_times(old) == _times(row) and old != row):
                self.rows[key] = row
                written += 1
        return written

    def get_many(self, groups: Sequence[FeatureGroup], entities: Mapping[str, Sequence[object]]) -> list[UnpackedRows]:
        keys = list(zip(*(entities[key] for key in groups[0].key_columns), strict=True))
        return [RowCodec(group).unpack([self.rows.get(key) for key in keys]) for group in groups]

    def mark(self, group: FeatureGroup) -> int | None:
        return self.marked

    def set_mark(self, group: FeatureGroup, mark: int) -> None:
        self.marked = mark

    def remove_many(self, group: FeatureGroup, entities: pa.Table) -> int:
        keys = set(zip(*(entities[key].to_pylist() for key in group.key_columns), strict=True)) & set(self.rows)
        for key in keys:
            del self.rows[key]
        return len(keys)

    def remove_mark(self, group: FeatureGroup) -> None:
        self.marked = None


def _times(row: bytes) -> tuple[int, int]:
    return int.from_bytes(row[5:13], "little", signed=True), int.from_bytes(row[13:21], "little", signed=True)


class Record(NamedTuple):
    """One record of a partition: None stands for a malformed one; offsets have gaps, broker times stand still at times."""

    row: tuple[str, int, int] | None
    gap: int
    later: int


records = st.builds(
    Record,
    st.none() | st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 4), st.integers(0, 9)),
    st.integers(0, 2),
    st.integers(0, 1),
)
# What happens next: consume so many records of a partition, write online, flush, compact, or be killed and start somewhere below.
steps = st.one_of(
    st.tuples(st.just("consume"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.sampled_from(["online", "flush", "compact"]), st.just(0), st.just(0)),
    st.tuples(st.just("kill"), st.integers(0, 1), st.integers(0, 8)),
)


def placed(partition: int, given_records: list[Record]) -> list[tuple[int, datetime, tuple[str, int, int] | None]]:
    """Keys belong to one partition, as a producer sees to."""
    offset, time, found = 0, 0, []
    for record in given_records:
        offset += record.gap
        time += record.later
        row = None if record.row is None else (f"{record.row[0]}{partition}", *record.row[1:])
        found.append((offset, BEGIN + timedelta(minutes=1, milliseconds=time), row))
        offset += 1
    return found


def batch_of(partition: int, part: list[tuple[int, datetime, tuple[str, int, int] | None]]) -> Batch:
    fitting = [entry for entry in part if entry[2] is not None]
    table = pa.table(
        {
            "patient": [entry[2][0] for entry in fitting if entry[2]],
            "at": [BEGIN + timedelta(seconds=entry[2][1]) for entry in fitting if entry[2]],
            "pulse": [entry[2][2] for entry in fitting if entry[2]],
            INGESTED_AT: [entry[1] for entry in fitting],
            PARTITION: [partition] * len(fitting),
            OFFSET: [entry[0] for entry in fitting],
        },
        schema=GROUP.table_schema(),
    )
    return Batch(table, tuple((partition, entry[0]) for entry in part if entry[2] is None), {partition: part[-1][0] + 1})


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.lists(records, max_size=12), st.lists(records, max_size=12)), st.lists(steps, max_size=25))
def test_whatever_happens_each_record_counts_once(
    given_records: tuple[list[Record], list[Record]], course: list[tuple[str, int, int]]
) -> None:
    topic = [placed(partition, each) for partition, each in enumerate(given_records)]
    with TemporaryDirectory() as folder:
        table, online = OfflineTable(Path(folder), GROUP), MemoryStore()
        table.create()
        sink, position = FeatureSink(GROUP, table, online, topic_id=TOPIC_ID), [0, 0]
        for step, partition, count in [*course, ("consume", 0, 99), ("consume", 1, 99), ("flush", 0, 0)]:
            if step == "consume":
                part = topic[partition][position[partition] : position[partition] + count]
                position[partition] += len(part)
                if part:
                    sink.accept(batch_of(partition, part))
            elif step == "online":
                sink.write_online()
            elif step == "flush":
                flushed = sink.flush_offline()
                assert flushed.next_offsets == table.offsets(TOPIC_ID)
            elif step == "compact":
                compact(table, many=2, memory_mb=128)
            else:
                # A new process begins where Kafka's offsets say, which is at or below what the table has.
                sink = FeatureSink(GROUP, OfflineTable(Path(folder), GROUP), online, topic_id=TOPIC_ID)
                held = sink.offsets()
                position = [sum(entry[0] < held.get(p, 0) for entry in topic[p]) for p in (0, 1)]
                position[partition] = max(0, position[partition] - count)
        progress = table.progress()
        everything = [entry for part in topic for entry in part]
        fitting = [entry for entry in everything if entry[2] is not None]
        assert (progress.records, progress.rejected) == (len(everything), len(everything) - len(fitting))
        assert progress.rows + progress.repeats == len(fitting)
        expected: dict[tuple[str, int], int] = {}
        for _, _, row in fitting:
            if row is not None:
                expected[row[0], row[1]] = row[2]
        found = table.read(columns=["patient", "at", "pulse"]).to_pylist()
        assert {(each["patient"], int((each["at"] - BEGIN).total_seconds())): each["pulse"] for each in found} == expected
        assert len(found) == len(expected)
        newest = {patient: max(at for known, at in expected if known == patient) for patient, _ in expected}
        patients = sorted(newest)
        [rows] = online.get_many([GROUP], {"patient": patients})
        assert rows.values["pulse"].to_pylist() == [expected[patient, newest[patient]] for patient in patients]
        rebuilt = MemoryStore()
        rebuild_online(table, rebuilt)
        assert rebuilt.rows == online.rows


def test_partitions_that_changed_hands_are_not_written_twice(tmp_path: Path) -> None:
    table = OfflineTable(tmp_path, GROUP)
    table.create()
    topic = placed(0, [Record(("a", second, second), 0, 1) for second in range(4)])
    zombie, owner = (FeatureSink(GROUP, table, None, topic_id=TOPIC_ID) for _ in range(2))
    zombie.accept(batch_of(0, topic))
    owner.accept(batch_of(0, topic[:2]))
    assert owner.flush_offline().next_offsets == {0: 2}
    assert zombie.flush_offline().next_offsets == {0: 4}
    assert owner.accept(batch_of(0, topic[2:])) == 2
    assert owner.flush_offline().next_offsets == {0: 4}
    assert (table.progress().rows, table.progress().repeats, table.progress().records) == (4, 0, 4)


def test_a_batch_read_twice_by_one_sink_counts_once(tmp_path: Path) -> None:
    table = OfflineTable(tmp_path, GROUP)
    table.create()
    sink = FeatureSink(GROUP, table, None, topic_id=TOPIC_ID)
    batch = batch_of(0, placed(0, [Record(("a", 1, 1), 0, 0), Record(None, 0, 0)]))
    assert (sink.accept(batch), sink.accept(batch), sink.buffered) == (2, 0, 2)
    assert sink.flush_offline().version == sink.flush_offline().version == 1


def test_flushes_are_due_by_number_by_time_and_when_asked() -> None:
    assert not online_due(1e9, 0, 0)
    assert online_due(0.0, 10_000, 0.0)
    assert not online_due(0.05, 9_999, 0.0)
    assert online_due(0.1, 1, 0.0)
    assert not offline_due(4.9, 65_535, 0.0)
    assert offline_due(0.0, 65_536, 0.0)
    assert offline_due(5.0, 1, 0.0)
    assert offline_due(0.0, 1, 0.0, asked=True)
    assert not offline_due(9.0, 0, 0.0, asked=True)


def test_rejects_of_decoding_and_of_validation_keep_the_place_of_their_record() -> None:
    schema = record_schema(GROUP)
    table = pa.table(
        {"patient": ["a", "b", "c"], "at": pa.array([BEGIN, BEGIN + timedelta(days=9), BEGIN]), "pulse": pa.array([1, 2, 3], pa.int32())}
    )
    _, values = encode_rows(GROUP, table, 1)
    decoded = decode_batch([b"junk", values[0], None, values[1], values[2]], SchemaCatalogue(lambda _: schema.text), reader=schema)
    time = int(BEGIN.timestamp() * 1000)
    batch, rejects = assemble(GROUP, decoded, partitions=[0, 1, 1, 0, 1], offsets=[10, 20, 21, 11, 22], timestamps_ms=[time] * 5, now=BEGIN)
    assert [reject.index for reject in rejects] == [0, 2, 3]
    assert "ahead" in rejects[2].reason
    assert batch.rejected == ((0, 10), (1, 21), (0, 11))
    assert batch.next_offsets == {0: 12, 1: 23}
    assert batch.rows.select(["patient", OFFSET]).to_pylist() == [{"patient": "a", OFFSET: 20}, {"patient": "c", OFFSET: 22}]
    assert np.all(batch.rows[PARTITION].to_numpy() == 1)


def test_online_rows_are_built_again_exactly_when_the_store_lost_writes(tmp_path: Path) -> None:
    table, online = OfflineTable(tmp_path, GROUP), MemoryStore()
    table.create()
    copy, sink = OnlineCopy(table, online), FeatureSink(GROUP, table, online, topic_id=TOPIC_ID)
    topic = placed(0, [Record((name, second, second), 0, 1) for second in range(3) for name in ("a", "b")])
    assert copy.keep() == 0
    for start in (0, 2):
        sink.accept(batch_of(0, topic[start : start + 2]))
        sink.flush_offline()
        assert copy.keep() is None
    whole = dict(online.rows)
    assert OnlineCopy(table, online).keep() is None
    online.rows, online.marked = {}, None
    assert copy.keep() == 2
    assert online.rows == whole
    # The newest writes are lost, the mark that was set before them is there.
    before = dict(online.rows), online.marked
    sink.accept(batch_of(0, topic[4:]))
    sink.flush_offline()
    assert copy.keep() is None
    whole = dict(online.rows)
    online.rows, online.marked = dict(before[0]), before[1]
    assert copy.keep() == 2
    assert online.rows == whole
    online.rows, online.marked = dict(before[0]), before[1]
    told: list[int] = []
    assert OnlineCopy(table, online).keep(told.append) == 2
    assert (online.rows, told[-1]) == (whole, 2)


def test_rows_of_a_removed_table_leave_the_store_with_their_mark(tmp_path: Path) -> None:
    table, online = OfflineTable(tmp_path, GROUP), MemoryStore()
    table.create()
    sink = FeatureSink(GROUP, table, online, topic_id=TOPIC_ID)
    sink.accept(batch_of(0, placed(0, [Record((name, second, second), 0, 1) for second in range(3) for name in ("a", "b")])))
    sink.flush_offline()
    OnlineCopy(table, online).keep()
    assert remove_online(table, online) == 2
    assert (online.rows, online.marked) == ({}, None)
    assert remove_online(OfflineTable(tmp_path / "gone", GROUP), online) == 0
