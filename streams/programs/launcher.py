"""The process outside that belongs to one sandbox: holds its user id and its ways out, starts it, watches it, ends it.

Reads `job.json` in the job's folder (written by `sandbox.py`), prints what the job prints, ends with the job's exit code
and leaves `end.json`. Ends the job when it is told to (SIGTERM; after 3 s by force), when the job takes more memory, disk
or time than it may, when it cannot be looked at any more, and when the process that started this one is gone. Killed itself,
it takes the job with it.

Stands on the standard library and `wardstream.confinement`, so that a sandbox costs little.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.programs.inside import STOP, Streams, relay
from wardstream.confinement import Confinement, Limits, confined, package_folders, python_folders

GRACE_SECONDS = 3.0
_LOOK_SECONDS = 0.5

# Two descriptors each; what a program opens to brokers and the door is a dozen.
MOST_CONNECTIONS = 64

MOST_LEVELS = 32
# What the name and the inode of a file take at least, so that empty files are bounded too.
_ENTRY_BYTES = 4096

# Reserved by no distribution for people, services or dynamic users (systemd's "Users, Groups, UIDs and GIDs" lists the
# range as unused), and small enough for a container that maps 65,536 ids.
UIDS = range(60578, 60706)
_UID_LOCKS = Path("/run/wardstream-uids")

_SOCKETS = "/run/relay"

_LIBC = ctypes.CDLL(None)
# The C library has no name for it; unistd.h of each architecture has the number.
_KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)


@dataclass(frozen=True)
class JobFile:
    """What `job.json` holds."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    relays: Mapping[int, tuple[str, int]]
    limits: Limits
    wall_seconds: float | None
    out_mb: int
    log_mb: int
    packages: tuple[str, ...]

    @staticmethod
    def read(path: Path) -> JobFile:
        """Return what the file says."""
        found: dict[str, Any] = json.loads(path.read_text())
        return JobFile(
            command=tuple(found["command"]),
            environment=found["environment"],
            relays={int(port): (str(host), int(far)) for port, (host, far) in found["relays"].items()},
            limits=Limits(**found["limits"]),
            wall_seconds=found["wall_seconds"],
            out_mb=found["out_mb"],
            log_mb=found["log_mb"],
            packages=tuple(found["packages"]),
        )


