"""Topics of a project brought to what a specification says: describe, plan, apply. Applying twice changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from tenancy.model import DatasetKind, DatasetPermission
from topics.model import TopicSpec, TopicState
from topics.plan import AddPartitions, AlterConfig, AlterPermission, Change, CreateTopic, RegisterSchema, plan_all
from wardstream.client.transport import Transport
from wardstream.errors import Conflict, NotFound
from wardstream.names import DatasetName, ProjectName, parse_any_dataset, topic_of, value_subject

logger = logging.getLogger(__name__)

# A change of rights waits until every broker shows it.
_CHANGE_SECONDS = 60.0


class Control(Protocol):
    """Datasets of a project, in the name of one caller."""

    def datasets(self, project: ProjectName) -> list[TopicState]:
        """Return those that the caller may know of, without their schemas."""
        ...

    def create(self, project: ProjectName, spec: TopicSpec) -> None:
        """Make a dataset; repeating it with equal settings does no harm."""
        ...

    def alter(
        self,
        project: ProjectName,
        name: DatasetName,
        *,
        partitions: int | None = None,
        config: Mapping[str, str] | None = None,
        permission: DatasetPermission | None = None,
    ) -> None:
        """Change what is given; `config` replaces the whole of it."""
        ...


class Subjects(Protocol):
    """Schemas of subjects, in the name of one caller."""

    def newest(self, subject: str) -> str | None:
        """Return the text of the newest version, or None where there is none."""
        ...

    def is_newest(self, subject: str, schema: str) -> bool:
        """Tell whether the newest version equals `schema`, however it is written."""
        ...

    def problems(self, subject: str, schema: str) -> list[str]:
        """Return why `schema` could not be registered."""
        ...

    def register(self, subject: str, schema: str) -> None:
        """Make `schema` the newest version."""
        ...


class TopicService:
    """Plans and applies for the one caller that `control` and `subjects` act for."""

    def __init__(self, *, control: Control, subjects: Subjects) -> None:
        self._control = control
        self._subjects = subjects

    def plan(self, project: ProjectName, wanted: Sequence[TopicSpec]) -> list[Change]:
        """Return the changes that `apply` would make, in order; nothing is changed.

        Raises `UnsafeChange` or `Conflict` where one of them may not be made, an incompatible schema included.
        """
        by_name = {spec.name: spec for spec in wanted}
        found = [self._with_schema(project, state, by_name.get(state.name)) for state in self._control.datasets(project)]
        changes = plan_all(wanted, found)
        problems = [
            f"{change.topic}: {problem}"
            for change in changes
            if isinstance(change, RegisterSchema)
            for problem in self._subjects.problems(_subject(project, change.topic), change.schema)
        ]
        if problems:
            raise Conflict(f"a schema cannot follow the one that its topic has: {'; '.join(problems)}")
        return changes

    def apply(self, project: ProjectName, wanted: Sequence[TopicSpec]) -> list[Change]:
        """Make the changes of the plan and return them; topics that `wanted` does not name are left alone.

        When one fails, those before it stay made: applying again makes the rest.
        """
        changes = self.plan(project, wanted)
        for change in changes:
            self._make(project, change)
        logger.info("topics applied", extra={"project": project, "changes": len(changes)})
        return changes

    def _with_schema(self, project: ProjectName, state: TopicState, spec: TopicSpec | None) -> TopicState:
        if spec is None or spec.schema is None:
            return state
        subject = _subject(project, state.name)
        text = spec.schema if self._subjects.is_newest(subject, spec.schema) else self._subjects.newest(subject)
        return TopicState(state.name, state.partitions, state.permission, state.config, text, state.kind)

    def _make(self, project: ProjectName, change: Change) -> None:
        if isinstance(change, CreateTopic):
            self._control.create(project, change.spec)
        elif isinstance(change, AddPartitions):
            self._control.alter(project, change.topic, partitions=change.total)
        elif isinstance(change, AlterConfig):
            self._control.alter(project, change.topic, config=change.config)
        elif isinstance(change, AlterPermission):
            self._control.alter(project, change.topic, permission=change.permission)
        else:
            self._subjects.register(_subject(project, change.topic), change.schema)


class ControlHttp:
    """`Control` over the datasets' routes; `grant` is the caller's."""

    def __init__(self, transport: Transport, *, grant: str) -> None:
        self._transport = transport
        self._headers = {"Authorization": f"Bearer {grant}"}

    def datasets(self, project: ProjectName) -> list[TopicState]:
        """Return the project's datasets."""
        return [
            TopicState(
                parse_any_dataset(found["name"]),
                int(found["partitions"]),
                DatasetPermission(found["permission"]),
                dict(found["config"]),
                kind=DatasetKind(found["kind"]),
            )
            for found in self._transport.json("GET", f"/v1/projects/{project}/datasets", headers=self._headers)
        ]

    def create(self, project: ProjectName, spec: TopicSpec) -> None:
        """Make a dataset."""
        body = {
            "name": spec.name,
            "kind": DatasetKind.TOPIC.value,
            "partitions": spec.partitions,
            "config": dict(spec.config),
            "permission": spec.permission.value,
        }
        self._send("POST", f"/v1/projects/{project}/datasets", body)

    def alter(
        self,
        project: ProjectName,
        name: DatasetName,
        *,
        partitions: int | None = None,
        config: Mapping[str, str] | None = None,
        permission: DatasetPermission | None = None,
    ) -> None:
        """Change what is given."""
        body: dict[str, Any] = {
            "partitions": partitions,
            "config": None if config is None else dict(config),
            "permission": None if permission is None else permission.value,
        }
        given = {key: value for key, value in body.items() if value is not None}
        self._send("PATCH", f"/v1/projects/{project}/datasets/{name}", given)

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        self._transport.request(method, path, json=body, headers=self._headers, timeout_seconds=_CHANGE_SECONDS)


class SubjectsHttp:
    """`Subjects` over the registry's routes below `/registry`; `grant` is the caller's."""

    def __init__(self, transport: Transport, *, grant: str) -> None:
        self._transport = transport
        self._headers = {"Authorization": f"Bearer {grant}", "Accept": "application/vnd.schemaregistry.v1+json"}

    def newest(self, subject: str) -> str | None:
        """Return the newest version's text."""
        found = self._latest(subject)
        return None if found is None else str(found["schema"])

    def is_newest(self, subject: str, schema: str) -> bool:
        """Tell whether the newest version equals `schema`."""
        latest = self._latest(subject)
        if latest is None:
            return False
        try:
            known = self._transport.json("POST", f"/registry/subjects/{quote(subject)}", json={"schema": schema}, headers=self._headers)
        except NotFound:
            return False
        return bool(known["version"] == latest["version"])

    def problems(self, subject: str, schema: str) -> list[str]:
        """Return why `schema` could not be registered."""
        path = f"/registry/compatibility/subjects/{quote(subject)}/versions"
        verdict = self._transport.json("POST", path, json={"schema": schema}, params={"verbose": True}, headers=self._headers)
        return [] if verdict["is_compatible"] else [str(message) for message in verdict["messages"]]

    def register(self, subject: str, schema: str) -> None:
        """Make `schema` the newest version."""
        path = f"/registry/subjects/{quote(subject)}/versions"
        self._transport.request("POST", path, json={"schema": schema}, headers=self._headers)

    def _latest(self, subject: str) -> Any:
        try:
            return self._transport.json("GET", f"/registry/subjects/{quote(subject)}/versions/latest", headers=self._headers)
        except NotFound:
            return None


def _subject(project: ProjectName, dataset: DatasetName) -> str:
    return value_subject(topic_of(project, dataset))
