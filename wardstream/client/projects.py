"""Projects and their members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wardstream.client.features import FeatureStore
from wardstream.client.programs import Processors, Programs
from wardstream.client.records import kafka_configuration
from wardstream.client.topics import Topics
from wardstream.client.transport import Transport, path_part


@dataclass(frozen=True)
class Member:
    """One membership: a person, device or service in a project."""

    name: str
    role: str
    principal: str
    state: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Enrolment:
    """A token that gives its holder, once, a certificate or an API key in a member's name; shown here and never again.

    `settled`: the member's rights hold on every broker.
    """

    principal: str
    token: str
    expires_at: str
    settled: bool


@dataclass(frozen=True)
class Removal:
    """What happened when a member was removed; `settled`: every broker and process shows it."""

    settled: bool
    seconds: float


class Project:
    """One project as its member sees it."""

    def __init__(self, transport: Transport, name: str, description: str = "", *, sandboxed: bool = True) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(name)}"
        self.name = name
        self.description = description
        self.sandboxed = sandboxed
        self.topics = Topics(transport, name)
        self.processors = Processors(transport, name)
        self.programs = Programs(transport, name)

    def __repr__(self) -> str:
        return f"Project({self.name!r})"

    def get_feature_store(self) -> FeatureStore:
        """Return the project's feature store."""
        return FeatureStore(self._transport, self.name)

    def kafka_configuration(self) -> dict[str, str]:
        """Return what a confluent-kafka client needs to reach the project's topics in the caller's name; see `kafka_configuration`."""
        return kafka_configuration(self._transport)

    def members(self) -> list[Member]:
        """Return the members, removed ones included, by name."""
        return [_member(found) for found in self._transport.json("GET", f"{self._path}/members")]

    def add_member(self, name: str, role: str, *, reads: Sequence[str] = (), writes: Sequence[str] = ()) -> Enrolment:
        """Add a person, device or service and return the token that they enrol with.

        `reads` and `writes` name datasets, and count for devices and services alone. The member's rights hold on
        every broker when the answer is `settled`; if it is not, the platform goes on until they do.
        """
        added = self._transport.json(
            "POST", f"{self._path}/members", json={"name": name, "role": role, "reads": list(reads), "writes": list(writes)}
        )
        return Enrolment(added["member"]["principal"], added["enrolment_token"], added["expires_at"], added["settled"])

    def new_token(self, name: str) -> Enrolment:
        """Return a new enrolment token for an existing member, for instance after the first one expired."""
        made = self._transport.json("POST", f"{self._path}/members/{path_part(name)}/enrolment-token")
        return Enrolment(made["member"]["principal"], made["enrolment_token"], made["expires_at"], made["settled"])

    def remove_member(self, name: str) -> Removal:
        """End a membership: open consumers and producers, grants and programs of it included."""
        removed = self._transport.json("DELETE", f"{self._path}/members/{path_part(name)}")
        return Removal(removed["settled"], removed["seconds"])

    def reconciliation(self) -> list[dict[str, Any]]:
        """Return for each feature group whether its tables are exactly what its topic says."""
        found: list[dict[str, Any]] = self._transport.json("GET", f"{self._path}/reconciliation", timeout_seconds=120)
        return found

    def models(self) -> list[dict[str, Any]]:
        """Return the registered models, newest version last."""
        found: list[dict[str, Any]] = self._transport.json("GET", f"{self._path}/models")
        return found


class Projects:
    """All projects that the caller may know of."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Project]:
        """Return them by name."""
        return [self._project(found) for found in self._transport.json("GET", "/api/v1/projects")]

    def get(self, name: str) -> Project:
        """Return one; raises `NotFound` also when the caller may not know that it exists."""
        return self._project(self._transport.json("GET", f"/api/v1/projects/{path_part(name)}"))

    def create(self, name: str, *, owner: str, description: str = "", sandboxed: bool = True) -> Enrolment:
        """Create a project with its first data owner and return the owner's enrolment token (administrators only)."""
        made = self._transport.json(
            "POST", "/api/v1/projects", json={"name": name, "owner": owner, "description": description, "sandboxed": sandboxed}
        )
        return Enrolment(f"{name}__{owner}", made["owner_token"], made["expires_at"], made["settled"])

    def _project(self, found: dict[str, Any]) -> Project:
        return Project(self._transport, found["name"], found["description"], sandboxed=found["sandboxed"])


def _member(found: dict[str, Any]) -> Member:
    return Member(found["name"], found["role"], found["principal"], found["state"], tuple(found["reads"]), tuple(found["writes"]))
