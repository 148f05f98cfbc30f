"""The broker's rows of each role, exactly."""

from datetime import UTC, datetime

from tenancy.acls import MARKER, AclBinding, Operation, Pattern, Resource, acl_bindings_for, platform_bindings
from tenancy.model import MATERIALISER, Dataset, DatasetKind, DatasetPermission, Member, MemberState, Role
from wardstream.names import DatasetName, MemberName, ProjectName

ICU = ProjectName("icu")
T, G, X = Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID
L, P = Pattern.LITERAL, Pattern.PREFIXED
READ, WRITE, CONFIGS = Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS

RAW = Dataset(ICU, DatasetName("ecg"), DatasetKind.TOPIC, DatasetPermission.EDITABLE_BY_OWNERS, 1, {}, "icu__olga")
RESULT = Dataset(
    ICU,
    DatasetName("ecg_10s_1"),
    DatasetKind.FEATURE_GROUP,
    DatasetPermission.EDITABLE,
    1,
    {},
    "icu__olga",
    frozenset({MemberName("proc")}),
)


def rows(
    role: Role, name: str = "anna", *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = (), generation: int = 1
) -> set[tuple[Resource, str, Pattern, Operation]]:
    member = Member(
        ICU,
        MemberName(name),
        role,
        generation,
        MemberState.ACTIVE,
        frozenset(map(DatasetName, reads)),
        frozenset(map(DatasetName, writes)),
        datetime(2026, 11, 24, tzinfo=UTC),
    )
    found = acl_bindings_for(member, [RAW, RESULT])
    suffix = f"__g{generation}" if generation > 1 else ""
    assert {row.principal for row in found} <= {f"User:icu__{name}{suffix}"}
    return {(row.resource, row.name, row.pattern, row.operation) for row in found}


def test_owner_reads_the_project_and_writes_what_is_no_result() -> None:
    assert rows(Role.DATA_OWNER) == {
        (T, "icu.", P, READ),
        (T, "icu.", P, CONFIGS),
        (G, "icu.anna.", P, READ),
        (X, "icu.anna.", P, WRITE),
        (T, "icu.ecg", L, WRITE),
    }


def test_observer_reads_and_writes_nothing() -> None:
    assert rows(Role.OBSERVER) == {(T, "icu.", P, READ), (T, "icu.", P, CONFIGS), (G, "icu.anna.", P, READ)}


def test_device_has_one_row_for_each_topic_that_it_writes() -> None:
    assert rows(Role.DEVICE, "bed1", writes=("ecg",)) == {(T, "icu.ecg", L, WRITE)}


def test_processor_reads_sources_writes_results_and_dead_letters_and_owns_its_internals() -> None:
    assert rows(Role.SERVICE, "proc", reads=("ecg",), writes=("ecg_10s_1",)) == {
        (T, "icu.ecg", L, READ),
        (T, "icu.ecg", L, CONFIGS),
        (T, "icu.ecg-dlq", L, WRITE),
        (T, "icu.ecg_10s_1", L, WRITE),
        (T, "ws.icu.proc.", P, READ),
        (T, "ws.icu.proc.", P, WRITE),
        (T, "ws.icu.proc.", P, CONFIGS),
        (G, "ws.icu.proc.", P, READ),
        (X, "ws.icu.proc.", P, WRITE),
    }


def test_materialiser_also_counts_dead_letters() -> None:
    assert (T, "icu.ecg_10s_1-dlq", L, READ) in rows(Role.SERVICE, MATERIALISER, reads=("ecg_10s_1",))


def test_next_generation_is_another_principal() -> None:
    assert rows(Role.DEVICE, writes=("ecg",), generation=2)


def test_removed_member_has_no_rows() -> None:
    gone = Member(
        ICU, MemberName("anna"), Role.DATA_OWNER, 1, MemberState.REMOVED, frozenset(), frozenset(), datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert acl_bindings_for(gone, [RAW]) == frozenset()


def test_datasets_of_other_projects_give_no_rows() -> None:
    other = Dataset(ProjectName("icu2"), DatasetName("ecg"), DatasetKind.TOPIC, DatasetPermission.EDITABLE, 1, {}, "icu2__eve")
    member = Member(
        ICU,
        MemberName("bed1"),
        Role.DEVICE,
        1,
        MemberState.ACTIVE,
        frozenset(),
        frozenset({DatasetName("ecg")}),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert acl_bindings_for(member, [other]) == frozenset()


def test_platform_processes_have_their_own_topics_alone() -> None:
    found = platform_bindings()
    assert MARKER in found
    assert {row.name for row in found} == {"_ws-canary", "_schemas", "_ws-executions", "_ws-audit", "ws-program-worker.", "ws-query."}
    # The audit can be added to, and neither read nor taken away.
    assert {row.operation for row in found if row.name == "_ws-audit"} == {WRITE}
    assert AclBinding("User:ws-query", T, "_schemas", L, WRITE) in found
    assert not any(row.resource is Resource.CLUSTER for row in found)
