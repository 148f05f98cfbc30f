"""Models in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from featurestore.tables import model_files, models
from wardstream.names import ProjectName


@dataclass(frozen=True)
class ModelFile:
    """One file of a model, as it was when it was complete."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """One version of a model. `training_dataset` names what it was trained on, where the catalogue knows that."""

    project: ProjectName
    name: str
    version: int
    description: str
    metrics: Mapping[str, Any]
    training_dataset: str | None
    created_by: str
    created_at: datetime
    files: tuple[ModelFile, ...] = ()


class Models:
    """What can be asked of and done to models; good for one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self, project: ProjectName, name: str | None = None) -> list[Model]:
        """Return every version by name, the newest version last."""
        query = select(models).where(models.c.project == project).order_by(models.c.name, models.c.version)
        if name is not None:
            query = query.where(models.c.name == name)
        files: dict[tuple[str, int], list[ModelFile]] = {}
        complete = select(model_files).where(model_files.c.project == project, model_files.c.complete).order_by(model_files.c.name)
        for row in self._connection.execute(complete):
            files.setdefault((row.model, row.version), []).append(ModelFile(row.name, row.size, row.sha256))
        return [_model(row, files.get((row.name, row.version), [])) for row in self._connection.execute(query)]

    def newest_version(self, project: ProjectName, name: str) -> int:
        """Return the highest version, 0 where there is none."""
        found = select(func.max(models.c.version)).where(models.c.project == project, models.c.name == name)
        return self._connection.execute(found).scalar() or 0

    def add(self, model: Model) -> None:
        """Add a version without files."""
        self._connection.execute(
            models.insert().values(
                project=model.project,
                name=model.name,
                version=model.version,
                description=model.description,
                metrics=dict(model.metrics),
                training_dataset=model.training_dataset,
                created_by=model.created_by,
                created_at=model.created_at,
            )
        )

    def begin_file(self, model: Model, name: str) -> None:
        """Note that a file is being stored; one of that name that was complete is no longer."""
        place = (
            model_files.c.project == model.project,
            model_files.c.model == model.name,
            model_files.c.version == model.version,
            model_files.c.name == name,
        )
        self._connection.execute(delete(model_files).where(*place))
        self._connection.execute(
            model_files.insert().values(
                project=model.project, model=model.name, version=model.version, name=name, size=0, sha256="", complete=False
            )
        )

    def complete_file(self, model: Model, file: ModelFile) -> None:
        """Note that the file lies whole in its place."""
        self._connection.execute(
            update(model_files)
            .where(
                model_files.c.project == model.project,
                model_files.c.model == model.name,
                model_files.c.version == model.version,
                model_files.c.name == file.name,
            )
            .values(size=file.size, sha256=file.sha256, complete=True)
        )


def _model(row: Row[Any], files: list[ModelFile]) -> Model:
    return Model(
        project=ProjectName(row.project),
        name=row.name,
        version=row.version,
        description=row.description,
        metrics=row.metrics,
        training_dataset=row.training_dataset,
        created_by=row.created_by,
        created_at=row.created_at,
        files=tuple(files),
    )
