"""Child processes that outlive nobody: recorded, found again, stopped by pid and never by name.

A record `<folder>/<name>.json` holds the pid and the kernel's start time of that pid, so that a pid that
was given to another program in the meantime is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessRecord:
    """Who a started process is."""

    name: str
    pid: int
    start_ticks: int
    log: str
    started_at: float

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie counts as ended."""
        found = _stat(self.pid)
        return found is not None and found[0] != "Z" and found[1] == self.start_ticks


def start(
    name: str, command: Sequence[str | Path], *, folder: Path, log: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> ProcessRecord:
    """Start `command` in a session of its own with exactly `environment`, output appended to `log`, and record it in `folder`.

    The caller keeps no handle: `alive`, `stop` and `reap` work from the record, also after a restart of the caller.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # the command is made by the platform
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            cwd=cwd,
        )
    found = _stat(process.pid)
    # The record is the handle from here on: a forgotten Popen would collect the exit status that `reap` is to return.
    process.returncode = 0
    record = ProcessRecord(name, process.pid, found[1] if found else -1, str(log), time.time())
    write_private(folder / f"{name}.json", json.dumps(asdict(record)))
    return record


def recorded(folder: Path) -> list[ProcessRecord]:
    """Return every process recorded in `folder`, dead ones included."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(ProcessRecord(**json.loads(path.read_text())))
        except FileNotFoundError:
            continue  # stopped meanwhile, by whoever stops it
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)  # torn by a crash of the writer: nothing can be known from it
    return records


def stop(record: ProcessRecord, *, folder: Path, seconds: float = 8.0) -> bool:
    """End the process and what it started in its session: SIGTERM, after `seconds` SIGKILL. Returns whether it ended by itself."""
    if record.alive:
        _signal_session(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while record.alive and time.monotonic() < deadline:
        reap(record)
        time.sleep(0.02)
    gentle = not record.alive
    # The session may hold children that outlived their leader. Where another program has the pid by now, no process of
    # that session is left: the kernel gives out no pid that still names a session.
    if gentle is False or _stat(record.pid) is None:
        _signal_session(record.pid, signal.SIGKILL)
    reap(record)
    (folder / f"{record.name}.json").unlink(missing_ok=True)
    return gentle


def reap(record: ProcessRecord) -> int | None:
    """Collect the exit status if the process is a child of ours that has ended; returns it (negative: the signal), else None."""
    try:
        pid, status = os.waitpid(record.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def write_private(path: Path, text: str) -> None:
    """Replace `path` by a file with `text`, mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _signal_session(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state and start time (clock ticks since boot) of `pid`; fields 3 and 22 of proc(5) stat."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
