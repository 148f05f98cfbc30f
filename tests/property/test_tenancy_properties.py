"""Laws of tenancy: rows equal decisions, plans leave nothing to plan, the audit's chain hides nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenancy.acls import AclBinding, Operation, Pattern, Resource, acl_bindings_for
from tenancy.audit import FIRST_HASH, AuditEntry, AuditEvent, Head, Outcome, link, verify
from tenancy.broker import TopicState
from tenancy.model import (
    MATERIALISER,
    Dataset,
    DatasetKind,
    DatasetPermission,
    Door,
    Member,
    MemberState,
    Project,
    Role,
    SharedIn,
    principal_for,
)
from tenancy.plan import AddPartitions, AlterConfig, CreateRows, CreateTopic, TopicSpec, plan_rows, plan_topics
from tenancy.policy import Action, decide
from tenancy.topic_config import checked_config
from tenancy.wire import AclRow
from wardstream.names import DatasetName, MemberName, ProjectName, internal_prefix, member_prefix

NOW = datetime(2026, 11, 24, tzinfo=UTC)
# Names that begin alike, the shape of every leak between prefixes.
PROJECTS = [ProjectName(name) for name in ("icu", "icu2", "icu-west")]
MEMBERS = [MemberName(name) for name in ("anna", "anna2", "ecg", "ecg-raw", MATERIALISER)]
READS = (Action.RECORD_READ, Action.ROW_READ, Action.ONLINE_READ)
DATASETS = [DatasetName(name) for name in ("ecg", "ecg-raw", "ecg_10s_1", "lab")]

members = st.builds(
    Member,
    project=st.sampled_from(PROJECTS),
    name=st.sampled_from(MEMBERS),
    role=st.sampled_from(Role),
    generation=st.integers(1, 3),
    state=st.sampled_from(MemberState),
    reads=st.frozensets(st.sampled_from(DATASETS)),
    writes=st.frozensets(st.sampled_from(DATASETS)),
    created_at=st.just(NOW),
    without=st.frozensets(st.sampled_from([Action.RECORD_READ, Action.RECORD_WRITE, Action.ROW_READ]), max_size=2),
)
shares = st.builds(
    SharedIn,
    project=st.sampled_from(PROJECTS),
    dataset=st.sampled_from(DATASETS),
    mode=st.sampled_from(DatasetPermission),
    columns=st.sampled_from([None, frozenset({"hr"})]),
    sandboxed=st.booleans(),
)
datasets = st.builds(
    Dataset,
    project=st.sampled_from(PROJECTS),
    name=st.sampled_from(DATASETS),
    kind=st.sampled_from(DatasetKind),
    permission=st.sampled_from(DatasetPermission),
    partitions=st.just(1),
    config=st.just({}),
    created_by=st.just("icu__olga"),
    processors=st.frozensets(st.sampled_from(MEMBERS), max_size=1),
)
tenancies = st.tuples(
    st.lists(members, max_size=5, unique_by=lambda one: (one.project, one.name)),
    st.lists(datasets, max_size=8, unique_by=lambda one: (one.project, one.name)),
    # What each project receives.
    st.dictionaries(st.sampled_from(PROJECTS), st.frozensets(shares, max_size=4)),
)
Tenancy = tuple[list[Member], list[Dataset], dict[ProjectName, frozenset[SharedIn]]]


def normal(member: Member) -> Member:
    """Only devices, services and restricted members have lists, a device reads nothing, and roles of a project's own are people's."""
    return replace(
        member,
        reads=member.reads if member.role in (Role.SERVICE, Role.RESTRICTED) else frozenset(),
        writes=frozenset() if member.role.person else member.writes,
        without=member.without if member.role.whole else frozenset(),
    )


def received(tenancy: Tenancy, project: ProjectName) -> frozenset[SharedIn]:
    """What the project receives: nothing from itself, and each dataset once."""
    found = {(share.project, share.dataset): share for share in tenancy[2].get(project, ()) if share.project != project}
    return frozenset(found.values())


def rows_of(tenancy: Tenancy) -> frozenset[AclBinding]:
    found = [normal(member) for member in tenancy[0]]
    return frozenset(row for member in found for row in acl_bindings_for(member, known(tenancy, member), received(tenancy, member.project)))


def known(tenancy: Tenancy, member: Member) -> list[Dataset]:
    """The datasets of the member's project and those shared with it, as the reconciler hands them over."""
    shared = {(share.project, share.dataset) for share in received(tenancy, member.project)}
    return [one for one in tenancy[1] if one.project == member.project or (one.project, one.name) in shared]


def broker_allows(rows: frozenset[AclBinding], principal: str, resource: Resource, name: str, operation: Operation) -> bool:
    """What Kafka's authorizer answers (KIP-290): exact principal, and a row that names the resource or begins it."""
    return any(
        row.principal == principal
        and row.resource is resource
        and row.operation is operation
        and (row.name == name if row.pattern is Pattern.LITERAL else name.startswith(row.name))
        for row in rows
    )


