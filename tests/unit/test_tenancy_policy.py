"""Rules of the one decision, by example."""

import pytest

from tenancy.model import Dataset, DatasetKind, DatasetPermission, Door, Principal, PrincipalKind, Role, administrator, platform_principal
from tenancy.policy import Action, decide, knows, require
from wardstream.errors import Denied, NotFound
from wardstream.names import DatasetName, MemberName, ProjectName

ICU, VIROLOGY = ProjectName("icu-west"), ProjectName("virology")
ECG, LAB = DatasetName("ecg"), DatasetName("lab")


def member(
    role: Role,
    *,
    project: ProjectName = ICU,
    door: Door = Door.INSIDE,
    sandboxed: bool = True,
    reads: set[DatasetName] = frozenset(),  # type: ignore[assignment]  # an empty set for both
    writes: set[DatasetName] = frozenset(),  # type: ignore[assignment]
) -> Principal:
    return Principal(
        PrincipalKind.MEMBER,
        project=project,
        member=MemberName("anna"),
        role=role,
        door=door,
        sandboxed=sandboxed,
        reads=frozenset(reads),
        writes=frozenset(writes),
    )


def dataset(
    name: DatasetName = ECG, permission: DatasetPermission = DatasetPermission.EDITABLE_BY_OWNERS, *, processors: tuple[str, ...] = ()
) -> Dataset:
    found = frozenset(MemberName(processor) for processor in processors)
    return Dataset(ICU, name, DatasetKind.TOPIC, permission, 1, {}, "icu-west__olga", found)


@pytest.mark.parametrize("action", [Action.ROW_READ, Action.ONLINE_READ, Action.RECORD_READ])
@pytest.mark.parametrize("role", [Role.DATA_SCIENTIST, Role.OBSERVER])
def test_rows_of_a_sandboxed_project_stay_inside(role: Role, action: Action) -> None:
    outside = decide(member(role, door=Door.OUTSIDE), action, dataset())
    assert (outside.allowed, outside.visible) == (False, True)
    assert "wardstream program run" in outside.reason
    assert decide(member(role, door=Door.INSIDE), action, dataset()).allowed
    assert decide(member(role, door=Door.OUTSIDE, sandboxed=False), action, dataset()).allowed
    assert decide(member(Role.DATA_OWNER, door=Door.OUTSIDE), action, dataset()).allowed


@pytest.mark.parametrize("action", list(Action))
def test_nothing_of_another_project_is_allowed_or_visible(action: Action) -> None:
    for role in Role:
        stranger = member(role, project=VIROLOGY, reads={ECG}, writes={ECG})
        for decision in (decide(stranger, action, dataset()), decide(stranger, action, project=ICU)):
            assert not decision.allowed
            assert not decision.visible


@pytest.mark.parametrize(
    ("permission", "owner", "scientist"),
    [
        (DatasetPermission.READ_ONLY, False, False),
        (DatasetPermission.EDITABLE_BY_OWNERS, True, False),
        (DatasetPermission.EDITABLE, True, True),
    ],
)
def test_who_writes_follows_from_the_dataset(permission: DatasetPermission, owner: bool, scientist: bool) -> None:
    found = dataset(permission=permission)
    assert decide(member(Role.DATA_OWNER), Action.RECORD_WRITE, found).allowed is owner
    assert decide(member(Role.DATA_SCIENTIST), Action.RECORD_WRITE, found).allowed is scientist
    assert not decide(member(Role.OBSERVER), Action.RECORD_WRITE, found).allowed


def test_nobody_writes_a_processors_result_but_the_processor() -> None:
    result = dataset(permission=DatasetPermission.EDITABLE, processors=("ecg-proc",))
    assert not decide(member(Role.DATA_OWNER), Action.RECORD_WRITE, result).allowed
    refused = decide(member(Role.DEVICE, writes={ECG}), Action.RECORD_WRITE, result)
    assert (refused.allowed, refused.reason) == (False, "ecg is the result of ecg-proc; devices do not write it")
    assert decide(member(Role.SERVICE, writes={ECG}), Action.RECORD_WRITE, result).allowed


def test_device_only_writes_what_its_list_names_and_knows_of_nothing_else() -> None:
    device = member(Role.DEVICE, writes={ECG})
    assert decide(device, Action.RECORD_WRITE, dataset()).allowed
    assert decide(device, Action.SCHEMA_READ, dataset()).allowed
    assert not decide(device, Action.RECORD_READ, dataset()).allowed
    assert not knows(device, dataset(LAB))


def test_service_reads_and_writes_what_its_lists_name() -> None:
    service = member(Role.SERVICE, reads={ECG}, writes={LAB})
    assert decide(service, Action.ROW_READ, dataset(ECG)).allowed
    assert not decide(service, Action.RECORD_WRITE, dataset(ECG)).allowed
    assert decide(service, Action.RECORD_WRITE, dataset(LAB)).allowed
    assert not decide(service, Action.RECORD_READ, dataset(LAB)).allowed


def test_administrator_makes_projects_and_never_sees_data() -> None:
    allowed = {action for action in Action if decide(administrator(), action, project=ICU).allowed}
    assert allowed == {
        Action.QUOTA_READ,
        Action.QUOTA_SET,
        Action.PROJECT_CREATE,
        Action.PROJECT_LIST,
        Action.PROJECT_DESCRIBE,
        Action.PERSON_MANAGE,
        Action.ACCOUNT_MANAGE,
        Action.MEMBER_LIST,
        Action.AUDIT_READ,
    }
    assert not any(decide(administrator(), action, dataset()).visible for action in Action)


def test_platform_process_may_nothing_for_itself() -> None:
    assert not any(decide(platform_principal("ws-query"), action, project=ICU).allowed for action in Action)


def test_only_administrators_create_projects() -> None:
    assert not any(decide(member(role), Action.PROJECT_CREATE).allowed for role in Role)


def test_scientist_changes_only_what_that_scientist_made() -> None:
    own = Dataset(ICU, ECG, DatasetKind.FEATURE_GROUP, DatasetPermission.EDITABLE, 1, {}, "icu-west__anna")
    assert decide(member(Role.DATA_SCIENTIST), Action.DATASET_DELETE, own).allowed
    assert not decide(member(Role.DATA_SCIENTIST), Action.DATASET_DELETE, dataset()).allowed
    assert decide(member(Role.DATA_OWNER), Action.DATASET_DELETE, dataset()).allowed


def test_refusal_of_something_unseen_reads_as_absence() -> None:
    unseen = decide(member(Role.DATA_OWNER, project=VIROLOGY), Action.ROW_READ, dataset())
    with pytest.raises(NotFound, match=r"dataset icu-west\.ecg is not there"):
        require(unseen, "dataset icu-west.ecg")


def test_refusal_of_something_seen_says_why() -> None:
    with pytest.raises(Denied, match="read-only"):
        require(decide(member(Role.DATA_OWNER), Action.RECORD_WRITE, dataset(permission=DatasetPermission.READ_ONLY)))
