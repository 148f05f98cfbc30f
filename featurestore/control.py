"""What the query process asks of control: datasets in the caller's name, credentials of the online store in its own."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from tenancy.grants import Recent
from tenancy.model import Dataset, DatasetKind, DatasetPermission
from wardstream.client.transport import Transport
from wardstream.errors import NotFound, WardstreamError
from wardstream.names import DatasetName, ProjectName


@dataclass(frozen=True)
class StoreCredentials:
    """The reading user of one project's online rows, and the key that turns identifiers into pseudonyms."""

    user: str
    password: str
    pseudonym_key: bytes


class Control:
    """Control's routes; thread-safe. `grant` is always the caller's own: this process has no right to change anything."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def datasets(self, grant: str, project: ProjectName) -> list[Dataset]:
        """Return the datasets that the caller may know of."""
        return [
            _dataset(project, found) for found in self._transport.json("GET", f"/v1/projects/{project}/datasets", headers=_bearer(grant))
        ]

    def dataset(self, grant: str, project: ProjectName, name: DatasetName) -> Dataset | None:
        """Return one dataset, or None where there is none that the caller may know of."""
        return next((found for found in self.datasets(grant, project) if found.name == name), None)

    def create_group_dataset(
        self, grant: str, project: ProjectName, name: DatasetName, *, partitions: int, permission: DatasetPermission
    ) -> Dataset:
        """Make topic and rights of a feature group; a dataset of that name and kind that is there already is returned as it is."""
        request = {
            "name": name,
            "kind": DatasetKind.FEATURE_GROUP.value,
            "partitions": partitions,
            "config": {},
            "permission": permission.value,
        }
        try:
            found = self._transport.json("POST", f"/v1/projects/{project}/datasets", json=request, headers=_bearer(grant))
        except WardstreamError as error:
            # Made by an attempt that did not come to its end, perhaps with other partitions or since altered.
            known = self.dataset(grant, project, name) if error.status == 409 else None
            if known is None or known.kind is not DatasetKind.FEATURE_GROUP:
                raise
            return known
        return _dataset(project, found)

    def delete_dataset(self, grant: str, project: ProjectName, name: DatasetName) -> None:
        """Remove rights and topic; harmless where they are gone."""
        try:
            self._transport.json("DELETE", f"/v1/projects/{project}/datasets/{name}", headers=_bearer(grant))
        except NotFound:
            if self.dataset(grant, project, name) is not None:
                raise

    def store_credentials(self, grant: str, project: ProjectName) -> StoreCredentials:
        """Return what the project's online rows are read with."""
        path = f"/internal/v1/projects/{project}/storage-credentials"
        found: Mapping[str, Any] = self._transport.json("GET", path, headers=_bearer(grant))
        return StoreCredentials(found["redis_user"], found["redis_password"], base64.b64decode(found["pseudonym_key"]))

    def report_usage(self, grant: str, project: ProjectName, used: Mapping[str, int]) -> dict[str, int | None]:
        """Tell what the project uses and return its limits."""
        found = self._transport.json("POST", "/internal/v1/usage", json={"used": {project: dict(used)}}, headers=_bearer(grant))
        return dict(found[project])

    def recent(self) -> Recent:
        """Return who was removed and which grants became void within the life of a grant."""
        return Recent.of(self._transport.json("GET", "/internal/v1/revocations"))


class SubjectDatasets:
    """Tells the schema registry which permission the dataset behind a subject has: asked with the caller's own grant, kept a moment."""

    # A permission that a data owner changes counts for registrations after this long.
    _KEEP_SECONDS = 5.0

    def __init__(self, control: Control, grant_of: Callable[[Request], str]) -> None:
        self._control = control
        self._grant_of = grant_of
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ProjectName, DatasetName], tuple[float, Dataset | None]] = {}

    def dataset(self, request: Request, project: ProjectName, name: DatasetName) -> Dataset | None:
        """Return the dataset as control knows it, or None."""
        grant = self._grant_of(request)
        key, now = (grant, project, name), time.monotonic()
        with self._lock:
            self._kept = {each: kept for each, kept in self._kept.items() if kept[0] > now}
            if key in self._kept:
                return self._kept[key][1]
        found = self._control.dataset(grant, project, name)
        with self._lock:
            self._kept[key] = (now + self._KEEP_SECONDS, found)
        return found


def _dataset(project: ProjectName, found: Mapping[str, Any]) -> Dataset:
    return Dataset(
        project,
        DatasetName(found["name"]),
        DatasetKind(found["kind"]),
        DatasetPermission(found["permission"]),
        int(found["partitions"]),
        dict(found["config"]),
        str(found.get("created_by", "")),
        frozenset(found.get("processors", ())),
    )


def _bearer(grant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {grant}"}
