"""What streams asks of control: in the caller's name with the caller's grant, or as a platform process for itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from streams.model import InternalTopic
from tenancy.grants import Recent
from wardstream.client.credentials import signing_request
from wardstream.client.transport import Transport
from wardstream.clock import SystemClock
from wardstream.errors import NotFound
from wardstream.names import DatasetName, MemberName, ProjectName
from wardstream.processes import write_private


@dataclass(frozen=True)
class StoreCredentials:
    """The writing user of one project's online rows, and the key that turns identifiers into pseudonyms."""

    user: str
    password: str
    pseudonym_key: bytes


@dataclass(frozen=True)
class Identity:
    """A certificate with the key that was made for it here, as PEM texts."""

    certificate: str
    key: str
    issued_at: datetime
    expires_at: datetime

    @property
    def renew_at(self) -> datetime:
        """Half of its life."""
        return self.issued_at + (self.expires_at - self.issued_at) / 2

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write certificate and key into `folder`, mode 0600, and return both files."""
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        write_private(certificate, self.certificate)
        write_private(key, self.key)
        return certificate, key


class Control:
    """Control's routes; thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def partitions(self, grant: str, project: ProjectName, dataset: DatasetName) -> int:
        """Return the partitions of a dataset that the caller may know of; raises `NotFound`."""
        for found in self._transport.json("GET", f"/v1/projects/{project}/datasets", headers=bearer(grant)):
            if found["name"] == dataset:
                return int(found["partitions"])
        raise NotFound(f"dataset {project}.{dataset} is not there")

    def projects(self) -> frozenset[ProjectName]:
        """Return the projects that are not closed."""
        return frozenset(ProjectName(found["name"]) for found in self._transport.json("GET", "/internal/v1/projects"))

    def put_service(
        self,
        grant: str,
        project: ProjectName,
        member: MemberName,
        *,
        reads: Sequence[DatasetName],
        writes: Sequence[DatasetName],
        internals: Sequence[InternalTopic],
    ) -> None:
        """Give the service exactly these rights, in the caller's name; they hold when this returns."""
        request = {
            "reads": list(reads),
            "writes": list(writes),
            "internals": [{"name": each.name, "partitions": each.partitions, "config": dict(each.config)} for each in internals],
        }
        self._transport.json("PUT", f"/v1/projects/{project}/services/{member}", json=request, headers=bearer(grant))

    def execution_grant(self, grant: str, project: ProjectName, execution: str, run_as: str | None) -> str:
        """Return a grant for one execution, in the caller's name or the service's."""
        answer = self._transport.json(
            "POST", f"/v1/projects/{project}/execution-grants", json={"execution": execution, "run_as": run_as}, headers=bearer(grant)
        )
        return str(answer["grant"])

    def service_identity(self, project: ProjectName, member: MemberName, *, days: int = 7) -> Identity:
        """Return a new inside certificate of a service; its key is made here."""
        return self._identity(f"/internal/v1/services/{project}/{member}/certificate", {"days": days})

    def execution_identity(self, grant: str) -> Identity:
        """Return an inside certificate for one execution; its key is made here."""
        return self._identity("/internal/v1/executions/certificate", {"grant": grant})

    def store_credentials(self, project: ProjectName) -> StoreCredentials:
        """Return what the project's online rows are written with."""
        found: Mapping[str, Any] = self._transport.json("GET", f"/internal/v1/projects/{project}/storage-credentials")
        return StoreCredentials(found["redis_user"], found["redis_password"], base64.b64decode(found["pseudonym_key"]))

    def report_usage(self, project: ProjectName, used: Mapping[str, int]) -> dict[str, int | None]:
        """Tell what the project uses and return its limits."""
        found = self._transport.json("POST", "/internal/v1/usage", json={"used": {project: dict(used)}})
        return dict(found[project])

    def recent(self) -> Recent:
        """Return who was removed and which grants became void within the life of a grant."""
        return Recent.of(self._transport.json("GET", "/internal/v1/revocations"))

    def _identity(self, path: str, request: Mapping[str, object]) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        issued_at = SystemClock().now()
        answer = self._transport.json("POST", path, json={**request, "csr": signing_request(key)})
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Identity(answer["certificate"], pem.decode(), issued_at, datetime.fromisoformat(answer["expires_at"]))


def bearer(grant: str) -> dict[str, str]:
    """Return the header that carries a grant."""
    return {"Authorization": f"Bearer {grant}"}
