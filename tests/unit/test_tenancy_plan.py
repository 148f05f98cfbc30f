"""From wanted and found to changes, by example."""

from dataclasses import replace

import pytest

from tenancy.acls import MARKER, platform_bindings
from tenancy.broker import TopicState
from tenancy.model import Dataset, DatasetKind, DatasetPermission
from tenancy.plan import (
    AddPartitions,
    AlterConfig,
    CreateRows,
    CreateTopic,
    DeleteRows,
    PutUsers,
    RemoveUsers,
    TopicSpec,
    plan_rows,
    plan_topics,
    plan_users,
    row_of,
    topics_for,
)
from tenancy.redis_users import StoreUser, users_of
from tenancy.topic_config import checked_config
from tenancy.wire import AclRow
from wardstream.errors import Invalid
from wardstream.kafka import MOST_LETTER_BYTES, MOST_RECORD_BYTES
from wardstream.names import DatasetName, ProjectName

SPEC = TopicSpec("icu.ecg", 2, {"retention.ms": "1000"})


def test_missing_topic_is_created() -> None:
    assert plan_topics([SPEC], {}) == [CreateTopic(SPEC)]


def test_topic_that_is_as_wanted_is_left_alone() -> None:
    assert plan_topics([SPEC], {"icu.ecg": TopicState("icu.ecg", 2, {"retention.ms": "1000"}, "id")}) == []


def test_topic_with_more_partitions_keeps_them() -> None:
    assert plan_topics([SPEC], {"icu.ecg": TopicState("icu.ecg", 5, {"retention.ms": "1000"}, "id")}) == []


def test_partitions_are_added_and_foreign_settings_taken_back() -> None:
    found = {"icu.ecg": TopicState("icu.ecg", 1, {"retention.ms": "7", "segment.ms": "9"}, "id")}
    assert plan_topics([SPEC], found) == [
        AddPartitions("icu.ecg", 2),
        AlterConfig("icu.ecg", {"retention.ms": "1000"}, frozenset({"segment.ms"})),
    ]


def test_dataset_has_records_and_dead_letters_in_broker_time() -> None:
    dataset = Dataset(
        ProjectName("icu"),
        DatasetName("ecg"),
        DatasetKind.TOPIC,
        DatasetPermission.EDITABLE,
        3,
        {"retention.ms": "1000", "cleanup.policy": "compact"},
        "icu__olga",
    )
    records, dead_letters = topics_for(dataset)
    assert (records.name, records.partitions) == ("icu.ecg", 3)
    assert records.config == {"retention.ms": "1000", "cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    assert (dead_letters.name, dead_letters.partitions) == ("icu.ecg-dlq", 1)
    assert dead_letters.config == {
        "retention.ms": "1000",
        "max.message.bytes": str(MOST_LETTER_BYTES),
        "message.timestamp.type": "LogAppendTime",
    }


@pytest.mark.parametrize(("config", "kept"), [({}, "-1"), ({"retention.ms": "1000"}, "1000")])
def test_records_of_a_feature_group_are_kept_for_ever_unless_it_says_otherwise(config: dict[str, str], kept: str) -> None:
    name = DatasetName("vitals_1")
    dataset = Dataset(ProjectName("icu"), name, DatasetKind.FEATURE_GROUP, DatasetPermission.EDITABLE, 1, config, "icu__olga")
    assert [topic.config["retention.ms"] for topic in topics_for(dataset)] == [kept, kept]
    assert "retention.ms" not in topics_for(replace(dataset, kind=DatasetKind.TOPIC, config={}))[0].config


def test_dead_letters_take_the_largest_record_that_a_dataset_can_take() -> None:
    assert checked_config({"max.message.bytes": str(MOST_RECORD_BYTES)})
    with pytest.raises(Invalid, match=str(MOST_RECORD_BYTES)):
        checked_config({"max.message.bytes": str(MOST_RECORD_BYTES + 1)})
    assert MOST_LETTER_BYTES > MOST_RECORD_BYTES


def test_rows_are_created_before_others_are_deleted() -> None:
    wanted = frozenset(row_of(binding) for binding in platform_bindings())
    foreign = AclRow(2, "icu.", 4, "User:*", "*", 3, 3)
    changes = plan_rows(wanted, frozenset({row_of(MARKER), foreign}))
    assert changes == [CreateRows(wanted - {row_of(MARKER)}), DeleteRows(frozenset({foreign}))]


def test_rows_that_a_revocation_takes_away_are_left_to_it() -> None:
    going = AclRow(2, "icu.", 4, "User:icu__anna", "*", 3, 3)
    assert plan_rows(frozenset(), frozenset({going}), leave={"User:icu__anna"}) == []


def test_denying_row_of_ours_is_not_taken_for_an_allowing_one() -> None:
    row = row_of(MARKER)
    denying = AclRow(row.resource, row.name, row.pattern, row.principal, row.host, row.operation, 2)
    assert plan_rows(frozenset({row}), frozenset({denying})) == [CreateRows(frozenset({row})), DeleteRows(frozenset({denying}))]


def test_user_that_can_more_than_it_should_is_put_right_and_unknown_ones_go() -> None:
    wanted = users_of(ProjectName("icu"), b"s" * 32)
    reader = next(user for user in wanted if user.name == "icu.read")
    wider = StoreUser(reader.name, reader.password_hash, "*", reader.commands)
    found = (wanted - {reader}) | {wider, StoreUser("old.read", "", "", frozenset())}
    assert plan_users(wanted, found) == [PutUsers(frozenset({reader})), RemoveUsers(frozenset({"old.read"}))]


def test_users_of_two_projects_share_neither_password_nor_keys() -> None:
    one, other = users_of(ProjectName("icu"), b"s" * 32), users_of(ProjectName("icu2"), b"s" * 32)
    assert not {user.password_hash for user in one} & {user.password_hash for user in other}
    assert not {user.keys for user in one} & {user.keys for user in other}


def test_topic_setting_that_is_fixed_may_be_repeated_and_not_changed() -> None:
    assert checked_config({"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}) == {"retention.ms": "-1"}
    with pytest.raises(Invalid, match="LogAppendTime"):
        checked_config({"message.timestamp.type": "CreateTime"})


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("retention.ms", "a week", "whole number from -1"),
        ("retention.ms", "-2", "whole number from -1"),
        ("retention.ms", "٣", "whole number from -1"),
        ("retention.ms", "--1", "whole number from -1"),
        ("segment.bytes", "10", "whole number from 1048576"),
        ("cleanup.policy", "shred", "one of compact"),
        ("min.insync.replicas", "1", "not a setting of a dataset"),
    ],
)
def test_topic_setting_that_cannot_be_says_what_would_be_right(key: str, value: str, right: str) -> None:
    with pytest.raises(Invalid, match=right):
        checked_config({key: value})


@pytest.mark.parametrize(("written", "kept"), [("0604800000", "604800000"), ("-0", "0"), ("7", "7")])
def test_numbers_are_kept_as_the_broker_writes_them(written: str, kept: str) -> None:
    assert checked_config({"retention.ms": written}) == {"retention.ms": kept}


def test_compaction_may_not_have_to_wait_longer_than_it_may() -> None:
    with pytest.raises(Invalid, match=r"min\.compaction\.lag\.ms must not be larger"):
        checked_config({"min.compaction.lag.ms": "100", "max.compaction.lag.ms": "10"})
