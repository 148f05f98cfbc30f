"""The catalogue: which feature groups, training datasets and models there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from featurestore.model import FeatureGroup, group_from_document
from featurestore.tables import feature_groups, training_datasets
from tenancy.model import Dataset, DatasetKind, DatasetPermission
from wardstream.errors import Conflict, Unavailable
from wardstream.names import GroupName, ProjectName


class GroupState(StrEnum):
    """Life of a feature group's version. `deleted` is kept: its name is not given out again while anything of it may be left."""

    CREATING = "creating"
    ACTIVE = "active"
    DELETING = "deleting"
    DELETED = "deleted"


@dataclass(frozen=True)
class StoredGroup:
    """A feature group as the catalogue knows it."""

    group: FeatureGroup
    partitions: int
    state: GroupState
    created_by: str
    created_at: datetime

    @property
    def dataset(self) -> Dataset:
        """The dataset for decisions about reading; who may write it, control knows."""
        return Dataset(
            self.group.project,
            self.group.dataset,
            DatasetKind.FEATURE_GROUP,
            DatasetPermission.EDITABLE_BY_OWNERS,
            self.partitions,
            {},
            self.created_by,
        )


@dataclass(frozen=True)
class TrainingDataset:
    """Which features a training set was made of, at which versions of their tables: enough to make it again."""

    id: str
    project: ProjectName
    label_time: str
    features: tuple[Mapping[str, Any], ...]
    snapshot: Mapping[str, int]
    labels: int
    created_by: str
    created_at: datetime


class Repository:
    """The catalogue's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield a transaction that is committed when the block ends well and undone when it raises.

        Raises `Unavailable` when the database does not answer in time.
        """
        with self.connection() as connection:
            yield Transaction(connection)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection in a transaction, for the other tables of the catalogue (`featurestore.models`)."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise Unavailable("the catalogue's database does not answer", reason=str(error.orig)) from error


class Transaction:
    """What can be asked of and done to the catalogue; good for the one `with` block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def groups(self, project: ProjectName | None = None) -> list[StoredGroup]:
        """Return every version in every state, of one project or of all, by name and version."""
        query = select(feature_groups).order_by(feature_groups.c.project, feature_groups.c.name, feature_groups.c.version)
        if project is not None:
            query = query.where(feature_groups.c.project == project)
        return [_stored_group(row) for row in self._connection.execute(query)]

    def group(self, project: ProjectName, name: GroupName, version: int) -> StoredGroup | None:
        """Return one version in whatever state, or None."""
        row = self._connection.execute(select(feature_groups).where(*_is(project, name, version))).one_or_none()
        return None if row is None else _stored_group(row)

    def newest_version(self, project: ProjectName, name: GroupName) -> int:
        """Return the highest version that ever was, 0 where there was none."""
        found = select(func.max(feature_groups.c.version)).where(feature_groups.c.project == project, feature_groups.c.name == name)
        return self._connection.execute(found).scalar() or 0

    def add_group(self, stored: StoredGroup) -> None:
        """Add a version; raises `Conflict` if it is there, in whatever state."""
        try:
            self._connection.execute(
                feature_groups.insert().values(
                    project=stored.group.project,
                    name=stored.group.name,
                    version=stored.group.version,
                    document=stored.group.document(),
                    partitions=stored.partitions,
                    state=stored.state.value,
                    created_by=stored.created_by,
                    created_at=stored.created_at,
                )
            )
        except IntegrityError as error:
            raise Conflict(f"feature group {stored.group.name} version {stored.group.version} exists already") from error

    def set_group_state(self, project: ProjectName, name: GroupName, version: int, state: GroupState) -> None:
        """Move a version on in its life."""
        self._connection.execute(update(feature_groups).where(*_is(project, name, version)).values(state=state.value))

    def add_training_dataset(self, made: TrainingDataset) -> None:
        """Remember what a training set was made of."""
        self._connection.execute(
            training_datasets.insert().values(
                id=made.id,
                project=made.project,
                label_time=made.label_time,
                features=[dict(each) for each in made.features],
                snapshot=dict(made.snapshot),
                labels=made.labels,
                created_by=made.created_by,
                created_at=made.created_at,
            )
        )

    def training_datasets(self, project: ProjectName, *, limit: int = 100) -> list[TrainingDataset]:
        """Return the project's training sets, the newest first."""
        query = (
            select(training_datasets)
            .where(training_datasets.c.project == project)
            .order_by(training_datasets.c.created_at.desc(), training_datasets.c.id)
            .limit(limit)
        )
        return [_training_dataset(row) for row in self._connection.execute(query)]

    def training_dataset(self, project: ProjectName, identifier: str) -> TrainingDataset | None:
        """Return one training set of the project, or None."""
        query = select(training_datasets).where(training_datasets.c.project == project, training_datasets.c.id == identifier)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _training_dataset(row)


def _is(project: ProjectName, name: GroupName, version: int) -> tuple[Any, Any, Any]:
    return feature_groups.c.project == project, feature_groups.c.name == name, feature_groups.c.version == version


def _stored_group(row: Row[Any]) -> StoredGroup:
    return StoredGroup(
        group=group_from_document(row.project, row.document),
        partitions=row.partitions,
        state=GroupState(row.state),
        created_by=row.created_by,
        created_at=row.created_at,
    )


def _training_dataset(row: Row[Any]) -> TrainingDataset:
    return TrainingDataset(
        id=row.id,
        project=ProjectName(row.project),
        label_time=row.label_time,
        features=tuple(row.features),
        snapshot=row.snapshot,
        labels=row.labels,
        created_by=row.created_by,
        created_at=row.created_at,
    )
