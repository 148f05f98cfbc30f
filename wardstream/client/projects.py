"""Projects and their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wardstream.client.features import FeatureStore
from wardstream.client.programs import Processors, Programs
from wardstream.client.records import kafka_configuration
from wardstream.client.shares import Shares
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
    columns: dict[str, tuple[str, ...]]
    """Of a restricted member: dataset -> the columns that it reads."""
    custom_role: str | None
    person: str | None
    expires_at: str | None


@dataclass(frozen=True)
class Limit:
    """One quota of a project: `limit` None is no bound; `used` None is not known yet, or a rate that the broker enforces."""

    name: str
    limit: int | None
    used: int | None


@dataclass(frozen=True)
class CustomRole:
    """A role of a project's own: `base` less the actions `without`."""

    name: str
    base: str
    without: tuple[str, ...]


@dataclass(frozen=True)
class MemberAltered:
    """A member after a change; `token` is there where the change ended its keys and certificates."""

    principal: str
    token: str | None
    settled: bool


@dataclass(frozen=True)
class ProjectAltered:
    """A project's change; those in `renewed` lost their certificates with it and need a new token each."""

    renewed: tuple[str, ...]
    settled: bool


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

    def __init__(
        self,
        transport: Transport,
        name: str,
        description: str = "",
        *,
        sandboxed: bool = True,
        author: str | None = None,
        state: str = "active",
    ) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(name)}"
        self.name = name
        self.description = description
        self.sandboxed = sandboxed
        self.author = author
        self.state = state
        self.shares = Shares(transport, name)
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

    def quota(self) -> list[Limit]:
        """Return what the project may have, and what is used of it."""
        return [Limit(**found) for found in self._transport.json("GET", f"{self._path}/quota")]

    def set_quota(self, limits: Mapping[str, int | None]) -> list[Limit]:
        """Set quotas, None for no bound (administrators); the others stay. A limit of n lets n be there."""
        return [Limit(**found) for found in self._transport.json("PATCH", f"{self._path}/quota", json={"limits": dict(limits)})]

    def members(self) -> list[Member]:
        """Return the members, removed ones included, by name."""
        return [_member(found) for found in self._transport.json("GET", f"{self._path}/members")]

    def add_member(
        self,
        name: str,
        role: str,
        *,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        columns: Mapping[str, Sequence[str]] | None = None,
        person: str | None = None,
        expires_at: datetime | None = None,
    ) -> Enrolment:
        """Add a person, device or service and return the token that they enrol with.

        `role` is one of the platform's or the project's own. `reads` and `writes` name datasets, and count for devices,
        services and restricted members; `columns` (dataset -> columns) for restricted ones. `person` is the account that
        logs in to the membership, which ends by itself at `expires_at`. The member's rights hold on every broker when the
        answer is `settled`; if it is not, the platform goes on until they do.
        """
        body = {
            "name": name,
            "role": role,
            "reads": list(reads),
            "writes": list(writes),
            "columns": _columns(columns or {}),
            "person": person,
            "expires_at": expires_at.isoformat() if expires_at is not None else None,
        }
        added = self._transport.json("POST", f"{self._path}/members", json=body)
        return Enrolment(added["member"]["principal"], added["enrolment_token"], added["expires_at"], added["settled"])

    def alter_member(
        self,
        name: str,
        *,
        role: str | None = None,
        reads: Sequence[str] | None = None,
        writes: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> MemberAltered:
        """Change a member's role or lists (owners); what is left out stays. What it may no longer do ends everywhere."""
        given = {"role": role, "reads": reads, "writes": writes, "columns": _columns(columns) if columns is not None else None}
        body = {key: value for key, value in given.items() if value is not None}
        return _altered(self._transport.json("PATCH", f"{self._path}/members/{path_part(name)}", json=body))

    def certificates(self) -> list[dict[str, Any]]:
        """Return the certificates of the project's members that have not expired, the newest first (owners)."""
        found: list[dict[str, Any]] = self._transport.json("GET", f"{self._path}/certificates")
        return found

    def lost_key(self, name: str, *, reason: str = "lost") -> MemberAltered:
        """End a member's lost or stolen key everywhere (owners); the member stays, as another principal, and enrols anew."""
        return _altered(self._transport.json("POST", f"{self._path}/members/{path_part(name)}/lost-key", json={"reason": reason}))

    def new_token(self, name: str) -> Enrolment:
        """Return a new enrolment token for an existing member, for instance after the first one expired."""
        made = self._transport.json("POST", f"{self._path}/members/{path_part(name)}/enrolment-token")
        return Enrolment(made["member"]["principal"], made["enrolment_token"], made["expires_at"], made["settled"])

    def remove_member(self, name: str) -> Removal:
        """End a membership: open consumers and producers, grants and programs of it included."""
        removed = self._transport.json("DELETE", f"{self._path}/members/{path_part(name)}")
        return Removal(removed["settled"], removed["seconds"])

    def alter(self, *, description: str | None = None, sandboxed: bool | None = None) -> ProjectAltered:
        """Change the project's description or sandbox (owners)."""
        body = {key: value for key, value in (("description", description), ("sandboxed", sandboxed)) if value is not None}
        done = self._transport.json("PATCH", self._path, json=body)
        return ProjectAltered(tuple(done["renewed"]), done["settled"])

    def hand_over(self, to: str) -> None:
        """Make another data owner the author (the author only)."""
        self._transport.json("POST", f"{self._path}/hand-over", json={"to": to})

    def close(self) -> Removal:
        """End every membership and share of the project, one's own last (the author only); its data stay until they are erased."""
        done = self._transport.json("POST", f"{self._path}/close", json={"confirm": self.name}, timeout_seconds=300)
        return Removal(done["settled"], done["seconds"])

    def activity(self, *, limit: int = 100) -> list[dict[str, str]]:
        """Return what changed in the project lately, oldest first."""
        found: list[dict[str, str]] = self._transport.json("GET", f"{self._path}/activity", params={"limit": limit})
        return found

    def roles(self) -> list[CustomRole]:
        """Return the project's own roles, by name."""
        return [
            CustomRole(found["name"], found["base"], tuple(found["without"]))
            for found in self._transport.json("GET", f"{self._path}/roles")
        ]

    def put_role(self, name: str, base: str, without: Sequence[str]) -> Removal:
        """Make a role that is `base` less some actions, or change it for all who have it (owners)."""
        done = self._transport.json("PUT", f"{self._path}/roles/{path_part(name)}", json={"base": base, "without": list(without)})
        return Removal(done["settled"], done["seconds"])

    def remove_role(self, name: str) -> None:
        """Remove a role that nobody has (owners)."""
        self._transport.json("DELETE", f"{self._path}/roles/{path_part(name)}")

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
        return Project(
            self._transport, found["name"], found["description"], sandboxed=found["sandboxed"], author=found["author"], state=found["state"]
        )


def _member(found: dict[str, Any]) -> Member:
    return Member(
        name=found["name"],
        role=found["role"],
        principal=found["principal"],
        state=found["state"],
        reads=tuple(found["reads"]),
        writes=tuple(found["writes"]),
        columns={part["dataset"]: tuple(part["names"]) for part in found["columns"]},
        custom_role=found["custom_role"],
        person=found["person"],
        expires_at=found["expires_at"],
    )


def _altered(found: dict[str, Any]) -> MemberAltered:
    return MemberAltered(found["member"]["principal"], found["enrolment_token"], found["settled"])


def _columns(parts: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [{"dataset": dataset, "names": list(names)} for dataset, names in parts.items()]
