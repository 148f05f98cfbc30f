"""Runs checked statements, each in a confined process of its own (`child.py`) that is ended after it.

The process gets open descriptors of exactly the files that the statement may read: no path, no network, no
writable place, bounded address space, CPU time and open files. Started as root, each has a user id of its own.
One process is kept started ahead of the next statement, since loading the engine takes longer than most statements.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import queue
import resource
import secrets
import select
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from featurestore.sql import child
from wardstream.confinement import Confinement, Limits, confined
from wardstream.errors import Denied, Invalid, LimitExceeded, Unavailable, WardstreamError
from wardstream.names import split_principal

logger = logging.getLogger(__name__)

# Importing the engine takes 0.4 s on an idle core; this is for a machine that is very busy with other things.
_START_SECONDS = 60.0
# pyarrow and DuckDB reserve 2.0 GiB of addresses before the first row; what is left is the engine's to fill.
_RESERVED_MB = 2304
_MAX_FILES = 4000
# Where user ids of statement processes lie when the platform runs as root: nobody else's on any usual system. Each engine
# takes a range by chance, since the kernel counts processes by user id and several stacks may share a machine.
_USER_IDS, _RANGES, _RANGE = 1_900_000_000, 10_000_000, 16


@dataclass(frozen=True)
class SqlTable:
    """One table as a statement sees it: `columns` of `files`, of repeats only the row that `newest` puts first.

    `identity` is empty where the table has no repeats. `schema` is that of the files.
    """

    name: str
    files: tuple[Path, ...]
    schema: pa.Schema
    columns: tuple[str, ...]
    identity: tuple[str, ...] = ()
    newest: tuple[str, ...] = ()


def _anybody() -> None:
    """Nobody is refused."""


@dataclass(frozen=True)
class SqlAnswer:
    """The rows as an Arrow IPC stream, complete, in memory; close it. `allowed` raises where the reader may have no more."""

    file: BinaryIO
    rows: int
    size: int
    allowed: Callable[[], None] = _anybody

    def chunks(self, size: int = 1 << 18) -> Iterator[bytes]:
        """Yield the stream, each part while it is allowed, and close it."""
        with self.file:
            while part := self.file.read(size):
                self.allowed()
                yield part

    def table(self) -> pa.Table:
        """Return the rows as one table and close the stream."""
        with self.file, pa.ipc.open_stream(self.file) as reader:
            return reader.read_all()


@dataclass(eq=False)
class _Statement:
    """One statement that waits or runs; the engine's lock guards it."""

    owner: str
    process: _Child | None = None
    cancelled: bool = False


