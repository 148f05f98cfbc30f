"""Plans converge, for any topic and any state."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from tenancy.model import DatasetPermission
from topics.model import TopicSpec, TopicState
from topics.plan import AddPartitions, CreateTopic, applied, plan
from wardstream.errors import UnsafeChange
from wardstream.names import DatasetName

CONFIG = st.dictionaries(st.sampled_from(["retention.ms", "cleanup.policy", "segment.ms"]), st.sampled_from(["1", "2"]), max_size=3)


def specs() -> st.SearchStrategy[TopicSpec]:
    return st.builds(
        TopicSpec,
        name=st.just(DatasetName("ecg")),
        partitions=st.integers(1, 4),
        permission=st.sampled_from(DatasetPermission),
        config=CONFIG,
        schema=st.none() | st.sampled_from(['"int"', '"long"']),
        grow=st.booleans(),
    )


def is_safe(wanted: TopicSpec, found: TopicState | None) -> bool:
    try:
        plan(wanted, found)
    except UnsafeChange:
        return False
    return True


@given(specs(), st.none() | specs())
def test_applying_a_plan_leaves_nothing_to_plan(wanted: TopicSpec, other: TopicSpec | None) -> None:
    found = TopicState.of(other) if other is not None else None
    assume(is_safe(wanted, found))
    assert plan(wanted, applied(plan(wanted, found), found)) == []


@given(specs(), specs())
def test_a_plan_never_loses_data_or_the_order_of_records(wanted: TopicSpec, other: TopicSpec) -> None:
    found = TopicState.of(other)
    assert is_safe(wanted, found) == (wanted.partitions == found.partitions or (wanted.partitions > found.partitions and wanted.grow))
    if is_safe(wanted, found):
        changes = plan(wanted, found)
        assert not any(isinstance(change, CreateTopic) for change in changes)
        assert all(change.total > found.partitions for change in changes if isinstance(change, AddPartitions))


@given(specs(), specs())
def test_half_of_a_plan_can_be_planned_on(wanted: TopicSpec, other: TopicSpec) -> None:
    found = TopicState.of(other)
    assume(is_safe(wanted, found))
    changes = plan(wanted, found)
    for number in range(len(changes)):
        half = applied(changes[:number], found)
        assert applied(plan(wanted, half), half) == replace(TopicState.of(wanted), schema=wanted.schema or found.schema)