def take_uid() -> int:
    """Return a user id that no other sandbox of this machine has, until this process ends; raises `BlockingIOError` when none is free."""
    _UID_LOCKS.mkdir(mode=0o700, exist_ok=True)
    for uid in UIDS:
        descriptor = os.open(_UID_LOCKS / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return uid  # the descriptor stays open, and with it the lock
    raise BlockingIOError(f"all {len(UIDS)} user ids for sandboxes are taken")


class TooDeep(Exception):
    """A folder lies so deep in others that what it holds is not looked for."""


@dataclass(frozen=True)
class Held:
    """What processes hold: `memory` is what is no file's, `unlinked` are files of one device that have no name any more."""

    memory: int
    unlinked: int


def held_bytes(pid: int, *, device: int) -> Held:
    """Return what `pid` and everything under it hold; `device` is that of the unlinked files.

    A file without a name that lies in memory alone (memfd) counts as memory. Raises `OSError` where a process that still
    runs cannot be looked at.
    """
    memory = 0
    nameless: dict[tuple[int, int], os.stat_result] = {}
    in_memory: set[tuple[int, int]] = set()
    for tasks in _processes(pid):
        # Threads share their memory, and their descriptors too unless one has asked for a table of its own.
        first: Path | None = None
        for task in tasks:
            if first is not None and _same_descriptors(first, task):
                continue
            found = _memory(task)
            if found is None:
                continue
            if first is None:
                first, memory = task, memory + found
            try:
                for link, file in _nameless(task / "fd"):
                    nameless[file.st_dev, file.st_ino] = file
                    if link.startswith("/memfd:"):
                        in_memory.add((file.st_dev, file.st_ino))
            except OSError:
                if _memory(task) is not None:
                    raise
    memory += sum(nameless[key].st_blocks for key in in_memory) * 512
    return Held(memory, sum(file.st_blocks for key, file in nameless.items() if file.st_dev == device and key not in in_memory) * 512)


def _processes(pid: int) -> Iterator[list[Path]]:
    """Yield the folders of the threads of `pid`, and of each process under it."""
    waiting = [pid]
    while waiting:
        try:
            tasks = list(Path(f"/proc/{waiting.pop()}/task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just gone
        yield tasks
        for task in tasks:
            with suppress(FileNotFoundError, ProcessLookupError):
                waiting += map(int, (task / "children").read_text().split())


def _same_descriptors(one: Path, other: Path) -> bool:
    """Whether two threads have one table of descriptors; False also where the kernel does not say (kcmp(2), KCMP_FILES = 2)."""
    return _KCMP is not None and _LIBC.syscall(_KCMP, int(one.name), int(other.name), 2, 0, 0) == 0


def _memory(task: Path) -> int | None:
    """Return the bytes that the thread's process has for itself, or None when the thread has ended."""
    try:
        lines = (task / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(found) if found else None


def _nameless(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield target and state of each descriptor in `folder` whose file has no name any more."""
    with os.scandir(folder) as descriptors:
        for each in descriptors:
            with suppress(FileNotFoundError):  # closed meanwhile
                found = os.stat(each.path)
                if found.st_nlink == 0:
                    yield os.readlink(each.path), found


def folder_bytes(folder: Path) -> int:
    """Return how much everything under `folder` holds, links not followed.

    Raises `TooDeep` for folders more than `MOST_LEVELS` deep, and `OSError` where one cannot be looked at.
    """
    total, waiting = 0, [(str(folder), 0)]
    while waiting:
        parent, level = waiting.pop()
        if level > MOST_LEVELS:
            raise TooDeep
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # removed meanwhile
                        total += max(_ENTRY_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, level + 1))
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            if level == 0:
                raise
    return total


def namespaces_can_be_refused() -> bool:
    """Whether bubblewrap (0.8 or newer) can keep a job of an ordinary user from making user namespaces of its own here."""
    trial = ["bwrap", "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "true"]
    return subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


class Launcher:
    """One sandbox, from the folder that is the current one."""

    def __init__(self, job: JobFile) -> None:
        self._job = job
        self._uid = take_uid() if os.geteuid() == 0 else None
        self._parent = os.getppid()
        self._began = time.monotonic()
        self._ending: str | None = None
        self._line, self._far_line = socket.socketpair()
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)

    async def run(self) -> int:
        """Run the job to its end and return its exit code."""
        self._give_folders()
        for port, (host, far) in self._job.relays.items():
            await self._open(port, host, far)
        descriptor = self._far_line.fileno()
        process = await asyncio.create_subprocess_exec(
            *self._command(descriptor),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(descriptor,),
            # Signals to this process' session must not reach bubblewrap, which would end the job without asking it.
            start_new_session=True,
        )
        self._far_line.close()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, process, "stopped")
        output = asyncio.create_task(self._copy(process))
        watch = asyncio.create_task(self._watch(process))
        code = await process.wait()
        watch.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(output, 5)
        code = code if code >= 0 else 128 - code
        Path("end.json").write_text(json.dumps({"code": code, "reason": self._ending}))
        return code

    def _give_folders(self) -> None:
        for name, mode in (("in", 0o500), ("out", 0o700), ("sock", 0o755)):
            folder = Path(name)
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        if self._uid is None:
            return
        os.chown("out", self._uid, self._uid)
        for parent, folders, files in os.walk("in"):
            os.chown(parent, self._uid, self._uid)
            for name in (*folders, *files):
                os.chown(os.path.join(parent, name), self._uid, self._uid, follow_symlinks=False)

    async def _open(self, port: int, host: str, far: int) -> None:
        # Relative, because the path of a unix socket ends at 108 bytes.
        path = f"sock/{port}"
        Path(path).unlink(missing_ok=True)

        def connect() -> Awaitable[Streams]:
            return asyncio.open_connection(host, far)

        handle = relay(connect)

        async def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Refused, not kept waiting: each that waits has a descriptor, and without one the job cannot be looked at.
            if self._places.locked():
                writer.close()
                return
            async with self._places:
                await handle(reader, writer)

        await asyncio.start_unix_server(admit, path)
        Path(path).chmod(0o600)
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)

    def _command(self, descriptor: int) -> list[str]:
        here = Path.cwd()
        ports = ",".join(str(port) for port in self._job.relays)
        inside = [sys.executable, "-I", "-m", "streams.programs.inside", str(descriptor), _SOCKETS, ports, *self._job.command]
        return confined(
            inside,
            Confinement(
                uid=self._uid,
                read_only=[*python_folders(), *package_folders(self._job.packages), (here / "in", "/job"), (here / "sock", _SOCKETS)],
                writable=[(here / "out", "/out")],
                environment={"PATH": f"{Path(sys.executable).parent}:/usr/bin", **self._job.environment},
                folder="/out",
                limits=self._job.limits,
                own_namespaces=self._uid is not None or not namespaces_can_be_refused(),
            ),
        )

    def _end(self, process: asyncio.subprocess.Process, reason: str) -> None:
        """Ask the job to end, and make it after `GRACE_SECONDS`; `end.json` tells the first reason."""
        if self._ending is not None:
            return
        self._ending = reason
        with suppress(OSError):
            self._line.send(STOP)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, _kill, process)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        job = self._job
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if os.getppid() != self._parent:
                self._end(process, "the worker ended")
            elif job.wall_seconds is not None and time.monotonic() - self._began > job.wall_seconds:
                self._end(process, f"it ran longer than {job.wall_seconds:g} s")
            elif (beyond := self._beyond(process.pid)) is not None and process.returncode is None:
                self._ending = self._ending or beyond
                _kill(process)

    def _beyond(self, pid: int) -> str | None:
        """Return which bound the job is beyond, or None. What cannot be looked at is not known to be within its bounds."""
        limits, job = self._job.limits, self._job
        try:
            held = held_bytes(pid, device=os.stat("job.json").st_dev)
            if held.memory > limits.memory_mb << 20:
                return f"all its processes together took more than {limits.memory_mb} MiB of memory"
            if held.unlinked + folder_bytes(Path("out")) > job.out_mb << 20:
                return f"it wrote more than {job.out_mb} MiB to /out"
        except TooDeep:
            return f"it made folders more than {MOST_LEVELS} deep in /out"
        except OSError as error:
            return f"it could not be looked at: {error.strerror}"
        except Exception as error:  # noqa: BLE001  # whatever it is: a job that nobody watches must not go on
            return f"it could not be looked at: {type(error).__name__}"
        return None

    async def _copy(self, process: asyncio.subprocess.Process) -> None:
        """Print what the job prints, up to a bound; what comes after is read and dropped, so that the job goes on."""
        assert process.stdout is not None  # noqa: S101  # asked for above
        left = self._job.log_mb << 20
        while data := await process.stdout.read(65536):
            if left > 0:
                _write(data[:left])
                left -= len(data)
                if left <= 0:
                    _write(f"\n[no more than {self._job.log_mb} MiB of output are kept]\n".encode())


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()  # bubblewrap; what it started goes with it


def main(arguments: list[str], start: Callable[[JobFile], Launcher] = Launcher) -> int:
    """Run the job of the folder that is given."""
    os.chdir(arguments[0])
    Path("end.json").unlink(missing_ok=True)
    return asyncio.run(start(JobFile.read(Path("job.json"))).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
