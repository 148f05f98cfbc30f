"""Names of things, as values that only parsers make.

Grammar and reasons: a project has no `_`, because Kafka treats `.` and `_` alike in topic names and one tenant
could otherwise block another; a topic has exactly one dot, the border between project and dataset; version and
dead-letter suffixes cannot be forged by a dataset's own name. X.509 common names end at 64 characters, which
30 + 2 + 24 + a generation suffix respects.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

from wardstream.errors import InvalidName

ProjectName = NewType("ProjectName", str)
MemberName = NewType("MemberName", str)
DatasetName = NewType("DatasetName", str)
GroupName = NewType("GroupName", str)
TopicName = NewType("TopicName", str)
PersonName = NewType("PersonName", str)
PrincipalName = NewType("PrincipalName", str)
SubjectName = NewType("SubjectName", str)

_PROJECT = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_WORDS = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_PERSON = re.compile(r"[a-z0-9]([a-z0-9._@+-]{0,62}[a-z0-9])?")
_GROUP = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_VERSIONED = re.compile(r".*_[0-9]+")
_DEAD_LETTERS = "-dlq"
_PRINCIPAL = re.compile(r"([a-z][a-z0-9-]*)__([a-z][a-z0-9_-]*?)(?:__g([1-9][0-9]{0,4}))?")


def parse_project(text: str) -> ProjectName:
    """Return `text` as a project's name; raises `InvalidName` with the grammar."""
    if len(text) > 30 or not _PROJECT.fullmatch(text):
        raise InvalidName(
            f"{_shown(text)} is not a project name: lower-case words of letters and digits joined by '-', at most 30 characters"
        )
    if text == "ws" or text.startswith("ws-"):
        raise InvalidName(f"{_shown(text)} is reserved: project names do not begin with 'ws'")
    return ProjectName(text)


def parse_member(text: str) -> MemberName:
    """Return `text` as the name of a member, device, processor or program; raises `InvalidName`."""
    if len(text) > 24 or not _WORDS.fullmatch(text):
        raise InvalidName(
            f"{_shown(text)} is not a member name: lower-case words of letters and digits joined by single '-' or '_', at most 24 characters"
        )
    return MemberName(text)


def parse_person(text: str) -> PersonName:
    """Return `text` as the name of an account, which may be an e-mail address; raises `InvalidName`."""
    if not _PERSON.fullmatch(text):
        raise InvalidName(
            f"{_shown(text)} is not an account name: 1 to 64 lower-case letters, digits, '.', '_', '@', '+' and '-', "
            "beginning and ending with a letter or digit"
        )
    return PersonName(text)


def member_for(person: str) -> MemberName:
    """Return the member name that an account's name becomes where a directory's group brings it: what does not fit is left out.

    Two accounts may become one name; whoever gives it out looks whether it is taken.
    """
    name = unicodedata.normalize("NFKD", person).encode("ascii", "ignore").decode().lower().partition("@")[0]
    words = [word for word in re.split(r"[^a-z0-9]+", name) if word]
    joined = "-".join(words)[:24].strip("-")
    if not joined or not joined[0].isalpha():
        joined = f"m-{joined}"[:24].strip("-")
    return parse_member(joined)


def parse_dataset(text: str) -> DatasetName:
    """Return `text` as the name of a dataset that a member may choose; raises `InvalidName`."""
    if _VERSIONED.fullmatch(text) or text.endswith(_DEAD_LETTERS):
        raise InvalidName(f"{_shown(text)} is not a dataset name: it may not end in '_<digits>' (versions) or '-dlq' (dead letters)")
    return parse_any_dataset(text)


def parse_any_dataset(text: str) -> DatasetName:
    """Return `text` as the name of an existing dataset, a feature group's versioned one included; raises `InvalidName`."""
    if len(text) > 100 or not _WORDS.fullmatch(text) or text.endswith(_DEAD_LETTERS):
        raise InvalidName(
            f"{_shown(text)} is not a dataset name: lower-case words of letters and digits joined by single '-' or '_', at most 100 characters"
        )
    return DatasetName(text)


def parse_group(text: str) -> GroupName:
    """Return `text` as a feature group's name, which is also its table's name in SQL; raises `InvalidName`."""
    if len(text) > 63 or not _GROUP.fullmatch(text) or _VERSIONED.fullmatch(text):
        raise InvalidName(
            f"{_shown(text)} is not a feature group name: lower-case words of letters and digits joined by '_', at most 63 characters, not ending in '_<digits>'"
        )
    return GroupName(text)


def topic_of(project: ProjectName, dataset: DatasetName) -> TopicName:
    """Return the dataset's topic."""
    return TopicName(f"{project}.{dataset}")


def split_topic(topic: str) -> tuple[ProjectName, DatasetName]:
    """Return owner and dataset of a project's topic, also of its dead-letter topic; raises `InvalidName` for any other topic."""
    project, dot, dataset = topic.partition(".")
    if not dot:
        raise InvalidName(f"{_shown(topic)} is not a project's topic: <project>.<dataset>")
    return parse_project(project), parse_any_dataset(dataset.removesuffix(_DEAD_LETTERS))


def dead_letter_topic(topic: TopicName) -> TopicName:
    """Return where records of `topic` go that could not be used."""
    return TopicName(f"{topic}{_DEAD_LETTERS}")


def group_dataset(group: GroupName, version: int) -> DatasetName:
    """Return the dataset behind one version of a feature group."""
    return DatasetName(f"{group}_{version}")


def split_group_dataset(dataset: DatasetName) -> tuple[GroupName, int] | None:
    """Return group and version, or None where `dataset` is not a feature group's."""
    name, _, version = dataset.rpartition("_")
    if not name or not version.isdigit() or not _GROUP.fullmatch(name):
        return None
    return GroupName(name), int(version)


def principal_of(project: ProjectName, member: MemberName, generation: int = 1) -> PrincipalName:
    """Return the principal of one membership; generations above the first carry a suffix."""
    suffix = f"__g{generation}" if generation > 1 else ""
    return PrincipalName(f"{project}__{member}{suffix}")


def split_principal(name: str) -> tuple[ProjectName, MemberName, int]:
    """Return project, member and generation; raises `InvalidName` for a platform principal or anything else."""
    match = _PRINCIPAL.fullmatch(name)
    if not match:
        raise InvalidName(f"{_shown(name)} is not a member's principal: <project>__<member>")
    return parse_project(match[1]), parse_member(match[2]), int(match[3] or 1)


def member_prefix(project: ProjectName, member: MemberName) -> str:
    """Return what the member's own consumer groups and transactional ids begin with."""
    return f"{project}.{member}."


def internal_prefix(project: ProjectName, processor: MemberName) -> str:
    """Return what a processor's internal topics, groups and transactional ids begin with."""
    return f"ws.{project}.{processor}."


def shared_table(project: ProjectName, dataset: str) -> str:
    """Return the name in SQL of a feature group that `project` shares; no group's own name has two `_` in a row."""
    return f"{project.replace('-', '_')}__{dataset}"


def value_subject(topic: TopicName) -> SubjectName:
    """Return the subject that stock serializers use for values of `topic`."""
    return SubjectName(f"{topic}-value")


def _shown(text: str) -> str:
    """Quote outside text for a message: bounded, printable ASCII only."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
