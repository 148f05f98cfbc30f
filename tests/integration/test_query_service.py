"""Feature groups, SQL, online reads and training data through the doors of the real platform."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.support.stack import NewProject, Person, RunningStack
from tests.support.waiting import eventually
from wardstream.client.features import Feature, FeatureGroup, FeatureStore
from wardstream.errors import Conflict, Denied, Invalid, InvalidName, LimitExceeded, NotFound, WardstreamError

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = [
    Feature("bed", "string"),
    Feature("window_end", "timestamp"),
    Feature("heart_rate", "double"),
    Feature("beats", "int"),
]


@dataclass(frozen=True)
class Ward:
    """A project with one filled feature group."""

    project: NewProject
    owner: Person
    scientist: Person
    group: FeatureGroup

    @property
    def store(self) -> FeatureStore:
        return self.owner.project.get_feature_store()


def create(store: FeatureStore, name: str = "ecg_10s", **changes: Any) -> FeatureGroup:
    request: dict[str, Any] = {"version": 1, "primary_key": ["bed"], "event_time": "window_end", "features": FEATURES, **changes}
    return store.create_feature_group(name, **request)


def rows(count: int, *, beds: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "bed": f"bed{number % beds}",
            "window_end": START + timedelta(seconds=10 * number),
            "heart_rate": 60.0 + number,
            "beats": number if number % 3 else None,
        }
        for number in range(count)
    ]


def fill(group: FeatureGroup, records: list[dict[str, Any]]) -> None:
    """Insert and wait until the table has them."""
    before = group.progress()["records"]
    assert group.insert(records).accepted == len(records)
    eventually(lambda: group.progress()["records"] == before + len(records), within=60, every=0.2)


@pytest.fixture(scope="module")
def ward(stack: RunningStack) -> Ward:
    project = stack.new_project("icu")
    group = create(project.owner.project.get_feature_store())
    fill(group, rows(20))
    return Ward(project, project.owner, project.add("ben", "data-scientist"), group)


@pytest.fixture(scope="module")
def outsider(stack: RunningStack) -> Person:
    return stack.new_project("virology", sandboxed=False).owner


def test_group_is_listed_with_its_topic(ward: Ward) -> None:
    found = {group.name: group for group in ward.store.get_feature_groups()}["ecg_10s"]
    assert (found.version, found.primary_key, found.event_time) == (1, ("bed",), "window_end")
    assert found.topic == f"{ward.project.name}.ecg_10s_1"
    assert found.features == tuple(FEATURES)


def test_creating_the_same_group_again_returns_it(ward: Ward) -> None:
    assert repr(create(ward.store)) == repr(ward.group)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"features": [*FEATURES[:3], Feature("beats", "double")]}, "beats is int, not double"),
        ({"features": FEATURES[:3]}, "it also has beats"),
        ({"features": [*FEATURES, Feature("rmssd", "float")]}, "it has no rmssd"),
        ({"online_enabled": False}, "online rows are on"),
        ({"ttl_seconds": 60}, "ttl_seconds is None, not 60"),
        ({"primary_key": ["bed", "beats"]}, "its primary key is bed, not beats, bed"),
    ],
)
def test_creating_it_with_another_schema_is_a_conflict_that_names_the_difference(
    ward: Ward, changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(Conflict, match="create version 2") as refusal:
        create(ward.store, **changes)
    assert difference.replace("beats, bed", "") in refusal.value.message


def test_version_left_out_is_the_next_one(ward: Ward) -> None:
    store = ward.store
    assert create(store, "numbered", version=None).version == 1
    assert create(store, "numbered", version=None).version == 2


def test_plain_name_in_sql_is_the_newest_version(ward: Ward) -> None:
    create(ward.store, "versions")
    newest = create(ward.store, "versions", version=2, features=[*FEATURES, Feature("rmssd", "float")])
    fill(newest, [{**rows(1)[0], "rmssd": 1.5}])
    assert ward.store.sql("SELECT rmssd FROM versions")["rmssd"].to_pylist() == [1.5]
    assert ward.store.sql("SELECT * FROM versions_1").num_rows == 0


@pytest.mark.parametrize("name", ["Ecg", "ecg_10", "ecg-10s", "_ecg", "e" * 64, "../ecg", "select 1"])
def test_group_name_outside_the_grammar_is_refused(ward: Ward, name: str) -> None:
    with pytest.raises((Invalid, InvalidName, NotFound)):
        create(ward.store, name)


def test_rows_come_back_as_they_were_written(ward: Ward) -> None:
    found = ward.group.read().sort_by("window_end")
    assert found.schema.names == ["bed", "window_end", "heart_rate", "beats"]
    assert found.to_pylist() == rows(20)
    assert ward.group.read(limit=3).num_rows == 3


def test_progress_counts_every_record(ward: Ward) -> None:
    found = ward.group.progress()
    assert (found["records"], found["rows"], found["repeats"], found["rejected"]) == (20, 20, 0, 0)
    assert found["offsets"] == {"0": 20}
    assert datetime.fromisoformat(found["newest_event_time"]) == START + timedelta(seconds=190)


def test_sql_answers_aggregates(ward: Ward) -> None:
    found = ward.store.sql("SELECT bed, count(*) AS n, max(heart_rate) AS peak FROM ecg_10s GROUP BY bed ORDER BY bed")
    assert found.to_pylist() == [{"bed": "bed0", "n": 10, "peak": 78.0}, {"bed": "bed1", "n": 10, "peak": 79.0}]


def test_sql_sees_the_repeat_that_came_last(ward: Ward) -> None:
    group = create(ward.store, "repeated")
    fill(group, rows(3))
    fill(group, [{**rows(3)[1], "heart_rate": 120.0}])
    assert ward.store.sql("SELECT heart_rate FROM repeated ORDER BY window_end")["heart_rate"].to_pylist() == [60.0, 120.0, 62.0]
    assert sorted(group.read()["heart_rate"].to_pylist()) == [60.0, 62.0, 120.0]
    assert group.progress()["repeats"] == 1


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("DROP TABLE ecg_10s", Invalid, "only SELECT"),
        ("INSERT INTO ecg_10s VALUES (1)", Invalid, "only SELECT"),
        ("COPY ecg_10s TO '/tmp/x'", Invalid, "not COPY"),
        ("SELECT * FROM read_csv('/etc/passwd')", Invalid, "cannot stand after FROM"),
        ("FROM '/etc/passwd'", Invalid, "no files"),
        ("SELECT * FROM nothing_here", NotFound, "'nothing_here'"),
        ("SELECT * FROM virology.reads_1m", NotFound, "'virology.reads_1m'"),
        ("SELECT getenv('HOME')", Invalid, "'getenv' is not allowed"),
        ("SELECT nope FROM ecg_10s", Invalid, "'nope'"),
        ("SELECT _ingested_at FROM ecg_10s", Invalid, "'_ingested_at'"),
        ("SELECT 1 " + " " * 20_000, LimitExceeded, "at most 20000 characters"),
        ("SELECT list(a.beats) FROM ecg_10s a, ecg_10s b, ecg_10s c, ecg_10s d, ecg_10s e, ecg_10s f, ecg_10s g", LimitExceeded, "MB"),
    ],
)
def test_sql_that_may_not_or_cannot_run_says_why(ward: Ward, sql: str, kind: type[WardstreamError], words: str) -> None:
    with pytest.raises(kind) as refusal:
        ward.store.sql(sql)
    assert words in refusal.value.message


def test_sql_with_more_rows_than_asked_for_is_an_error(ward: Ward) -> None:
    with pytest.raises(LimitExceeded, match="more than 19 rows"):
        ward.store.sql("SELECT * FROM ecg_10s", max_rows=19)


def test_online_read_returns_the_newest_row_of_each_entity_in_order(ward: Ward) -> None:
    found = ward.group.get_feature_vectors({"bed": ["bed1", "nobody", "bed0"]})
    assert found["heart_rate"].to_pylist() == [79.0, None, 78.0]
    assert found["beats"].to_pylist() == [19, None, None]
    assert found["event_time"].to_pylist() == [START + timedelta(seconds=190), None, START + timedelta(seconds=180)]


def test_online_read_of_nothing_says_why(ward: Ward) -> None:
    answer = read_online(ward.owner, "ecg_10s", {"bed": ["nobody"]})
    assert answer["groups"][0]["note"].startswith(
        "none of these 1 entities has a row in ecg_10s version 1; its newest event time is 2026-01-01"
    )
    create(ward.store, "untouched")
    assert "is empty" in read_online(ward.owner, "untouched", {"bed": ["bed0"]})["groups"][0]["note"]


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        ({}, "bed"),
        ({"patient": ["1"]}, "bed"),
        ({"bed": ["a"] * 10_001}, "at most 10000"),
    ],
)
def test_online_read_with_wrong_entities_says_what_is_needed(ward: Ward, entities: dict[str, list[str]], words: str) -> None:
    with pytest.raises((Invalid, LimitExceeded), match=words):
        read_online(ward.owner, "ecg_10s", entities)


def test_numbers_that_nothing_can_hold_are_refused(ward: Ward) -> None:
    for change in ({"version": 2**63}, {"version": 2**31}, {"partitions": 2**63}, {"ttl_seconds": 2**63}):
        with pytest.raises(Invalid):
            create(ward.store, "ecg_vast", **change)
    with pytest.raises(Invalid):
        ward.group.read(limit=2**70)


def test_training_data_are_what_was_known_at_each_label(ward: Ward) -> None:
    spine = pa.table(
        {
            "bed": ["bed0", "bed1", "bed0"],
            "t": pa.array(
                [START + timedelta(seconds=25), START - timedelta(seconds=1), START + timedelta(days=1)], pa.timestamp("us", "UTC")
            ),
            "died": [True, False, True],
        }
    )
    with ward.store.training_data(spine, label_time="t", features=[ward.group.select(["heart_rate"])]) as reader:
        found = reader.read_all()
    assert found["heart_rate"].to_pylist() == [62.0, None, 78.0]
    assert found["died"].to_pylist() == [True, False, True]
    made = ward.owner.connection.transport.json("GET", f"/api/v1/projects/{ward.project.name}/training-data")
    assert made[0]["id"].encode() in found.schema.metadata[b"wardstream.snapshot"]
    assert made[0]["labels"] == 3
    assert made[0]["snapshot"] == {"ecg_10s_1": ward.group.progress()["table_version"]}


def test_training_data_with_a_wrong_spine_say_what_is_needed(ward: Ward) -> None:
    spine = pa.table({"t": pa.array([START], pa.timestamp("us", "UTC"))})
    with (
        pytest.raises(Invalid, match="no column bed"),
        ward.store.training_data(spine, label_time="t", features=[ward.group.select(["heart_rate"])]),
    ):
        pass


def test_member_of_another_project_gets_the_answer_for_what_does_not_exist(ward: Ward, outsider: Person) -> None:
    transport = outsider.connection.transport
    spine = b""
    for method, path, arguments in (
        ("GET", "feature-groups", {}),
        ("GET", "feature-groups/ecg_10s/1", {}),
        ("GET", "feature-groups/ecg_10s/1/progress", {}),
        ("GET", "feature-groups/ecg_10s/1/rows", {}),
        ("DELETE", "feature-groups/ecg_10s/1", {}),
        ("POST", "sql", {"json": {"sql": "SELECT * FROM ecg_10s"}}),
        ("POST", "online-reads", {"json": {"groups": [{"name": "ecg_10s", "version": 1}], "entities": {"bed": ["bed0"]}}}),
        ("GET", "models", {}),
        ("GET", "training-data", {}),
    ):
        refusals = []
        for project in (ward.project.name, "no-such-ward"):
            with pytest.raises(NotFound) as refusal:
                transport.request(method, f"/api/v1/projects/{project}/{path}", **arguments)
            refusals.append(refusal.value.message.replace(project, "<project>"))
        assert refusals[0] == refusals[1], path
    assert spine == b""


def test_foreign_table_in_sql_reads_like_one_that_does_not_exist(ward: Ward, outsider: Person) -> None:
    for name in ("ecg_10s", "ecg_10s_1", "nothing_here"):
        with pytest.raises(NotFound, match=f"there is no table '{name}' in this project"):
            outsider.project.get_feature_store().sql(f"SELECT * FROM {name}")  # noqa: S608  # a name of this test


def test_scientist_of_a_sandboxed_project_is_told_to_read_rows_inside(ward: Ward) -> None:
    store = ward.scientist.project.get_feature_store()
    assert [group.name for group in store.get_feature_groups() if group.name == "ecg_10s"] == ["ecg_10s"]
    with pytest.raises(Denied, match="wardstream program run"):
        store.sql("SELECT 1")
    with pytest.raises(Denied, match="wardstream program run"):
        read_online(ward.scientist, "ecg_10s", {"bed": ["bed0"]})
    inside = ward.scientist.rest("inside").projects.get(ward.project.name).get_feature_store()
    assert inside.sql("SELECT count(*) AS n FROM ecg_10s")["n"].to_pylist() == [20]


def test_scientists_group_is_editable_and_theirs_to_delete(ward: Ward) -> None:
    store = ward.scientist.project.get_feature_store()
    group = create(store, "own_work")
    fill(group, rows(2))
    path = f"/api/v1/projects/{ward.project.name}/feature-groups"
    with pytest.raises(Denied):
        ward.scientist.connection.transport.request("DELETE", f"{path}/ecg_10s/1")
    ward.scientist.connection.transport.request("DELETE", f"{path}/own_work/1")
    assert store.get_feature_group("own_work") is None
    with pytest.raises(Conflict, match="create version 2"):
        create(store, "own_work")


def test_model_keeps_its_metrics_its_training_set_and_its_file(ward: Ward) -> None:
    transport = ward.owner.connection.transport
    path = f"/api/v1/projects/{ward.project.name}/models"
    made = transport.json("POST", path, json={"name": "mortality", "metrics": {"auroc": 0.71}})
    assert (made["name"], made["version"]) == ("mortality", 1)
    transport.json("PUT", f"{path}/mortality/1/files/model.keras", content=b"weights")
    found = transport.json("GET", f"{path}/mortality/1")
    assert [(each["name"], each["size"]) for each in found["files"]] == [("model.keras", 7)]
    assert transport.request("GET", f"{path}/mortality/1/files/model.keras").content == b"weights"
    with pytest.raises(NotFound):
        transport.json("POST", path, json={"name": "mortality", "training_dataset": "0" * 16})
    assert [each["version"] for each in ward.owner.project.models()] == [1]


def read_online(person: Person, group: str, entities: dict[str, list[str]]) -> dict[str, Any]:
    request = {"groups": [{"name": group, "version": 1}], "entities": entities}
    found: dict[str, Any] = person.connection.transport.json("POST", f"/api/v1/projects/{person.project_name}/online-reads", json=request)
    return found
