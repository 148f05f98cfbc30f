"""Names outside their grammar never become names."""

import pytest

from wardstream.errors import InvalidName
from wardstream.names import (
    DatasetName,
    GroupName,
    MemberName,
    ProjectName,
    dead_letter_topic,
    group_dataset,
    internal_prefix,
    member_prefix,
    parse_dataset,
    parse_group,
    parse_member,
    parse_project,
    principal_of,
    split_group_dataset,
    split_principal,
    split_topic,
    topic_of,
)


@pytest.mark.parametrize("text", ["icu", "icu-west", "a1-b2", "x" * 30])
def test_a_project_name_is_words_joined_by_hyphens(text: str) -> None:
    assert parse_project(text) == text


@pytest.mark.parametrize(
    "text", ["", "Icu", "icu_west", "icu.west", "-icu", "icu-", "icu--west", "1icu", "x" * 31, "ws", "ws-x", "../x", "ícu", "icu\n"]
)
def test_any_other_project_name_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(InvalidName) as refused:
        parse_project(text)
    assert "project name" in refused.value.message or "reserved" in refused.value.message


@pytest.mark.parametrize("text", ["a__b", "a_", "_a", "Anna", "anna.b", "x" * 25, "__consumer_offsets", "an na"])
def test_a_member_name_never_holds_the_border_of_a_principal(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_member(text)


@pytest.mark.parametrize("text", ["ecg_1", "ecg-dlq", "ecg_10s_2", "x" * 101, "a.b"])
def test_a_dataset_cannot_forge_a_version_or_a_dead_letter_suffix(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_dataset(text)


@pytest.mark.parametrize("text", ["ecg-10s", "ecg_1", "Ecg", "x" * 64])
def test_a_group_name_is_a_sql_name_without_version(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_group(text)


def test_a_topic_has_one_border() -> None:
    topic = topic_of(ProjectName("icu"), DatasetName("ecg"))

    assert topic == "icu.ecg"
    assert split_topic(topic) == ("icu", "ecg")
    assert split_topic(dead_letter_topic(topic)) == ("icu", "ecg")


@pytest.mark.parametrize("text", ["icu", "_ws-executions", "ws.icu.proc.1.app", "icu.", ".ecg", "icu.e.cg"])
def test_what_is_no_project_topic_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        split_topic(text)


def test_generations_above_the_first_show_in_the_principal() -> None:
    assert principal_of(ProjectName("icu"), MemberName("anna")) == "icu__anna"
    assert principal_of(ProjectName("icu"), MemberName("anna"), 2) == "icu__anna__g2"
    assert split_principal("icu__anna__g2") == ("icu", "anna", 2)
    assert split_principal("icu__anna") == ("icu", "anna", 1)


@pytest.mark.parametrize("text", ["ws-control", "icu", "icu__", "icu__anna__g0", "icu__anna__g1x", "icu__a__b"])
def test_what_is_no_members_principal_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        split_principal(text)


def test_the_longest_principal_fits_into_a_common_name() -> None:
    assert len(principal_of(ProjectName("p" * 30), MemberName("m" * 24), 99_999)) <= 64


def test_prefixes_end_at_a_border() -> None:
    assert member_prefix(ProjectName("icu"), MemberName("anna")) == "icu.anna."
    assert internal_prefix(ProjectName("icu"), MemberName("beats")) == "ws.icu.beats."


def test_a_groups_dataset_carries_its_version() -> None:
    assert group_dataset(GroupName("ecg_10s"), 3) == "ecg_10s_3"
    assert split_group_dataset(DatasetName("ecg_10s_3")) == ("ecg_10s", 3)
    assert split_group_dataset(DatasetName("waveforms")) is None


def test_an_error_shows_outside_text_bounded_and_in_ascii() -> None:
    with pytest.raises(InvalidName) as refused:
        parse_project("<script>" + "é" * 100_000)
    assert refused.value.message.isascii()
    assert len(refused.value.message) < 600
