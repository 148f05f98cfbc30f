"""Topics of a project: planned, applied, written to as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wardstream.client.transport import Transport, path_part

Changes = list[dict[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """A topic or feature group of the project, with what the broker says of its topic."""

    name: str
    kind: str
    topic: str
    permission: str
    partitions: int
    config: dict[str, str]


class Topics:
    """What a project's members do with topics."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(project)}"

    def list(self) -> list[Dataset]:
        """Return the project's datasets by name."""
        return [
            Dataset(found["name"], found["kind"], found["topic"], found["permission"], found["partitions"], found["config"])
            for found in self._transport.json("GET", f"{self._path}/datasets")
        ]

    def plan(self, specification: str) -> Changes:
        """Return the changes that `apply` would make of a topics.yaml text; empty when there is nothing to do."""
        changes: Changes = self._transport.json("POST", f"{self._path}/topics/plan", json={"specification": specification})
        return changes

    def apply(self, specification: str) -> Changes:
        """Make the topics as a topics.yaml text says and return the changes made; applying again changes nothing."""
        changes: Changes = self._transport.json(
            "POST", f"{self._path}/topics/apply", json={"specification": specification}, timeout_seconds=120
        )
        return changes

    def produce(self, dataset: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Write JSON records by the topic's newest schema; returns {"accepted": n, "rejected": [{"index", "reason"}]}.

        Returns after the broker acknowledged all accepted records.
        """
        report: dict[str, Any] = self._transport.json(
            "POST", f"{self._path}/topics/{path_part(dataset)}/records", json={"records": list(records)}
        )
        return report
