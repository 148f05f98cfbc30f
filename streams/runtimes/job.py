"""What a worker program is told: one file, read inside the sandbox or by the submitting process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streams.model import ProcessorSpec
from wardstream.errors import Invalid


@dataclass(frozen=True)
class Connection:
    """How a processor reaches the platform, with its own service's certificate. Paths are those that the worker program sees.

    `bundle_file` holds key and chain in one file, as Java wants them; `registry_url` is the INSIDE door's /registry.
    """

    bootstrap_servers: str
    ca_file: str
    certificate_file: str
    key_file: str
    registry_url: str
    bundle_file: str = ""


@dataclass(frozen=True)
class WorkerJob:
    """A processor and its connection."""

    spec: ProcessorSpec
    connection: Connection

    def to_json(self) -> str:
        """Return the text of the file that `read_job` reads."""
        return json.dumps({"spec": self.spec.to_json(), "connection": asdict(self.connection)}, indent=1)


def job_from(values: Mapping[str, Any]) -> WorkerJob:
    """Return the job that `WorkerJob.to_json` described; raises `Invalid`."""
    try:
        return WorkerJob(ProcessorSpec.from_json(values["spec"]), Connection(**values["connection"]))
    except (KeyError, TypeError) as error:
        raise Invalid(f"not a worker's job: {type(error).__name__} {error}") from error


def read_job(path: Path) -> WorkerJob:
    """Return the job in the file `path`; raises `Invalid`."""
    try:
        return job_from(json.loads(path.read_text()))
    except ValueError as error:
        raise Invalid(f"{path.name} is not JSON: {error}") from error
