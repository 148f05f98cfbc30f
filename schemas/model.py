"""Values of the registry: subjects, versions, levels, and whose a subject is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from wardstream.errors import InvalidName
from wardstream.names import DatasetName, ProjectName, SubjectName, parse_any_dataset, parse_project

SchemaId = NewType("SchemaId", int)

_SUFFIXES = ("-value", "-key")
_DEAD_LETTERS = "-dlq"


class Level(StrEnum):
    """Which earlier versions a new one must fit, and in which direction."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


class Mode(StrEnum):
    """What a subject accepts. We answer with it and never change it; other registries' topics may hold the rest."""

    READWRITE = "READWRITE"
    READONLY = "READONLY"
    READONLY_OVERRIDE = "READONLY_OVERRIDE"
    IMPORT = "IMPORT"
    FORWARD = "FORWARD"


AVRO = "AVRO"


@dataclass(frozen=True)
class SchemaVersion:
    """One version of a subject. `schema` is its text; `references` is JSON text, kept for topics written elsewhere."""

    subject: str
    version: int
    id: SchemaId
    schema: str
    schema_type: str = AVRO
    deleted: bool = False
    references: str | None = None


@dataclass(frozen=True)
class Registered:
    """The outcome of a registration: the id, and the version under the subject."""

    id: SchemaId
    version: int
    schema: str


@dataclass(frozen=True)
class SubjectOwner:
    """Whose a subject is; `dataset` is None where the name carries more than a topic (record name strategies)."""

    project: ProjectName
    dataset: DatasetName | None


def owner_of(subject: str) -> SubjectOwner | None:
    """Return the owner of a subject from its prefix, or None where it belongs to no project."""
    project, dot, rest = subject.partition(".")
    if not dot or not rest:
        return None
    try:
        owner = parse_project(project)
    except InvalidName:
        return None
    for suffix in _SUFFIXES:
        if rest.endswith(suffix):
            try:
                return SubjectOwner(owner, parse_any_dataset(rest.removesuffix(suffix).removesuffix(_DEAD_LETTERS)))
            except InvalidName:
                break
    return SubjectOwner(owner, None)


def as_subject(text: str) -> SubjectName | None:
    """Return `text` as a subject that a project owns, or None."""
    # 249 is Kafka's limit on topic names; nobody needs a longer subject. No control characters: names are shown and logged.
    if len(text) > 249 or not text.isascii() or not text.isprintable():
        return None
    return SubjectName(text) if owner_of(text) is not None else None