class SqlEngine:
    """Runs statements that have passed the gate; thread-safe.

    At most `slots` run at a time, further ones wait for a turn as long as one may run.
    """

    def __init__(self, *, seconds: float, memory_mb: int, max_rows: int, max_bytes: int = 256 << 20, slots: int = 2) -> None:
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._turns = threading.BoundedSemaphore(slots)
        self._lock = threading.Lock()
        self._statements: set[_Statement] = set()
        self._user_ids: queue.SimpleQueue[int] = queue.SimpleQueue()
        first = _USER_IDS + secrets.randbelow(_RANGES) * _RANGE
        for number in range(_RANGE):
            self._user_ids.put(first + number)
        # The kernel ends a child when the *thread* that started it ends; this one lives as long as the engine.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sql-starter")
        self._spare: Future[_Child] | None = None
        self._closed = False

    def prepare(self) -> None:
        """Start the process of the first statement ahead of it; returns at once."""
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = self._starter.submit(self._start)

    def ready(self) -> str | None:
        """Return nothing when a statement can run, else what is missing."""
        self.prepare()
        with self._lock:
            spare = self._spare
        if spare is None or not spare.done():
            # Being started, or just taken by a statement: nothing is known to be wrong.
            return None
        error = spare.exception()
        if error is None:
            return None
        with self._lock:
            if self._spare is spare:
                self._spare = None
        return str(error)

    def run(self, sql: str, tables: Sequence[SqlTable], *, owner: str, max_rows: int | None = None) -> SqlAnswer:
        """Return the answer to `sql`, whole: a statement that fails at its last row has no answer.

        Raises `LimitExceeded` for time, memory, rows or bytes, `Invalid` for what the engine cannot make of the
        statement, `Denied` when `cancel(owner)` came in between, `Unavailable` when the engine cannot be started.
        """
        rows = min(max_rows or self._max_rows, self._max_rows)
        files = sum(len(table.files) for table in tables)
        if files > _MAX_FILES:
            raise LimitExceeded(
                f"the tables of this statement lie in {files} files, at most {_MAX_FILES} can be read at once: compact them"
            )
        # Known before it waits for its turn: access that ends meanwhile ends it too.
        statement = _Statement(owner)
        with self._lock:
            self._statements.add(statement)
        try:
            outcome, answer, took = self._in_turn(statement, _request(sql, tables, rows, self._max_bytes, self._memory_mb), tables)
        finally:
            with self._lock:
                self._statements.discard(statement)
        if statement.cancelled:
            answer.close()
            raise Denied("access ended while the statement ran")
        if "rows" not in outcome:
            answer.close()
            logger.info("statement failed", extra={"kind": outcome.get("error"), "seconds": round(took, 3), "files": files})
            raise self._error(outcome, rows)
        size = answer.tell()
        answer.seek(0)
        logger.info("statement answered", extra={"rows": outcome["rows"], "bytes": size, "seconds": round(took, 3), "files": files})
        return SqlAnswer(answer, int(outcome["rows"]), size)

    def _in_turn(self, statement: _Statement, request: bytes, tables: Sequence[SqlTable]) -> tuple[Mapping[str, Any], BinaryIO, float]:
        """Return outcome, answer and seconds of a statement that waits for its turn first."""
        if not self._turns.acquire(timeout=self._seconds):
            raise LimitExceeded("too many statements run at this moment: try again later")
        try:
            process = self._take()
            try:
                with self._lock:
                    statement.process = process
                if statement.cancelled:
                    raise Denied("access ended before the statement ran")
                started = time.monotonic()
                outcome, answer = process.ask(request, tables, self._seconds, self._max_bytes)
                return outcome, answer, time.monotonic() - started
            finally:
                with self._lock:
                    statement.process = None
                self._end(process)
                # Not earlier: starting it would take the processor from the statement that somebody waits for.
                self.prepare()
        finally:
            self._turns.release()

    def cancel(self, owner: str) -> int:
        """End what runs or waits for `owner`; returns how many statements that were."""
        return self._cancel(lambda statement: statement.owner == owner)

    def cancel_members(self, project: str, member: str | None) -> int:
        """End what runs or waits for a member of `project`, of any generation, or for all of them; returns how many statements that were."""

        def theirs(statement: _Statement) -> bool:
            found = split_principal(statement.owner)
            return found[0] == project and member in (None, found[1])

        return self._cancel(theirs)

    def _cancel(self, wanted: Callable[[_Statement], bool]) -> int:
        with self._lock:
            found = [statement for statement in self._statements if wanted(statement)]
            for statement in found:
                statement.cancelled = True
            processes = [statement.process for statement in found if statement.process is not None]
        for process in processes:
            process.kill()
        return len(found)

    def close(self) -> None:
        """End every process; statements that run fail as cancelled."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        self._cancel(lambda statement: True)
        if spare is not None:
            with suppress(WardstreamError):
                self._end(spare.result())
        self._starter.shutdown()

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise Unavailable("the query process is stopping")
            waiting, self._spare = self._spare or self._starter.submit(self._start), None
        process = self._started(waiting)
        if not process.alive:
            # A spare can be ended from outside, by an operator or the kernel: one more try.
            self._end(process)
            process = self._started(self._starter.submit(self._start))
        return process

    def _started(self, waiting: Future[_Child]) -> _Child:
        try:
            return waiting.result(_START_SECONDS)
        except TimeoutError as error:
            waiting.add_done_callback(self._end_unwanted)
            raise Unavailable(f"no process for the statement could be started within {_START_SECONDS:g} s") from error

    def _end_unwanted(self, late: Future[_Child]) -> None:
        if not late.cancelled() and late.exception() is None:
            self._end(late.result())

    def _start(self) -> _Child:
        user_id = self._user_ids.get() if os.geteuid() == 0 else None
        try:
            return _Child(user_id, memory_mb=self._memory_mb, cpu_seconds=math.ceil(self._seconds) + 30)
        except BaseException:
            if user_id is not None:
                self._user_ids.put(user_id)
            raise

    def _end(self, process: _Child) -> None:
        process.close()
        if process.user_id is not None:
            self._user_ids.put(process.user_id)

    def _error(self, outcome: Mapping[str, Any], rows: int) -> WardstreamError:
        kind, subject = str(outcome.get("error")), _shown(outcome.get("subject"))
        match kind:
            case "time":
                return LimitExceeded(f"the statement ran longer than {self._seconds:g} s: narrow it with WHERE or aggregate earlier")
            case "memory":
                return LimitExceeded(
                    f"the statement needs more memory than {self._memory_mb} MB of addresses allow: narrow it or aggregate earlier"
                )
            case "rows":
                return LimitExceeded(f"the answer has more than {rows} rows: add LIMIT, aggregate, or take the rows as training data")
            case "bytes":
                return LimitExceeded(f"the answer is larger than {self._max_bytes >> 20} MiB: select fewer columns or rows")
            case "column":
                return Invalid(f"there is no column {subject} in the tables of this statement")
            case "alias":
                return Invalid(f"{subject} names no table of this FROM clause")
            case "types":
                return Invalid(f"a function or operator does not take these types: {subject}; cast its arguments")
            case "grouping":
                return Invalid(f"column {subject} stands outside an aggregate: add it to GROUP BY or aggregate it")
            case "ambiguous":
                return Invalid(f"column {subject} is in several tables: write <table>.{subject}")
            case "conversion":
                return Invalid("a value does not fit the type that it is turned into: use try_cast, or a wider type")
            case "value":
                return Invalid("a function got a value that it cannot take")
            case "binding" | "refused":
                return Invalid("the statement does not fit its tables: check names, types and the number of columns")
            case "crash":
                return LimitExceeded(f"the statement ended its process, most likely by needing more than {self._memory_mb} MB: narrow it")
        return Unavailable("the statement could not be run", kind=kind, subject=subject)


class _Child:
    """One started process, used for one statement."""

    def __init__(self, user_id: int | None, *, memory_mb: int, cpu_seconds: int) -> None:
        self.user_id = user_id
        self._channel, theirs = socket.socketpair()
        self._output, written = os.pipe2(os.O_CLOEXEC)
        self._errors = os.fdopen(os.memfd_create("errors"), "w+b")
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                confined(
                    [*_interpreter(), "/child.py", str(theirs.fileno()), str(written)],
                    Confinement(
                        uid=user_id,
                        read_only=[*_libraries(), (Path(child.__file__), "/child.py")],
                        environment=_ENVIRONMENT,
                        limits=Limits(memory_mb, processes=64, cpu_seconds=cpu_seconds, file_mb=0, open_files=_open_files(), tmp_mb=1),
                    ),
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), written),
                env={},
            )
        except OSError as error:
            self._discard()
            raise Unavailable("the process of a statement cannot be started: is bubblewrap installed?", error=str(error)) from error
        finally:
            theirs.close()
            os.close(written)
        self._channel.settimeout(_START_SECONDS)
        try:
            ready = self._channel.recv(1) == child.READY
        except OSError:
            ready = False
        if not ready:
            self.kill()
            self._process.wait()
            self._errors.seek(0)
            # Nobody's statement has been seen by that process: what it printed is about the installation.
            reason = self._errors.read().decode(errors="replace")[-800:]
            self._discard()
            raise Unavailable(f"the process of a statement did not start within {_START_SECONDS:g} s", error=reason)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, tables: Sequence[SqlTable], seconds: float, max_bytes: int) -> tuple[dict[str, Any], BinaryIO]:
        """Return the outcome and what came out, positioned at its end."""
        deadline = time.monotonic() + seconds
        answer: BinaryIO = os.fdopen(os.memfd_create("answer", os.MFD_CLOEXEC), "w+b", buffering=0)
        self._channel.settimeout(seconds)
        try:
            try:
                self._channel.sendall(request)
                for table in tables:
                    _send_files(self._channel, table.files)
            except FileNotFoundError as error:
                answer.close()
                raise Unavailable("a table was rewritten while the statement began: try again") from error
            except TimeoutError:
                return {"error": "time"}, answer
            except OSError:
                return {"error": "crash"}, answer
            size = 0
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._output], [], [], left)[0]:
                    return {"error": "time"}, answer
                part = os.read(self._output, 1 << 20)
                if not part:
                    break
                size += len(part)
                # The process counts too; this bound does not rely on it.
                if size > max_bytes:
                    return {"error": "bytes"}, answer
                answer.write(part)
            return self._outcome(max(0.1, deadline - time.monotonic())), answer
        finally:
            self.kill()

    def _outcome(self, seconds: float) -> dict[str, Any]:
        self._channel.settimeout(seconds)
        line = b""
        try:
            while not line.endswith(b"\n"):
                part = self._channel.recv(4096)
                if not part or len(line) > 4096:
                    return {"error": "crash"}
                line += part
            outcome = json.loads(line)
        except TimeoutError:
            return {"error": "time"}
        except (OSError, ValueError):
            return {"error": "crash"}
        return outcome if isinstance(outcome, dict) else {"error": "crash"}

    def kill(self) -> None:
        """End the process and all that it may have started: they share its namespace of pids."""
        with self._lock:
            if self._process.poll() is None:
                self._process.kill()

    def close(self) -> None:
        """End the process and free what belongs to it."""
        self.kill()
        self._process.wait()
        self._discard()

    def _discard(self) -> None:
        self._channel.close()
        self._errors.close()
        os.close(self._output)


def _request(sql: str, tables: Sequence[SqlTable], max_rows: int, max_bytes: int, memory_mb: int) -> bytes:
    text = json.dumps(
        {
            "sql": sql,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "memory_mb": max(128, memory_mb - _RESERVED_MB),
            "tables": [
                {
                    "name": table.name,
                    "columns": list(table.columns),
                    "identity": list(table.identity),
                    "newest": list(table.newest),
                    "files": len(table.files),
                    "schema": base64.b64encode(table.schema.serialize().to_pybytes()).decode(),
                }
                for table in tables
            ],
        }
    ).encode()
    return struct.pack(">I", len(text)) + text


def _send_files(channel: socket.socket, files: Sequence[Path]) -> None:
    for start in range(0, len(files), child.DESCRIPTORS_A_MESSAGE):
        descriptors: list[int] = []
        try:
            for path in files[start : start + child.DESCRIPTORS_A_MESSAGE]:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            socket.send_fds(channel, [b"f"], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


# Inside, interpreter and libraries lie at addresses of their own: no path of this machine is there to be seen, and
# they may lie below a folder that only their owner can pass.
_ENVIRONMENT = {
    "PYTHONPATH": "/libraries",
    "LD_LIBRARY_PATH": "/python/lib",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Addresses are bounded: a memory arena for a thread reserves 64 MiB of them, and libraries would start a thread for each core.
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _interpreter() -> list[str]:
    executable = Path(sys.executable).resolve()
    base = Path(sys.base_prefix)
    inside = executable if base.is_relative_to("/usr") else Path("/python") / executable.relative_to(base.resolve())
    return [str(inside), "-s"]


def _libraries() -> list[tuple[Path, str]]:
    base = Path(sys.base_prefix)
    libraries = [(Path(sysconfig.get_path("platlib")), "/libraries")]
    return libraries if base.is_relative_to("/usr") else [(base, "/python"), *libraries]


def _open_files() -> int:
    return min(_MAX_FILES + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _shown(subject: object) -> str:
    """Return a word from the process for a message: it is the person's own word, but the process is not trusted with more."""
    return ascii(str(subject)[:100]) if subject is not None else "''"