@given(tenancies)
@settings(max_examples=200)
def test_broker_allows_exactly_what_is_decided(tenancy: Tenancy) -> None:
    found, owned = [normal(member) for member in tenancy[0]], tenancy[1]
    rows = rows_of(tenancy)
    for member in found:
        name = f"User:{member.principal_name}"
        project = Project(member.project, "", sandboxed=True, created_at=NOW)
        principal = principal_for(member, project, Door.INSIDE, shared=received(tenancy, member.project))
        active = member.state is MemberState.ACTIVE
        for dataset in owned:
            reads = active and decide(principal, Action.RECORD_READ, dataset).allowed
            writes = active and decide(principal, Action.RECORD_WRITE, dataset).allowed
            assert broker_allows(rows, name, Resource.TOPIC, dataset.topic, Operation.READ) is reads
            assert broker_allows(rows, name, Resource.TOPIC, dataset.topic, Operation.WRITE) is writes
            # Dead letters hold records: people read them where they read the dataset, and only its processors write them.
            dead = dataset.dead_letter_topic
            own = dataset.project == member.project
            reader = own and reads and (member.role.person or member.name == MATERIALISER)
            assert broker_allows(rows, name, Resource.TOPIC, dead, Operation.READ) is reader
            assert broker_allows(rows, name, Resource.TOPIC, dead, Operation.WRITE) is (reads and member.role is Role.SERVICE)


@given(tenancies)
def test_nobody_reaches_groups_transactions_or_internals_of_another(tenancy: Tenancy) -> None:
    found = [normal(member) for member in tenancy[0]]
    rows = rows_of(tenancy)
    for member in found:
        for other in found:
            if member == other:
                continue
            for prefix in (member_prefix(other.project, other.name), internal_prefix(other.project, other.name)):
                for resource, operation in (
                    (Resource.GROUP, Operation.READ),
                    (Resource.TRANSACTIONAL_ID, Operation.WRITE),
                    (Resource.TOPIC, Operation.WRITE),
                ):
                    assert not broker_allows(rows, f"User:{member.principal_name}", resource, f"{prefix}x", operation)


@given(tenancies)
def test_no_row_lets_anybody_create_alter_delete_or_touch_the_cluster(tenancy: Tenancy) -> None:
    for member in tenancy[0]:
        shared = tuple(f"{share.project}.{share.dataset}" for share in received(tenancy, member.project) if share.columns is None)
        for row in acl_bindings_for(normal(member), known(tenancy, member), received(tenancy, member.project)):
            assert row.resource is not Resource.CLUSTER
            assert row.operation in (Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS)
            own = row.name.startswith((f"{member.project}.", f"ws.{member.project}.{member.name}."))
            assert own or (row.name in shared and row.pattern is Pattern.LITERAL and row.operation is not Operation.DESCRIBE_CONFIGS)


@given(tenancies)
def test_nothing_of_another_project_is_visible_but_what_it_shares(tenancy: Tenancy) -> None:
    for member in (normal(each) for each in tenancy[0]):
        shares_in = received(tenancy, member.project)
        principal = principal_for(member, Project(member.project, "", sandboxed=True, created_at=NOW), Door.INSIDE, shared=shares_in)
        for dataset in tenancy[1]:
            if dataset.project == member.project:
                continue
            shared = any((share.project, share.dataset) == (dataset.project, dataset.name) for share in shares_in)
            for action in Action:
                decision = decide(principal, action, dataset)
                assert decision.visible is (shared and member.role.whole)
                if action not in (Action.RECORD_WRITE, Action.DATASET_LIST, Action.SCHEMA_READ, *READS):
                    assert not decision.allowed


@given(tenancies)
def test_no_row_of_a_sandboxed_project_is_read_outside_but_by_owners(tenancy: Tenancy) -> None:
    for member in (normal(each) for each in tenancy[0]):
        project = Project(member.project, "", sandboxed=False, created_at=NOW)
        principal = principal_for(member, project, Door.OUTSIDE, shared=received(tenancy, member.project))
        for share in principal.shared:
            for dataset in tenancy[1]:
                if (dataset.project, dataset.name) == (share.project, share.dataset) and share.sandboxed:
                    allowed = any(decide(principal, action, dataset).allowed for action in READS)
                    assert not allowed or member.role is Role.DATA_OWNER


configs = st.dictionaries(st.sampled_from(["retention.ms", "segment.ms", "cleanup.policy"]), st.sampled_from(["1", "2"]))
specs = st.lists(
    st.builds(TopicSpec, name=st.sampled_from(["a.x", "a.y", "b.x"]), partitions=st.integers(1, 4), config=configs),
    unique_by=lambda spec: spec.name,
)


@given(specs, specs)
def test_carrying_out_a_plan_of_topics_leaves_nothing_to_plan(wanted: list[TopicSpec], there: list[TopicSpec]) -> None:
    found = {spec.name: TopicState(spec.name, spec.partitions, spec.config, "id") for spec in there}
    for change in plan_topics(wanted, found):
        if isinstance(change, CreateTopic):
            found[change.topic.name] = TopicState(change.topic.name, change.topic.partitions, change.topic.config, "id")
        elif isinstance(change, AddPartitions):
            found[change.name] = replace(found[change.name], partitions=change.total)
        elif isinstance(change, AlterConfig):
            kept = {key: value for key, value in found[change.name].config.items() if key not in change.remove}
            found[change.name] = replace(found[change.name], config={**kept, **change.set_to})
    assert plan_topics(wanted, found) == []
    assert all(found[spec.name].partitions >= spec.partitions for spec in there)


