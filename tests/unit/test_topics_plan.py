"""What changes a specification needs, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tenancy.model import DatasetKind, DatasetPermission
from topics.model import TopicSpec, TopicState
from topics.plan import AddPartitions, AlterConfig, AlterPermission, CreateTopic, RegisterSchema, plan, plan_all
from topics.service import TopicService
from wardstream.errors import Conflict, UnsafeChange
from wardstream.names import DatasetName, ProjectName

ECG = TopicSpec(DatasetName("ecg"), 3, DatasetPermission.EDITABLE_BY_OWNERS, {"retention.ms": "1000"}, '"string"')
ICU = ProjectName("icu")


def test_a_new_topic_is_made_before_its_schema() -> None:
    assert plan(ECG, None) == [CreateTopic(ECG), RegisterSchema(ECG.name, '"string"')]


def test_what_is_as_wanted_is_left_alone() -> None:
    assert plan(ECG, TopicState.of(ECG)) == []


def test_each_difference_is_one_change() -> None:
    found = TopicState(ECG.name, 2, DatasetPermission.EDITABLE, {}, '"int"')
    assert plan(replace(ECG, grow=True), found) == [
        RegisterSchema(ECG.name, '"string"'),
        AddPartitions(ECG.name, 3),
        AlterConfig(ECG.name, {"retention.ms": "1000"}),
        AlterPermission(ECG.name, DatasetPermission.EDITABLE_BY_OWNERS),
    ]


def test_a_specification_without_a_schema_leaves_schemas_alone() -> None:
    assert plan(replace(ECG, schema=None), replace(TopicState.of(ECG), schema='"int"')) == []


def test_a_setting_that_is_no_longer_named_is_removed() -> None:
    assert plan(replace(ECG, config={}), TopicState.of(ECG)) == [AlterConfig(ECG.name, {})]


def test_partitions_are_never_removed() -> None:
    with pytest.raises(UnsafeChange, match="has 3 partitions, the specification says 2"):
        plan(replace(ECG, partitions=2, grow=True), TopicState.of(ECG))


def test_more_partitions_need_the_word() -> None:
    wanted = replace(ECG, partitions=4)
    with pytest.raises(UnsafeChange, match="grow: true"):
        plan(wanted, TopicState.of(ECG))
    assert plan(replace(wanted, grow=True), TopicState.of(ECG)) == [AddPartitions(ECG.name, 4)]


def test_a_feature_group_s_topic_is_not_for_specifications() -> None:
    with pytest.raises(Conflict, match="feature group"):
        plan(ECG, replace(TopicState.of(ECG), kind=DatasetKind.FEATURE_GROUP))


def test_topics_that_are_not_named_are_left_alone() -> None:
    assert plan_all([ECG], [TopicState.of(ECG), TopicState.of(replace(ECG, name=DatasetName("other")))]) == []


class MemoryControl:
    """Datasets as control keeps them."""

    def __init__(self) -> None:
        self.states: dict[DatasetName, TopicState] = {}

    def datasets(self, project: ProjectName) -> list[TopicState]:
        return list(self.states.values())

    def create(self, project: ProjectName, spec: TopicSpec) -> None:
        self.states[spec.name] = replace(TopicState.of(spec), schema=None)

    def alter(
        self,
        project: ProjectName,
        name: DatasetName,
        *,
        partitions: int | None = None,
        config: Mapping[str, str] | None = None,
        permission: DatasetPermission | None = None,
    ) -> None:
        before = self.states[name]
        self.states[name] = replace(
            before,
            partitions=partitions or before.partitions,
            config=before.config if config is None else dict(config),
            permission=permission or before.permission,
        )


class MemorySubjects:
    """Newest schemas; equality by text without spaces, as a registry has it in its own way."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.refuse: list[str] = []

    def newest(self, subject: str) -> str | None:
        return self.texts.get(subject)

    def is_newest(self, subject: str, schema: str) -> bool:
        return self.texts.get(subject, "").replace(" ", "") == schema.replace(" ", "")

    def problems(self, subject: str, schema: str) -> list[str]:
        return self.refuse

    def register(self, subject: str, schema: str) -> None:
        self.texts[subject] = schema


def test_applying_twice_changes_nothing() -> None:
    control, subjects = MemoryControl(), MemorySubjects()
    service = TopicService(control=control, subjects=subjects)
    other = replace(ECG, name=DatasetName("labs"), schema=None)
    assert [type(change) for change in service.apply(ICU, [ECG, other])] == [CreateTopic, RegisterSchema, CreateTopic]
    assert subjects.texts == {"icu.ecg-value": '"string"'}
    assert service.apply(ICU, [ECG, other]) == []
    assert service.plan(ICU, [ECG, replace(other, permission=DatasetPermission.EDITABLE)]) == [
        AlterPermission(other.name, DatasetPermission.EDITABLE)
    ]


def test_a_schema_written_otherwise_is_no_change() -> None:
    service = TopicService(control=MemoryControl(), subjects=MemorySubjects())
    service.apply(ICU, [replace(ECG, schema='{"type": "string"}')])
    assert service.apply(ICU, [replace(ECG, schema='{"type":"string"}')]) == []


def test_an_incompatible_schema_stops_the_plan_before_anything_is_made() -> None:
    control, subjects = MemoryControl(), MemorySubjects()
    subjects.refuse = ["TYPE_MISMATCH at /"]
    with pytest.raises(Conflict, match="ecg: TYPE_MISMATCH"):
        TopicService(control=control, subjects=subjects).apply(ICU, [ECG])
    assert control.states == {}


def test_an_unsafe_change_stops_all_others() -> None:
    control = MemoryControl()
    service = TopicService(control=control, subjects=MemorySubjects())
    service.apply(ICU, [ECG])
    with pytest.raises(UnsafeChange):
        service.apply(ICU, [replace(ECG, name=DatasetName("labs")), replace(ECG, partitions=1)])
    assert list(control.states) == ["ecg"]
