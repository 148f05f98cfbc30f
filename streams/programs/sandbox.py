"""The one way in which anything starts that holds a project's code or runs Python functions for it.

A job sees its own files under /job (read only), writes to /out and /tmp, and reaches nothing but the ports that it was
given, on its own 127.0.0.1. It has a user id of its own where the platform runs as root. See `launcher.py` for what bounds
it, and `wardstream/confinement.py` for what keeps it in.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from streams.programs.model import check_file_name
from wardstream import processes
from wardstream.confinement import Limits
from wardstream.errors import Invalid, Unavailable
from wardstream.processes import ProcessRecord, write_private

logger = logging.getLogger(__name__)

# The SDK is for programs; the rest is what a Faust worker imports.
PROGRAM_PACKAGES = ("wardstream", "streams")
PROCESSOR_PACKAGES = ("wardstream", "streams", "topics", "schemas", "tenancy", "featurestore")

_LARGE_LOG = 8 << 20


@dataclass(frozen=True)
class Job:
    """What is to run in one sandbox."""

    name: str
    """Names its record and its log; no other job of this worker may have it."""
    command: Sequence[str]
    """As seen inside; `python` is this platform's interpreter with all libraries."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """By name; they lie in /job, readable by this job alone."""
    environment: Mapping[str, str] = field(default_factory=dict)
    ways_out: Sequence[tuple[str, int]] = ()
    """Addresses outside; inside, each is 127.0.0.1 with the same port."""
    limits: Limits = field(default_factory=Limits)
    wall_seconds: float | None = None
    out_mb: int = 1024
    log_mb: int = 16
    packages: Sequence[str] = PROGRAM_PACKAGES


@dataclass(frozen=True)
class End:
    """How a job ended: `reason` is set when it was ended rather than ended by itself."""

    code: int
    reason: str | None


class Sandbox:
    """Starts jobs; each has a folder of its own under `folder`."""

    def __init__(self, folder: Path, *, records: Path, environment: Mapping[str, str]) -> None:
        """`records` is where running processes are written down; `environment` is the launcher's, of which the job sees nothing."""
        self._folder = folder
        self._records = records
        self._environment = environment

    def folder_of(self, name: str) -> Path:
        """Return the job's folder: in, out, sock, log."""
        return self._folder / name

    def start(self, job: Job) -> ProcessRecord:
        """Start `job` and return the record of its launcher, which ends with the job's exit code.

        What an earlier job of the same name left is removed first, but for its log, which goes on.
        Raises `Unavailable` where a needed command is missing.
        """
        _check_commands()
        folder = self.folder_of(job.name)
        for name in ("in", "out", "sock"):
            _remove(folder / name)
        (folder / "end.json").unlink(missing_ok=True)
        (folder / "in").mkdir(parents=True, mode=0o700)
        _turn(self.log_of(job.name))
        for name, content in job.files.items():
            check_file_name(name)
            descriptor = os.open(folder / "in" / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        command = [sys.executable if part == "python" else part for part in job.command]
        write_private(
            folder / "job.json",
            json.dumps(
                {
                    "command": command,
                    "environment": dict(job.environment),
                    "relays": {port: [host, port] for host, port in job.ways_out},
                    "limits": asdict(job.limits),
                    "wall_seconds": job.wall_seconds,
                    "out_mb": job.out_mb,
                    "log_mb": job.log_mb,
                    "packages": list(job.packages),
                }
            ),
        )
        launcher = [sys.executable, "-I", "-m", "streams.programs.launcher", str(folder)]
        return processes.start(job.name, launcher, folder=self._records, log=self.log_of(job.name), environment=self._environment)

    def log_of(self, name: str) -> Path:
        """Return the file with what the job printed."""
        return self.folder_of(name) / "log"

    def stop(self, record: ProcessRecord) -> None:
        """End the job: it is asked first and killed after the launcher's grace; returns when nothing of it runs."""
        processes.stop(record, folder=self._records)

    def end(self, name: str) -> End | None:
        """Return how the job ended, or None while it runs or when its launcher was killed."""
        try:
            found = json.loads((self.folder_of(name) / "end.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return End(int(found["code"]), found["reason"])

    def written(self, name: str) -> Iterator[tuple[str, int]]:
        """Yield name and descriptor of each file that the job left in /out; the descriptor is closed afterwards.

        The job chose what lies there: folders, links, sockets and names outside `[A-Za-z0-9._-]` are passed over, and
        no link is followed, since whoever reads them may read more than the job may.
        """
        folder = os.open(self.folder_of(name) / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for each in sorted(os.listdir(folder)):
                try:
                    check_file_name(each)
                except Invalid:
                    continue
                with _opened(each, folder) as descriptor:
                    if descriptor is not None:
                        yield each, descriptor
        finally:
            os.close(folder)

    def clear(self) -> None:
        """Remove what jobs of an earlier run left; only when none of them runs."""
        _remove(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self, name: str) -> None:
        """Remove everything of a job that has ended, its key with it."""
        _remove(self.folder_of(name))


def ways_out(bootstrap_servers: str, url: str) -> list[tuple[str, int]]:
    """Return the addresses that a job reaches: the brokers, and the INSIDE door."""
    door = urlsplit(url)
    brokers = [server.rpartition(":") for server in bootstrap_servers.split(",")]
    return [*((host, int(port)) for host, _, port in brokers), (door.hostname or "127.0.0.1", door.port or 443)]


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int | None]:
    """Give a descriptor of a plain file, or None where `name` is anything else."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        yield None
        return
    try:
        found = os.fstat(descriptor)
        yield descriptor if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else None
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove what a job left: folders of any depth, which Python's own functions fall over, and such as it closed to its own user."""
    if not folder.exists():
        return
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", "--", folder], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    done = subprocess.run(["rm", "-rf", "--", folder], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        logger.warning("files of a job could not be removed", extra={"folder": str(folder), "code": done.returncode})


def _turn(log: Path) -> None:
    """Begin a new log where the old one has grown large; one old one is kept."""
    if log.exists() and log.stat().st_size > _LARGE_LOG:
        log.replace(log.with_name(f"{log.name}.1"))


def _check_commands() -> None:
    for command, package in (("bwrap", "bubblewrap"), ("setpriv", "util-linux"), ("prlimit", "util-linux")):
        if shutil.which(command) is None:
            raise Unavailable(f"{command} is missing, so no program can be confined: apt-get install {package}")