@given(st.integers(-1, 2**63 - 1), st.integers(0, 5))
def test_number_however_written_is_what_the_broker_answers(number: int, zeros: int) -> None:
    digits = "0" * min(zeros, 19 - len(str(abs(number)))) + str(abs(number))
    for written in {("-" if number < 0 else "") + digits, *(["-" + digits] if number == 0 else [])}:
        wanted = TopicSpec("a.x", 1, checked_config({"retention.ms": written}))
        assert plan_topics([wanted], {"a.x": TopicState("a.x", 1, {"retention.ms": str(number)}, "id")}) == []


rows = st.frozensets(
    st.builds(
        AclRow,
        resource=st.integers(2, 5),
        name=st.sampled_from(["icu.", "icu.ecg"]),
        pattern=st.sampled_from([3, 4]),
        principal=st.sampled_from(["User:icu__anna", "User:*"]),
        host=st.sampled_from(["*", "10.0.0.1"]),
        operation=st.integers(2, 4),
        permission=st.sampled_from([2, 3]),
    )
)


@given(rows, rows)
def test_carrying_out_a_plan_of_rows_leaves_nothing_to_plan(wanted: frozenset[AclRow], found: frozenset[AclRow]) -> None:
    for change in plan_rows(wanted, found):
        found = found | change.rows if isinstance(change, CreateRows) else found - change.rows
    assert plan_rows(wanted, found) == []
    assert found == wanted


events = st.builds(
    AuditEvent,
    principal=st.sampled_from(["administrator", "icu__anna", "icu__olga"]),
    project=st.sampled_from([None, "icu"]),
    action=st.sampled_from(["member.add", "member.remove"]),
    subject=st.text(max_size=8),
    outcome=st.sampled_from(Outcome),
    details=st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=4), st.integers(), st.booleans()), max_size=2),
)


def chain(happened: list[AuditEvent]) -> tuple[list[AuditEntry], Head]:
    head, entries = Head(0, FIRST_HASH), []
    for number, event in enumerate(happened):
        entry = link(event, NOW + timedelta(seconds=number), head)
        entries.append(entry)
        head = Head(entry.sequence, entry.hash)
    return entries, head


@given(st.lists(events))
def test_chain_as_written_is_intact(happened: list[AuditEvent]) -> None:
    entries, head = chain(happened)
    assert verify(entries, head).intact


@given(st.lists(events, min_size=2), st.data())
def test_head_that_was_removed_or_set_back_is_found(happened: list[AuditEvent], data: st.DataObject) -> None:
    entries, _ = chain(happened)
    kept = data.draw(st.integers(0, len(entries) - 1))
    head = Head(kept, entries[kept - 1].hash) if kept else Head(0, FIRST_HASH)
    found = verify(entries, head)
    assert (found.intact, found.broken_at) == (False, kept + 1)


@given(st.lists(events, min_size=1), st.data())
def test_edited_entry_is_found_at_its_place(happened: list[AuditEvent], data: st.DataObject) -> None:
    entries, head = chain(happened)
    place = data.draw(st.integers(0, len(entries) - 1))
    part = data.draw(
        st.sampled_from(["at", "principal", "project", "action", "subject", "outcome", "details", "previous_hash", "hash", "sequence"])
    )
    value: object = data.draw(st.integers(0, 99)) if part == "sequence" else data.draw(st.text(max_size=6))
    edited = replace(entries[place], **{part: value})  # type: ignore[arg-type]  # one value for fields of several types
    assume(edited != entries[place])
    entries[place] = edited
    found = verify(entries, head)
    assert not found.intact
    assert found.broken_at is not None
    assert found.broken_at <= place + 1


@given(st.lists(events, min_size=1), st.data())
def test_removed_entry_is_found_the_last_one_included(happened: list[AuditEvent], data: st.DataObject) -> None:
    entries, head = chain(happened)
    del entries[data.draw(st.integers(0, len(entries) - 1))]
    assert not verify(entries, head).intact


@given(st.lists(events, min_size=2), st.data())
def test_entries_in_another_order_are_found(happened: list[AuditEvent], data: st.DataObject) -> None:
    entries, head = chain(happened)
    order = data.draw(st.permutations(range(len(entries))))
    assume(order != list(range(len(entries))))
    assert not verify([entries[place] for place in order], head).intact


@given(st.lists(events, min_size=1), events, st.data())
def test_inserted_entry_is_found(happened: list[AuditEvent], more: AuditEvent, data: st.DataObject) -> None:
    entries, head = chain(happened)
    place = data.draw(st.integers(0, len(entries)))
    before = entries[place - 1] if place else None
    forged = link(more, NOW, Head(before.sequence, before.hash) if before is not None else Head(0, FIRST_HASH))
    assert not verify([*entries[:place], forged, *entries[place:]], head).intact
