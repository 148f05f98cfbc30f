"""The registry's errors: ours, with the Confluent `error_code` that stock clients branch on.

They stand here and not in `wardstream/errors.py` because nobody outside the registry's surface knows these numbers.
Clients also match words of the messages ("Subject 'x' not found."): keep the sense and the quoted name.
"""

from __future__ import annotations

from typing import ClassVar

from wardstream.errors import Conflict, Invalid, NotFound


class SubjectNotFound(NotFound):
    """No such subject, or none that the caller may know about."""

    error_code: ClassVar[int] = 40401

    def __init__(self, subject: str) -> None:
        super().__init__(f"Subject '{subject}' not found.")


class VersionNotFound(NotFound):
    """The subject has no such version."""

    error_code: ClassVar[int] = 40402

    def __init__(self, version: int | str) -> None:
        super().__init__(f"Version {version} not found.")


class SchemaNotFound(NotFound):
    """No schema with this id, or not this schema under the subject."""

    error_code: ClassVar[int] = 40403

    def __init__(self) -> None:
        super().__init__("Schema not found")


class SubjectSoftDeleted(NotFound):
    """The subject was soft-deleted before."""

    error_code: ClassVar[int] = 40404

    def __init__(self, subject: str) -> None:
        super().__init__(f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently")


class SubjectNotSoftDeleted(NotFound):
    """A hard delete needs a soft delete first."""

    error_code: ClassVar[int] = 40405

    def __init__(self, subject: str) -> None:
        super().__init__(f"Subject '{subject}' was not deleted first before being permanently deleted")


class VersionSoftDeleted(NotFound):
    """The version was soft-deleted before."""

    error_code: ClassVar[int] = 40406

    def __init__(self, subject: str, version: int) -> None:
        super().__init__(f"Subject '{subject}' Version {version} was soft deleted. Set permanent=true to delete permanently")


class VersionNotSoftDeleted(NotFound):
    """A hard delete needs a soft delete first."""

    error_code: ClassVar[int] = 40407

    def __init__(self, subject: str, version: int) -> None:
        super().__init__(f"Subject '{subject}' Version {version} was not deleted first before being permanently deleted")


class NoLevel(NotFound):
    """No compatibility level is set for the subject itself."""

    error_code: ClassVar[int] = 40408

    def __init__(self, subject: str) -> None:
        super().__init__(f"Subject '{subject}' does not have subject-level compatibility configured")


class NoMode(NotFound):
    """No mode is set for the subject itself."""

    error_code: ClassVar[int] = 40409

    def __init__(self, subject: str) -> None:
        super().__init__(f"Subject '{subject}' does not have subject-level mode configured")


class IncompatibleSchema(Conflict):
    """The schema cannot follow the versions that the subject has."""

    error_code: ClassVar[int] = 409

    def __init__(self, subject: str, problems: list[str]) -> None:
        super().__init__(f"Schema being registered is incompatible with an earlier schema for subject '{subject}': {'; '.join(problems)}")


class InvalidSchema(Invalid):
    """Not a schema that can be used here."""

    error_code: ClassVar[int] = 42201


class InvalidVersion(Invalid):
    """Not a version number."""

    error_code: ClassVar[int] = 42202

    def __init__(self, text: str) -> None:
        super().__init__(
            f"The specified version '{text[:40]}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
        )


class InvalidLevel(Invalid):
    """Not a compatibility level."""

    error_code: ClassVar[int] = 42203


class InvalidMode(Invalid):
    """Not a mode that can be set here."""

    error_code: ClassVar[int] = 42204


class OperationNotPermitted(Invalid):
    """The subject's mode does not allow it."""

    error_code: ClassVar[int] = 42205


class InvalidSubject(Invalid):
    """Not a subject of any project."""

    error_code: ClassVar[int] = 42208


class SchemaTooLarge(Invalid):
    """Larger or deeper than this registry takes."""

    error_code: ClassVar[int] = 42209
