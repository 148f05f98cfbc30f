"""Executions of a project's programs as values, and the rules of their life."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from wardstream.confinement import Limits
from wardstream.errors import Invalid, LimitExceeded
from wardstream.names import PrincipalName, ProjectName

MOST_FILES = 32
MOST_BYTES = 16 << 20
MOST_ARGUMENTS = 64
# Files that a program leaves are sent whole; a larger one belongs in a dataset.
MOST_FILE_BYTES = 256 << 20
MEMORY_MB = range(64, 64 * 1024 + 1)
CPU_SECONDS = range(1, 24 * 3600 + 1)

# The certificate of an execution lives this long and is not renewed.
WALL_SECONDS = 3600.0

# How long a worker that says nothing is waited for, and how often what it left is tried again.
LEASE_SECONDS = 15.0
MOST_ATTEMPTS = 2

CERTIFICATE, KEY, ROOT = "certificate.pem", "key.pem", "ca.pem"
"""Names in /job that the platform keeps for itself."""

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_file_name(name: str) -> None:
    """Raise `Invalid` unless `name` is a plain file name."""
    if not _FILE.fullmatch(name):
        raise Invalid(
            f"{ascii(name)[:110]} is not a file name: letters, digits, '.', '_' and '-', at most 100 characters, not beginning with '.' or '-'"
        )


class ExecutionState(StrEnum):
    """Where an execution is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (ExecutionState.QUEUED, ExecutionState.RUNNING)


@dataclass(frozen=True)
class Program:
    """A script with the files beside it; one that exists is consistent, the constructor raises `Invalid` or `LimitExceeded`."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)
    arguments: tuple[str, ...] = ()
    memory_mb: int = 2048
    cpu_seconds: int = 600
    label: str = "cpu"

    def __post_init__(self) -> None:
        if self.name not in self.files:
            raise Invalid(f"the program {ascii(self.name)[:100]} is not among its files")
        if not self.name.endswith(".py"):
            raise Invalid(f"a program is a Python script (*.py), got {ascii(self.name)[:100]}")
        for name in self.files:
            check_file_name(name)
            if name in (CERTIFICATE, KEY, ROOT):
                raise Invalid(f"{name} is the name of a file that the platform puts beside the program: choose another")
        if len(self.files) > MOST_FILES or sum(map(len, self.files.values())) > MOST_BYTES:
            raise LimitExceeded(
                f"a program has at most {MOST_FILES} files of {MOST_BYTES >> 20} MiB together; larger data belong in a dataset"
            )
        if len(self.arguments) > MOST_ARGUMENTS or any(len(each) > 4096 or "\0" in each for each in self.arguments):
            raise LimitExceeded(f"a program has at most {MOST_ARGUMENTS} arguments of 4,096 characters")
        if self.memory_mb not in MEMORY_MB:
            raise Invalid(f"memory_mb must be from {MEMORY_MB.start} to {MEMORY_MB.stop - 1}, got {self.memory_mb}")
        if self.cpu_seconds not in CPU_SECONDS:
            raise Invalid(f"cpu_seconds must be from {CPU_SECONDS.start} to {CPU_SECONDS.stop - 1}, got {self.cpu_seconds}")
        if len(self.label) > 40 or not _LABEL.fullmatch(self.label):
            raise Invalid(f"{ascii(self.label)[:50]} is not a worker label, such as cpu or gpu-nvidia")

    @property
    def limits(self) -> Limits:
        """What its sandbox holds it to. Libraries for numbers start a thread for each core, and threads count."""
        return Limits(memory_mb=self.memory_mb, cpu_seconds=self.cpu_seconds, processes=512, open_files=1024)


@dataclass(frozen=True)
class Execution:
    """One run of a program. `principal` is whom it acts as, `started_by` who asked for it."""

    id: str
    project: ProjectName
    name: str
    principal: PrincipalName
    started_by: PrincipalName
    label: str
    state: ExecutionState
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str | None = None
    files: tuple[str, ...] = ()
    worker: str | None = None
    stop_requested: bool = False


@dataclass(frozen=True)
class Work:
    """What a worker that takes an execution is told; `grant` is control's, for this execution alone."""

    execution: Execution
    program: Program
    grant: str


def abandoned(execution: Execution) -> tuple[ExecutionState, str | None]:
    """Return what becomes of a running execution whose worker is gone: it is queued again, or has failed with the reason."""
    if execution.stop_requested:
        return ExecutionState.STOPPED, "stopped"
    if execution.attempt < MOST_ATTEMPTS:
        return ExecutionState.QUEUED, None
    return ExecutionState.FAILED, f"its worker ended while it ran, {execution.attempt} times; look at the program worker's log"


def ended(code: int, reason: str | None, *, cpu_seconds: int) -> tuple[ExecutionState, str | None]:
    """Return the final state of a program that ended with `code`; `reason` is the launcher's, when it ended it."""
    if reason is not None:
        return (ExecutionState.STOPPED if reason in ("stopped", REVOKED) else ExecutionState.FAILED), reason
    if code == 0:
        return ExecutionState.SUCCEEDED, None
    if code in (128 + 24, 128 + 9):
        # SIGXCPU, or SIGKILL where the kernel had to insist; a program that kills itself looks the same.
        return ExecutionState.FAILED, f"it was killed; it may have used its {cpu_seconds} s of processor time"
    return ExecutionState.FAILED, f"it ended with code {code}; its log says more"


def with_files_left_out(reason: str | None, names: Sequence[str]) -> str | None:
    """Return the reason of an end with the names of files that were too large to be kept, if there are any."""
    if not names:
        return reason
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    said = f"not kept, since a file has at most {MOST_FILE_BYTES >> 20} MiB: {', '.join(names[:3])}{more}"
    return said if reason is None else f"{reason}; {said}"


REVOKED = "revoked: whom it acts for is no longer a member"
