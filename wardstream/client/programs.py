"""Processors and programs of a project."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardstream.client.transport import Transport, path_part
from wardstream.errors import Invalid, Unavailable

_ENDED = ("succeeded", "failed", "stopped")


class Processors:
    """Streams into features: deployed once, restarted when they fall."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(project)}/processors"

    def deploy(self, name: str, *, kind: str, source: str, result: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Start a processor of a built-in kind from dataset `source` into feature group dataset `result`; deploying the same again changes nothing."""
        request = {"name": name, "kind": kind, "source": source, "result": result, "parameters": dict(parameters or {})}
        found: dict[str, Any] = self._transport.json("POST", self._path, json=request, timeout_seconds=120)
        return found

    def list(self) -> list[dict[str, Any]]:
        """Return the project's processors with their state."""
        found: list[dict[str, Any]] = self._transport.json("GET", self._path)
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """Return one processor's state, restarts and reason of its last failure."""
        found: dict[str, Any] = self._transport.json("GET", f"{self._path}/{path_part(name)}")
        return found

    def pause(self, name: str) -> dict[str, Any]:
        """Stop the processor; its position is kept."""
        found: dict[str, Any] = self._transport.json("POST", f"{self._path}/{path_part(name)}/pause")
        return found

    def resume(self, name: str) -> dict[str, Any]:
        """Start a paused processor where it stopped."""
        found: dict[str, Any] = self._transport.json("POST", f"{self._path}/{path_part(name)}/resume")
        return found

    def remove(self, name: str) -> None:
        """Stop the processor and take its rights; the result table stays."""
        self._transport.request("DELETE", f"{self._path}/{path_part(name)}")

    def logs(self, name: str, *, tail: int = 100) -> str:
        """Return the last lines of its log."""
        return self._transport.request("GET", f"{self._path}/{path_part(name)}/logs", params={"tail": tail}).text


@dataclass(frozen=True)
class Execution:
    """One run of a program."""

    id: str
    name: str
    principal: str
    state: str
    exit_code: int | None
    reason: str
    files: tuple[str, ...]


class Programs:
    """Code of the project, run in a sandbox without network but the broker and the platform's inside door."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(project)}/programs"

    def run(
        self,
        script: Path | str,
        *,
        arguments: Sequence[str] = (),
        files: Sequence[Path | str] = (),
        run_as: str | None = None,
        memory_mb: int = 2048,
        cpu_seconds: int = 600,
        label: str = "cpu",
    ) -> Execution:
        """Queue a script and return its execution at once.

        It runs in the caller's own name, or as the service `run_as`. `files` lie beside the script. What it writes to
        /out can be fetched afterwards. Memory is address space per process.
        """
        paths = [Path(script), *map(Path, files)]
        for path in paths:
            if not path.is_file():
                raise Invalid(f"there is no file {path}")
        request = {
            "name": paths[0].name,
            "files": {path.name: base64.b64encode(path.read_bytes()).decode() for path in paths},
            "arguments": list(arguments),
            "run_as": run_as,
            "memory_mb": memory_mb,
            "cpu_seconds": cpu_seconds,
            "label": label,
        }
        return _execution(self._transport.json("POST", self._path, json=request))

    def list(self) -> list[Execution]:
        """Return the project's executions, newest first."""
        return [_execution(found) for found in self._transport.json("GET", self._path)]

    def get(self, execution: str) -> Execution:
        """Return one execution."""
        return _execution(self._transport.json("GET", f"{self._path}/{path_part(execution)}"))

    def wait(self, execution: str, *, timeout_seconds: float = 600.0) -> Execution:
        """Return the execution once it has ended; raises `Unavailable` when that takes longer than `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.get(execution)
            if found.state in _ENDED:
                return found
            if time.monotonic() > deadline:
                raise Unavailable(f"execution {execution} is still {found.state} after {timeout_seconds:g} s")
            time.sleep(0.25)

    def logs(self, execution: str, *, tail: int = 1000) -> str:
        """Return the last lines that the program printed."""
        return self._transport.request("GET", f"{self._path}/{path_part(execution)}/logs", params={"tail": tail}).text

    def file(self, execution: str, name: str) -> bytes:
        """Return a file that the program wrote to /out."""
        return self._transport.request("GET", f"{self._path}/{path_part(execution)}/files/{path_part(name)}").content

    def stop(self, execution: str) -> None:
        """End a running execution."""
        self._transport.request("DELETE", f"{self._path}/{path_part(execution)}")


def _execution(found: Mapping[str, Any]) -> Execution:
    return Execution(
        found["id"],
        found["name"],
        found["principal"],
        found["state"],
        found.get("exit_code"),
        found.get("reason") or "",
        tuple(found.get("files") or ()),
    )
