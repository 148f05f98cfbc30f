"""Roles and shares as the policy sees them, by example."""

import pytest

from tenancy.model import Columns, Dataset, DatasetKind, DatasetPermission, Door, Principal, PrincipalKind, Role, SharedIn
from tenancy.policy import Action, columns_of, decide, may_give
from wardstream.names import DatasetName, MemberName, ProjectName

ICU, LAB = ProjectName("icu"), ProjectName("lab")
VITALS = DatasetName("vitals_1")
READ, OWNERS, ALL = DatasetPermission.READ_ONLY, DatasetPermission.EDITABLE_BY_OWNERS, DatasetPermission.EDITABLE


def dataset(project: ProjectName = ICU, permission: DatasetPermission = ALL) -> Dataset:
    return Dataset(project, VITALS, DatasetKind.FEATURE_GROUP, permission, 1, {}, "icu__anna")


def receiver(role: Role, share: SharedIn, door: Door = Door.INSIDE) -> Principal:
    return Principal(PrincipalKind.MEMBER, LAB, MemberName("sam"), role, door=door, shared=frozenset({share}))


@pytest.mark.parametrize(
    ("mode", "role", "may"),
    [
        (READ, Role.DATA_OWNER, False),
        (OWNERS, Role.DATA_OWNER, True),
        (OWNERS, Role.DATA_SCIENTIST, False),
        (ALL, Role.DATA_SCIENTIST, True),
        (ALL, Role.OBSERVER, False),
    ],
)
def test_mode_of_a_share_says_who_writes(mode: DatasetPermission, role: Role, may: bool) -> None:
    principal = receiver(role, SharedIn(ICU, VITALS, mode))
    assert decide(principal, Action.RECORD_WRITE, dataset()).allowed is may
    assert decide(principal, Action.RECORD_READ, dataset()).allowed
    # What its own project may not write, no share lets another write.
    assert not decide(principal, Action.RECORD_WRITE, dataset(permission=READ)).allowed


@pytest.mark.parametrize("action", [Action.SHARE_OFFER, Action.DATASET_DELETE, Action.DATASET_ALTER, Action.SCHEMA_REGISTER])
def test_whoever_receives_a_dataset_decides_nothing_about_it(action: Action) -> None:
    decision = decide(receiver(Role.DATA_OWNER, SharedIn(ICU, VITALS, ALL)), action, dataset())
    assert (decision.allowed, decision.visible) == (False, True)


@pytest.mark.parametrize("role", [Role.RESTRICTED, Role.DEVICE, Role.SERVICE])
def test_a_share_opens_nothing_to_those_who_have_named_datasets_only(role: Role) -> None:
    decision = decide(receiver(role, SharedIn(ICU, VITALS, ALL)), Action.ROW_READ, dataset())
    assert (decision.allowed, decision.visible) == (False, False)


def test_share_by_columns_opens_the_table_and_never_the_topic() -> None:
    principal = receiver(Role.DATA_OWNER, SharedIn(ICU, VITALS, READ, columns=frozenset({"hr"})))
    assert decide(principal, Action.ROW_READ, dataset()).allowed
    assert not decide(principal, Action.RECORD_READ, dataset()).allowed
    assert columns_of(principal, dataset()) == frozenset({"hr"})


def test_rows_that_a_sandboxed_project_shares_stay_inside() -> None:
    for sandboxed, may in ((True, False), (False, False)):
        share = SharedIn(ICU, VITALS, READ, sandboxed=sandboxed)
        assert decide(receiver(Role.DATA_SCIENTIST, share, Door.OUTSIDE), Action.ROW_READ, dataset()).allowed is may
        assert decide(receiver(Role.DATA_SCIENTIST, share), Action.ROW_READ, dataset()).allowed


def test_restricted_member_knows_what_it_was_given_and_nothing_else() -> None:
    given = frozenset({Columns(VITALS, frozenset({"hr"}))})
    rita = Principal(PrincipalKind.MEMBER, ICU, MemberName("rita"), Role.RESTRICTED, door=Door.INSIDE, columns=given)
    assert decide(rita, Action.ROW_READ, dataset()).allowed
    assert columns_of(rita, dataset()) == frozenset({"hr"})
    for action in (Action.RECORD_READ, Action.RECORD_WRITE, Action.SCHEMA_REGISTER, Action.DATASET_ALTER):
        assert not decide(rita, action, dataset()).allowed
    other = Dataset(ICU, DatasetName("notes"), DatasetKind.TOPIC, ALL, 1, {}, "icu__anna")
    assert not decide(rita, Action.DATASET_LIST, other).visible
    assert not decide(rita, Action.MEMBER_LIST, project=ICU).allowed


def test_role_of_a_projects_own_never_allows_more_than_its_base() -> None:
    for role in (Role.DATA_OWNER, Role.DATA_SCIENTIST, Role.OBSERVER):
        base = Principal(PrincipalKind.MEMBER, ICU, MemberName("anna"), role, door=Door.INSIDE)
        for left_out in Action:
            less = Principal(PrincipalKind.MEMBER, ICU, MemberName("anna"), role, door=Door.INSIDE, without=frozenset({left_out}))
            for action in Action:
                expected = decide(base, action, dataset()).allowed and action is not left_out
                assert decide(less, action, dataset()).allowed is expected


def test_nobody_gives_more_than_they_have() -> None:
    left_out = frozenset({Action.RECORD_READ, Action.RECORD_WRITE})
    less = Principal(PrincipalKind.MEMBER, ICU, MemberName("anna"), Role.DATA_OWNER, without=left_out)
    whole = Principal(PrincipalKind.MEMBER, ICU, MemberName("olga"), Role.DATA_OWNER)
    nothing: frozenset[str] = frozenset()
    for role in (Role.DATA_OWNER, Role.DATA_SCIENTIST, Role.OBSERVER):
        assert may_give(whole, role, nothing).allowed
        assert not may_give(less, role, nothing).allowed
        assert may_give(less, role, left_out).allowed
    assert not may_give(less, Role.DATA_OWNER, frozenset({Action.RECORD_READ})).allowed
    # A device that writes would be a way to write.
    assert not may_give(less, Role.DEVICE, nothing, writes=True).allowed
    assert may_give(less, Role.DEVICE, nothing).allowed
    assert may_give(less, Role.RESTRICTED, nothing).allowed
