"""The registry's use cases: who may see and set which schema, and what the answer is.

A subject belongs to the project whose prefix it carries; outside one's projects it does not exist. Equal schemas
share an id within a project and never across projects, so that an id tells nobody what another project has.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from schemas.avro import MAX_FIXED_BYTES, Schema, fixed_bytes, parse
from schemas.compatibility.avro import incompatibilities
from schemas.errors import (
    IncompatibleSchema,
    InvalidLevel,
    InvalidSchema,
    InvalidSubject,
    InvalidVersion,
    NoLevel,
    OperationNotPermitted,
    SchemaNotFound,
    SchemaTooLarge,
    SubjectNotFound,
    SubjectNotSoftDeleted,
    SubjectSoftDeleted,
    VersionNotFound,
    VersionNotSoftDeleted,
    VersionSoftDeleted,
)
from schemas.model import AVRO, Level, Mode, Registered, SchemaVersion, SubjectOwner, as_subject, owner_of
from schemas.store import (
    Entry,
    SchemaState,
    hard_delete_entries,
    level_entry,
    schema_entry,
    soft_delete_entry,
    soft_delete_subject_entry,
    withdrawal_entries,
)
from tenancy.access import AccessJournal
from tenancy.model import Dataset, DatasetKind, DatasetPermission, Principal
from tenancy.policy import Action, Decision, decide, require
from wardstream.errors import Denied, NotFound, Unavailable

logger = logging.getLogger(__name__)

_DEFAULT_LEVEL = Level.BACKWARD
_LATEST = ("latest", "-1")
# Parsed trees of registered schemas; a schema is at most 64 kB.
_PARSED = 512


class Log(Protocol):
    """Where the registry's records are: `SchemaLog`."""

    def ready(self) -> str | None:
        """Return nothing when the state is that of the whole log, else what is missing."""
        ...

    def reading(self) -> AbstractContextManager[SchemaState]:
        """Hold the state still."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Keep other writers out."""
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Write records; the state has them when this returns."""
        ...


class RegistryService:
    """Subjects, versions, compatibility. Thread-safe. Every method takes the principal it acts for."""

    def __init__(self, log: Log, journal: AccessJournal | None = None) -> None:
        """`journal` keeps who registered and removed what, and who was refused to."""
        self._log = log
        self._journal = journal
        self._parsed: OrderedDict[str, Schema] = OrderedDict()
        self._parsed_lock = threading.Lock()

    def ready(self) -> str | None:
        """Return nothing when the registry can answer, else what is missing."""
        return self._log.ready()

    def subjects(self, principal: Principal, *, prefix: str = "", deleted: bool = False, deleted_only: bool = False) -> list[str]:
        """Return the subjects that `principal` may know of."""
        with self._log.reading() as state:
            names = state.subjects(deleted=deleted, deleted_only=deleted_only)
        return [name for name in names if name.startswith(prefix) and self._sees(principal, name)]

    def versions(self, principal: Principal, subject: str, *, deleted: bool = False, deleted_only: bool = False) -> list[int]:
        """Return the version numbers of a subject; raises `SubjectNotFound`."""
        self._require_seen(principal, subject)
        with self._log.reading() as state:
            found = state.versions(subject, deleted=deleted or deleted_only)
        wanted = [v.version for v in found if v.deleted or not deleted_only]
        if not wanted:
            raise SubjectNotFound(subject)
        return wanted

    def version(self, principal: Principal, subject: str, version: str, *, deleted: bool = False) -> SchemaVersion:
        """Return one version; `latest` and -1 skip deleted ones. Raises `SubjectNotFound`, `VersionNotFound`, `InvalidVersion`."""
        self._require_seen(principal, subject)
        number = _version_number(version)
        with self._log.reading() as state:
            return _found_version(state, subject, number, deleted)

    def by_id(self, principal: Principal, schema_id: int, *, subject: str | None = None) -> SchemaVersion:
        """Return the schema with this id. Soft-deleted ones are given too: records written with them are still there.

        Raises `SchemaNotFound`, also where every subject that has it is out of the principal's sight.
        """
        for found in self._all_with(principal, schema_id, deleted=True):
            if subject is None or found.subject == subject:
                return found
        raise SchemaNotFound

    def versions_with(self, principal: Principal, schema_id: int, *, deleted: bool = False) -> list[SchemaVersion]:
        """Return the subjects and versions that carry this id; raises `SchemaNotFound`."""
        found = self._all_with(principal, schema_id, deleted=deleted)
        if not found:
            raise SchemaNotFound
        return found

    def highest_id(self) -> int:
        """Return the highest id given out."""
        with self._log.reading() as state:
            return state.next_id - 1

    def lookup(self, principal: Principal, subject: str, text: str, *, schema_type: str = AVRO, deleted: bool = False) -> SchemaVersion:
        """Return the newest version of the subject that equals `text`; raises `SubjectNotFound` or `SchemaNotFound`."""
        self._require_seen(principal, subject)
        schema = _parsed_input(text, schema_type, None)
        with self._log.reading() as state:
            found = state.versions(subject, deleted=deleted)
        if not found:
            raise SubjectNotFound(subject)
        for version in reversed(found):
            if self._equal(version, schema):
                return version
        raise SchemaNotFound

    def register(
        self,
        principal: Principal,
        subject: str,
        text: str,
        *,
        dataset: Dataset | None = None,
        schema_type: str = AVRO,
        references: Sequence[object] | None = None,
        normalize: bool = False,
    ) -> Registered:
        """Make `text` the subject's newest version and return its id; the record is in the topic, acknowledged, when this returns.

        A schema that the subject has already keeps its version and id: whoever may read it may ask so. `dataset` is
        the subject's dataset as control knows it; without it the default permission is assumed (editable by owners).
        `normalize` stores the form in which equal schemas have equal texts.
        Raises `InvalidSubject`, `InvalidSchema`, `SchemaTooLarge`, `IncompatibleSchema`, `OperationNotPermitted`, `Denied`.
        """
        owner = owner_of(subject) if as_subject(subject) is not None else None
        if owner is None:
            raise InvalidSubject(
                "a subject here is <project>.<dataset>-value or <project>.<dataset>-key: it belongs to the project whose name it begins with"
            )
        decision = _decide(principal, Action.SCHEMA_REGISTER, owner, dataset)
        if not decision.visible:
            # The same words as for a project that does not exist.
            with suppress(NotFound):
                self._require(decision, principal, owner)
            raise Denied(f"you may not register schemas in project {owner.project}")
        schema = _parsed_input(text, schema_type, references)
        with self._log.writing():
            with self._log.reading() as state:
                known = self._registered(state, subject, schema)
                if known is not None and _decide(principal, Action.SCHEMA_READ, owner, dataset).allowed:
                    return known
                self._require(decision, principal, owner)
                _require_writable(state, subject)
                _require_decodable(schema)
                problems = self._problems(state, subject, schema)
                if problems:
                    raise IncompatibleSchema(subject, problems)
                twin = self._twin(state, owner, schema)
                made = SchemaVersion(
                    subject,
                    state.next_version(subject),
                    twin.id if twin is not None else state.next_id,
                    # An id stands for one text.
                    twin.schema if twin is not None else schema.equality_text if normalize else schema.text,
                )
            self._append_version(made)
        logger.info("schema registered", extra={"subject": subject, "version": made.version, "schema_id": made.id})
        return Registered(made.id, made.version, made.schema)

    def check(self, principal: Principal, subject: str, text: str, *, version: str | None = None, schema_type: str = AVRO) -> list[str]:
        """Return why `text` could not follow the subject's versions at its level, or one version of it; empty where it could.

        Raises `SubjectNotFound` or `VersionNotFound` where a version is named that is not there.
        """
        self._require_seen(principal, subject)
        schema = _parsed_input(text, schema_type, None)
        with self._log.reading() as state:
            if version is None:
                return self._problems(state, subject, schema)
            number = _version_number(version)
            if number is None and not state.versions(subject):
                return []
            found = _found_version(state, subject, number, deleted=False)
            return incompatibilities(_level(state, subject), schema, self._avro([found]))

    def delete_subject(self, principal: Principal, subject: str, *, permanent: bool = False, dataset: Dataset | None = None) -> list[int]:
        """Soft-delete all living versions, or with `permanent` remove the soft-deleted ones for good; returns their numbers."""
        self._require_registrar(principal, subject, dataset)
        with self._log.writing():
            with self._log.reading() as state:
                all_versions = state.versions(subject, deleted=True)
                if not all_versions:
                    raise SubjectNotFound(subject)
                living = [v for v in all_versions if not v.deleted]
                _require_writable(state, subject)
                if permanent and living:
                    raise SubjectNotSoftDeleted(subject)
                if not permanent and not living:
                    raise SubjectSoftDeleted(subject)
                gone = all_versions if permanent else living
                entries = (
                    [*hard_delete_entries(gone, state.next_id - 1), *_level_removal(state, subject)]
                    if permanent
                    else [soft_delete_subject_entry(subject, max(v.version for v in living))]
                )
            self._log.append(entries)
        logger.info("subject deleted", extra={"subject": subject, "permanent": permanent, "versions": len(gone)})
        return [v.version for v in gone]

    def delete_version(
        self, principal: Principal, subject: str, version: str, *, permanent: bool = False, dataset: Dataset | None = None
    ) -> int:
        """Soft-delete one version, or with `permanent` remove a soft-deleted one for good; returns its number."""
        self._require_registrar(principal, subject, dataset)
        number = _version_number(version)
        with self._log.writing():
            with self._log.reading() as state:
                found = _found_version(state, subject, number, deleted=True)
                _require_writable(state, subject)
                if permanent and not found.deleted:
                    raise VersionNotSoftDeleted(subject, found.version)
                if not permanent and found.deleted:
                    raise VersionSoftDeleted(subject, found.version)
                entries: list[Entry] = hard_delete_entries([found], state.next_id - 1) if permanent else [soft_delete_entry(found)]
            self._log.append(entries)
        logger.info("schema version deleted", extra={"subject": subject, "version": found.version, "permanent": permanent})
        return found.version

    def level(self, principal: Principal, subject: str | None, *, default_to_global: bool = False) -> Level:
        """Return the level of a subject, or with None the global one; raises `NoLevel` where none is set for the subject itself."""
        if subject is not None and not self._sees(principal, subject):
            raise SubjectNotFound(subject)
        with self._log.reading() as state:
            own = state.level(subject)
            if own is None and subject is not None and not default_to_global:
                raise NoLevel(subject)
            return own or state.level(None) or _DEFAULT_LEVEL

    def set_level(self, principal: Principal, subject: str | None, level: str | None, *, dataset: Dataset | None = None) -> Level:
        """Set the level of a subject, with None remove it; returns the one set, or the one removed.

        The global level is the platform's: raises `Denied` for it. Raises `InvalidLevel`, `NoLevel`.
        """
        if subject is None:
            raise Denied("the global compatibility level is the platform's; set it for a subject: PUT /config/<subject>")
        self._require_registrar(principal, subject, dataset)
        wanted = None if level is None else _parsed_level(level)
        with self._log.writing():
            with self._log.reading() as state:
                before = state.level(subject)
                if wanted is None and before is None:
                    raise NoLevel(subject)
            if wanted != before:
                self._log.append([level_entry(subject, wanted)])
        return wanted or before or _DEFAULT_LEVEL

    def mode(self, principal: Principal, subject: str | None) -> Mode:
        """Return what the subject accepts; the global mode where it has none of its own."""
        if subject is not None and not self._sees(principal, subject):
            raise SubjectNotFound(subject)
        with self._log.reading() as state:
            return _mode(state, subject)

    def _all_with(self, principal: Principal, schema_id: int, *, deleted: bool) -> list[SchemaVersion]:
        with self._log.reading() as state:
            found = state.versions_with(schema_id, deleted=deleted)
        return [v for v in found if self._sees(principal, v.subject)]

    def _sees(self, principal: Principal, subject: str) -> bool:
        owner = owner_of(subject)
        return owner is not None and _decide(principal, Action.SCHEMA_READ, owner, None).allowed

    def _require(self, decision: Decision, principal: Principal, owner: SubjectOwner) -> None:
        if self._journal is None:
            require(decision)
            return
        self._journal.require(decision, principal, Action.SCHEMA_REGISTER, surface="registry", project=owner.project, dataset=owner.dataset)

    def _require_seen(self, principal: Principal, subject: str) -> None:
        if not self._sees(principal, subject):
            raise SubjectNotFound(subject)

    def _require_registrar(self, principal: Principal, subject: str, dataset: Dataset | None) -> None:
        self._require_seen(principal, subject)
        owner = owner_of(subject)
        if owner is None:
            raise SubjectNotFound(subject)
        self._require(_decide(principal, Action.SCHEMA_REGISTER, owner, dataset), principal, owner)

    def _registered(self, state: SchemaState, subject: str, schema: Schema) -> Registered | None:
        for version in reversed(state.versions(subject)):
            if self._equal(version, schema):
                return Registered(version.id, version.version, version.schema)
        return None

    def _append_version(self, made: SchemaVersion) -> None:
        """Write the version; raises `Unavailable` where another registry wrote its place or its id in the same moment."""
        self._log.append([schema_entry(made)])
        with self._log.reading() as state:
            found = state.version(made.subject, made.version)
        if found == made:
            return
        if found is None:
            # Ours was passed over, by every reader alike. It must not come to life when the other one is removed.
            self._log.append(withdrawal_entries(made))
        raise Unavailable("another registry wrote at the same time; register again")

    def _twin(self, state: SchemaState, owner: SubjectOwner, schema: Schema) -> SchemaVersion | None:
        """A version of the same project with an equal schema, whose id is then shared; a soft-deleted one too."""
        prefix = f"{owner.project}."
        for subject in state.subjects(deleted=True):
            if subject.startswith(prefix):
                for version in state.versions(subject, deleted=True):
                    if self._equal(version, schema):
                        return version
        return None

    def _problems(self, state: SchemaState, subject: str, schema: Schema) -> list[str]:
        return incompatibilities(_level(state, subject), schema, self._avro(state.versions(subject)))

    def _avro(self, versions: Sequence[SchemaVersion]) -> list[Schema]:
        """The versions that can be compared with; one that today's rules refuse cannot, and must not block the subject for ever."""
        return [schema for version in versions if (schema := self._parse(version)) is not None]

    def _equal(self, version: SchemaVersion, schema: Schema) -> bool:
        if version.schema == schema.text or version.schema == schema.equality_text:
            return version.schema_type == AVRO and version.references is None
        found = self._parse(version)
        return found is not None and found.equality_text == schema.equality_text

    def _parse(self, version: SchemaVersion) -> Schema | None:
        if version.schema_type != AVRO or version.references is not None:
            return None
        with self._parsed_lock:
            known = self._parsed.get(version.schema)
        if known is None:
            try:
                known = parse(version.schema)
            except InvalidSchema:
                return None
            with self._parsed_lock:
                self._parsed[version.schema] = known
                while len(self._parsed) > _PARSED:
                    self._parsed.popitem(last=False)
        return known


