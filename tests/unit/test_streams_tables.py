"""What is said of tables: which records they can never have, whose counts are shown to whom, which online rows are right."""

from featurestore.model import Feature, FeatureGroup, FeatureType
from streams.materialise import gap_between
from streams.reconcile import differing_rows, seen_by
from tenancy.model import Principal, PrincipalKind, Role
from wardstream.names import DatasetName, GroupName, MemberName, ProjectName

ICU = ProjectName("icu")
FEATURES = (Feature("patient", FeatureType.STRING), Feature("at", FeatureType.TIMESTAMP))
VITALS, LABS = (FeatureGroup(ICU, GroupName(name), 1, ("patient",), "at", FEATURES) for name in ("vitals", "labs"))


def member(role: Role, *, project: ProjectName = ICU, writes: str = "ecg") -> Principal:
    return Principal(PrincipalKind.MEMBER, project, MemberName("one"), role, writes=frozenset({DatasetName(writes)}))


def test_records_that_went_before_the_table_had_them_are_named() -> None:
    assert gap_between({0: 5, 1: 9}, {0: 8, 1: 9, 2: 3, 3: 0}) == (
        "the topic had deleted the records 5 to 7 of partition 0, 0 to 2 of partition 2 before the table had them"
    )
    assert gap_between({0: 5}, {0: 4, 1: 0}) is None


def test_counts_of_a_group_are_for_those_who_may_know_of_it() -> None:
    assert seen_by(member(Role.OBSERVER), [VITALS, LABS]) == [VITALS, LABS]
    assert seen_by(member(Role.DEVICE), [VITALS, LABS]) == []
    assert seen_by(member(Role.DEVICE, writes="labs_1"), [VITALS, LABS]) == [LABS]
    assert seen_by(member(Role.DATA_OWNER, project=ProjectName("lab")), [VITALS, LABS]) == []


def online_row(event: int, ingested: int, value: bytes = b"v") -> bytes:
    times = [each.to_bytes(8, "little", signed=True) for each in (event, ingested)]
    return b"\x01\x00\x00\x00\x00" + b"".join(times) + value


def test_an_online_row_of_a_record_that_the_table_has_not_reached_is_right() -> None:
    wanted = online_row(-5, 300)
    for right in (wanted, online_row(-4, 0), online_row(-5, 301)):
        assert differing_rows({b"key": wanted}, [right]) == 0
    for wrong in (None, b"", online_row(-5, 300, b"w"), online_row(-6, 999), online_row(-5, 299)):
        assert differing_rows({b"key": wanted}, [wrong]) == 1
