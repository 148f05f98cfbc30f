"""Registering models and their files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurestore.models.repository import Model, ModelFile, Models
from featurestore.repository import Repository, Transaction
from tenancy.access import AccessJournal
from tenancy.model import Principal
from tenancy.policy import Action, decide
from wardstream.clock import Clock
from wardstream.errors import Invalid, LimitExceeded, NotFound
from wardstream.names import ProjectName, parse_group, parse_project

logger = logging.getLogger(__name__)

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_BYTES = 256 << 20
_MOST_METRICS = 16_384


class ModelService:
    """The project's models. Files lie under `<warehouse>/<project>/models/`: no feature group's folder is called so."""

    def __init__(self, *, repository: Repository, warehouse: Path, journal: AccessJournal, clock: Clock) -> None:
        self._repository = repository
        self._warehouse = warehouse
        self._journal = journal
        self._clock = clock

    def models(self, principal: Principal, project: str) -> list[Model]:
        """Return every version by name, the newest version last."""
        owner = self._allowed(principal, project, Action.MODEL_DESCRIBE)
        with self._repository.connection() as connection:
            return Models(connection).all(owner)

    def model(self, principal: Principal, project: str, name: str, version: int) -> Model:
        """Return one version; raises `NotFound`."""
        owner = self._allowed(principal, project, Action.MODEL_DESCRIBE)
        return self._model(owner, name, version)

    def register(
        self,
        principal: Principal,
        project: str,
        name: str,
        *,
        metrics: Mapping[str, Any],
        description: str = "",
        training_dataset: str | None = None,
    ) -> Model:
        """Add the next version of a model; every call makes one. Raises `NotFound` for an unknown training set."""
        owner = self._allowed(principal, project, Action.MODEL_REGISTER)
        known = parse_group(name)
        if len(json.dumps(metrics)) > _MOST_METRICS:
            raise LimitExceeded(f"metrics are at most {_MOST_METRICS} characters of JSON: keep curves in a file of the model")
        with self._repository.connection() as connection:
            if training_dataset is not None and Transaction(connection).training_dataset(owner, training_dataset) is None:
                raise NotFound(f"training set {training_dataset[:40]!a} of project {owner} is not there")
            found = Models(connection)
            model = Model(
                project=owner,
                name=known,
                version=found.newest_version(owner, known) + 1,
                description=description,
                metrics=metrics,
                training_dataset=training_dataset,
                created_by=principal.name,
                created_at=self._clock.now(),
            )
            found.add(model)
        logger.info("model registered", extra={"project": owner, "model": known, "version": model.version, "principal": principal.name})
        return model

    def put_file(self, principal: Principal, project: str, name: str, version: int, file: str, content: bytes) -> ModelFile:
        """Store a file of a model, whole or not at all, in the place of one of that name."""
        owner = self._allowed(principal, project, Action.MODEL_REGISTER)
        if len(content) > MOST_BYTES:
            raise LimitExceeded(f"a file of a model is at most {MOST_BYTES >> 20} MiB, got {len(content)} bytes")
        model = self._model(owner, name, version)
        place = self._place(model, file)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._repository.connection() as connection:
            Models(connection).begin_file(model, file)
        temporary = place.with_name(f".{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as stored:
                stored.write(content)
                stored.flush()
                os.fsync(stored.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        done = ModelFile(file, len(content), hashlib.sha256(content).hexdigest())
        with self._repository.connection() as connection:
            Models(connection).complete_file(model, done)
        return done

    def file(self, principal: Principal, project: str, name: str, version: int, file: str) -> Path:
        """Return where a complete file lies; for those who may read what it may have learnt by heart."""
        owner = self._allowed(principal, project, Action.MODEL_READ, f"{parse_group(name)}_{version}")
        model = self._model(owner, name, version)
        if file not in {each.name for each in model.files}:
            raise NotFound(f"file {file[:100]!a} of model {model.name} version {version} is not there")
        return self._place(model, file)

    def _allowed(self, principal: Principal, project: str, action: Action, model: str | None = None) -> ProjectName:
        owner = parse_project(project)
        decision = decide(principal, action, project=owner)
        self._journal.require(decision, principal, action, surface="models", project=owner, dataset=model, thing=f"project {owner}")
        return owner

    def _model(self, project: ProjectName, name: str, version: int) -> Model:
        known = parse_group(name)
        with self._repository.connection() as connection:
            found = next((model for model in Models(connection).all(project, known) if model.version == version), None)
        if found is None:
            raise NotFound(f"model {known} version {version} of project {project} is not there")
        return found

    def _place(self, model: Model, file: str) -> Path:
        if not _FILE.fullmatch(file):
            raise Invalid(f"{file[:100]!a} is not a file name: letters, digits, '.', '_' and '-', beginning with a letter or digit")
        return self._warehouse / model.project / "models" / f"{model.name}_{model.version}" / file