def _decide(principal: Principal, action: Action, owner: SubjectOwner, dataset: Dataset | None) -> Decision:
    """Decide on the subject's dataset; where control's view of it is not at hand, on one with the default permission."""
    if owner.dataset is None:
        return decide(principal, action, None, owner.project)
    known = dataset or Dataset(owner.project, owner.dataset, DatasetKind.TOPIC, DatasetPermission.EDITABLE_BY_OWNERS, 1, {}, "")
    return decide(principal, action, known)


def _parsed_input(text: str, schema_type: str, references: Sequence[object] | None) -> Schema:
    if schema_type != AVRO:
        raise InvalidSchema(f"schema type {schema_type[:40]!a} is not supported here: AVRO")
    if references:
        raise InvalidSchema("references to other subjects are not supported here: write the types into one schema")
    return parse(text)


def _require_decodable(schema: Schema) -> None:
    if fixed_bytes(schema) > MAX_FIXED_BYTES:
        raise SchemaTooLarge(f"the fixed types of a schema may have {MAX_FIXED_BYTES} bytes together: use bytes for what is longer")


def _parsed_level(text: str) -> Level:
    try:
        return Level(text.upper())
    except ValueError as error:
        raise InvalidLevel(f"Invalid compatibility level {text[:40]!a}. Valid values are {', '.join(Level)}") from error


def _version_number(text: str) -> int | None:
    """None stands for the latest."""
    if text in _LATEST:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) < 2**31:
        raise InvalidVersion(text)
    return int(text)


def _found_version(state: SchemaState, subject: str, number: int | None, deleted: bool) -> SchemaVersion:
    living = state.versions(subject)
    known = state.versions(subject, deleted=True) if deleted else living
    if not known:
        raise SubjectNotFound(subject)
    if number is None:
        return (living or known)[-1]
    for version in known:
        if version.version == number:
            return version
    raise VersionNotFound(number)


def _level(state: SchemaState, subject: str) -> Level:
    return state.level(subject) or state.level(None) or _DEFAULT_LEVEL


def _mode(state: SchemaState, subject: str | None) -> Mode:
    return (state.mode(subject) if subject is not None else None) or state.mode(None) or Mode.READWRITE


def _require_writable(state: SchemaState, subject: str) -> None:
    mode = _mode(state, subject)
    if mode is not Mode.READWRITE:
        raise OperationNotPermitted(f"Subject {subject} is in mode {mode}: only READWRITE takes changes here")


def _level_removal(state: SchemaState, subject: str) -> list[Entry]:
    return [level_entry(subject, None)] if state.level(subject) is not None else []
