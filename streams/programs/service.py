"""Running programs: from a request to a record on the platform's topic, to a worker, to an end with log and files."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from anyio.to_thread import run_sync as run_in_threadpool

from streams.control import Control
from streams.programs.model import LEASE_SECONDS, REVOKED, Execution, ExecutionState, Program, Work, abandoned, check_file_name
from streams.repository import Repository, Transaction
from tenancy.access import AccessJournal, access_event
from tenancy.grants import GrantVerifier
from tenancy.model import Door, Principal, Role
from tenancy.policy import Action, Decision, decide
from tenancy.quotas import require_room
from wardstream.clock import Clock
from wardstream.errors import Conflict, Denied, LimitExceeded, NotFound, WardstreamError
from wardstream.names import ProjectName, parse_member, parse_project, split_principal

logger = logging.getLogger(__name__)

_LIST = 200
_LOG_BYTES = 16 << 20
_FILE_BYTES = 1 << 30
_LEASE = timedelta(seconds=LEASE_SECONDS)
# A record that nobody acted on, because the worker that read it ended: said again after this long.
_ANNOUNCE_AGAIN = timedelta(seconds=30)

# What a data scientist may take out of a sandboxed project at once: results, not tables. A data owner may take more.
_EGRESS_BYTES = 10 << 20


class ExecutionQueue(Protocol):
    """Where workers hear of executions."""

    def announce(self, execution: Execution) -> None:
        """Tell the workers; returns when it cannot be lost any more, raises `Unavailable` otherwise."""
        ...


class ProgramService:
    """Executions of all projects. Thread-safe."""

    def __init__(
        self,
        *,
        repository: Repository,
        control: Control,
        queue: ExecutionQueue,
        folder: Path,
        verifier: GrantVerifier,
        journal: AccessJournal,
        clock: Clock,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """`folder` gets one folder for each execution: in/ with its files, log, out/ with what it left."""
        self._repository = repository
        self._control = control
        self._queue = queue
        self._folder = folder
        self._verifier = verifier
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self._announced: dict[str, datetime] = {}

    # For people

    def run(self, principal: Principal, grant: str, project: str, program: Program, *, run_as: str | None = None) -> Execution:
        """Queue a program and return its execution at once.

        It acts in the caller's own name at the INSIDE door, or as the service `run_as` of the project. When this returns, it
        is in the database and on the topic: it will be run, or end with a reason.
        """
        owner = self._project(principal, Action.PROGRAM_RUN, project)
        service = parse_member(run_as) if run_as is not None else None
        id = self._new_id()
        with self._repository.transaction() as streams:
            waiting = _unended(streams, owner)
        limit = self._control.report_usage(owner, {"executions": waiting})["executions"]
        require_room(owner, "executions", limit, waiting)
        execution_grant = self._control.execution_grant(grant, owner, id, service)
        execution = Execution(
            id=id,
            project=owner,
            name=program.name,
            principal=self._verifier.verify(execution_grant).name,
            started_by=principal.name,
            label=program.label,
            state=ExecutionState.QUEUED,
            attempt=0,
            created_at=self._clock.now(),
        )
        self._keep_files(id, program)
        with self._repository.transaction() as streams:
            # Again: others may have been queued while this one got its grant.
            require_room(owner, "executions", limit, _unended(streams, owner))
            streams.add_execution(execution, program, execution_grant)
        # Announced after it is kept: one that is kept and not announced, since the broker is away, is announced later.
        try:
            self._announce(execution)
        except WardstreamError as error:
            logger.warning("an execution will be announced later", extra={"execution": id, "reason": error.message})
        return execution

    def list(self, principal: Principal, project: str) -> list[Execution]:
        """Return the project's newest executions; to a restricted member its own."""
        owner = self._project(principal, Action.PROGRAM_DESCRIBE, project)
        with self._repository.transaction() as streams:
            return [each for each in streams.executions(owner, _LIST) if _open_to(principal, each)]

    def get(self, principal: Principal, project: str, id: str) -> Execution:
        """Return one execution; raises `NotFound`."""
        owner = self._project(principal, Action.PROGRAM_DESCRIBE, project)
        with self._repository.transaction() as streams:
            return _of(streams, owner, id, principal)

    def log(self, principal: Principal, project: str, id: str, *, tail: int) -> str:
        """Return the last `tail` lines that the program printed."""
        execution = self.get(principal, project, id)
        self._note(principal, "program.log", execution)
        return last_lines(self._folder / execution.id / "log", tail)

    def file(self, principal: Principal, project: str, id: str, name: str) -> Path:
        """Return where a file that the program left lies; raises `NotFound`, or `Denied` where it is too much to take outside."""
        execution = self.get(principal, project, id)
        if name not in execution.files:
            raise NotFound(f"execution {execution.id} left no file {ascii(name)[:110]}")
        path = self._folder / execution.id / "out" / name
        size = path.stat().st_size
        if principal.sandboxed and principal.door is Door.OUTSIDE and principal.role is not Role.DATA_OWNER and size > _EGRESS_BYTES:
            raise Denied(
                f"{name} has {size} bytes; a {principal.role} takes at most {_EGRESS_BYTES >> 20} MiB out of a sandboxed project: ask a data owner"
            )
        self._note(principal, "program.file", execution, file=name, bytes=size)
        return path

    def _note(self, principal: Principal, action: str, execution: Execution, **more: object) -> None:
        """Keep that somebody reads what a program left: it may be rows."""
        allowed = Decision(allowed=True, visible=True)
        event = access_event(principal, action, surface="programs", project=execution.project, dataset=None, decision=allowed)
        self._journal.record(replace(event, more={"execution": execution.id, **more}))

    def stop(self, principal: Principal, project: str, id: str) -> Execution:
        """End an execution: a queued one at once, a running one is asked by its worker and killed 3 s later. Harmless for an ended one."""
        owner = self._project(principal, Action.PROGRAM_RUN, project)
        with self._repository.transaction() as streams:
            stopped = self._stop(streams, _of(streams, owner, id, principal), "stopped")
        if stopped.state.ended:
            self._forget_files(stopped)
        return stopped

    # For workers

    def take(self, id: str, worker: str) -> Work:
        """Give a queued execution to `worker`; raises `NotFound` or, for one that somebody has or had, `Conflict`."""
        now = self._clock.now()
        with self._repository.transaction() as streams:
            execution = _known(streams, id)
            if execution.state is not ExecutionState.QUEUED:
                raise Conflict(f"execution {id} is {execution.state}")
            taken = replace(
                execution,
                state=ExecutionState.RUNNING,
                attempt=execution.attempt + 1,
                worker=worker,
                started_at=execution.started_at or now,
            )
            streams.put_execution(taken, lease_until=now + _LEASE)
            arguments, memory_mb, cpu_seconds, grant = streams.order(id)
        folder = self._folder / id
        files = {path.name: path.read_bytes() for path in sorted((folder / "in").iterdir())}
        (folder / "log").unlink(missing_ok=True)
        return Work(taken, Program(taken.name, files, arguments, memory_mb, cpu_seconds, taken.label), grant)

    def beat(self, id: str, worker: str) -> bool:
        """Note that `worker` still runs the execution and return whether it is to stop it; raises `Conflict` when it has lost it."""
        with self._repository.transaction() as streams:
            execution = self._held(streams, id, worker)
            streams.extend_lease(id, self._clock.now() + _LEASE)
            return execution.stop_requested

    def end(self, id: str, worker: str, state: ExecutionState, exit_code: int | None, reason: str | None) -> None:
        """Note how an execution ended; raises `Conflict` when `worker` has lost it."""
        with self._repository.transaction() as streams:
            execution = self._held(streams, id, worker)
            if not state.ended:
                raise Conflict(f"{state} is not an end")
            streams.put_execution(replace(execution, state=state, exit_code=exit_code, reason=reason, ended_at=self._clock.now()))
        self._forget_files(execution)

    def add_log(self, id: str, worker: str, offset: int, text: bytes) -> None:
        """Put `text` at `offset` of the log; what is sent again changes nothing."""
        self._require_held(id, worker)
        if offset + len(text) > _LOG_BYTES + 4096:
            return
        descriptor = os.open(self._folder / id / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(offset)
            file.write(text)

    async def add_file(self, id: str, worker: str, name: str, content: AsyncIterator[bytes]) -> None:
        """Keep a file that the program left, whole or not at all; raises `LimitExceeded` above 1 GiB.

        Sending one is a sign of life too: the worker says nothing else meanwhile, and keeps the execution.
        """
        check_file_name(name)
        await run_in_threadpool(self.beat, id, worker)
        beaten = self._clock.now()
        folder = self._folder / id / "out"
        folder.mkdir(mode=0o700, exist_ok=True)
        temporary, size = folder / f".{name}.{secrets.token_hex(4)}", 0
        try:
            with temporary.open("xb") as file:
                async for part in content:
                    size += len(part)
                    if size > _FILE_BYTES:
                        raise LimitExceeded(f"a file of a program has at most {_FILE_BYTES >> 20} MiB")
                    file.write(part)
                    if self._clock.now() - beaten >= _LEASE / 3:
                        await run_in_threadpool(self.beat, id, worker)
                        beaten = self._clock.now()
            await run_in_threadpool(self.beat, id, worker)
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        await run_in_threadpool(self._note_file, id, name)

    # For the platform

    def revoke(self, name: str, generation: int) -> None:
        """End what acts for a removed member or was started by it."""
        project, member, _ = split_principal(name)
        with self._repository.transaction() as streams:
            stopped = [
                self._stop(streams, execution, REVOKED)
                for execution in streams.unended()
                if any(_is(each, project, member, generation) for each in (execution.principal, execution.started_by))
            ]
        for execution in stopped:
            if execution.state.ended:
                self._forget_files(execution)

    def resume(self) -> None:
        """Make good what this process could not do while it was away; called once at its start."""
        with self._repository.transaction() as streams:
            streams.extend_all_leases(self._clock.now() + _LEASE)

    def reconcile(self) -> None:
        """Take executions from workers that are gone, and announce again what nobody took for a while. Called every few seconds."""
        now = self._clock.now()
        given_up = []
        with self._repository.transaction() as streams:
            for execution in streams.expired(now):
                state, reason = abandoned(execution)
                changed = replace(execution, state=state, reason=reason, worker=None, ended_at=now if state.ended else None)
                streams.put_execution(changed)
                if state.ended:
                    given_up.append(changed)
                self._announced.pop(execution.id, None)
                logger.warning("an execution's worker is gone", extra={"execution": execution.id, "state": state.value})
            queued = [each for each in streams.unended() if each.state is ExecutionState.QUEUED]
        for execution in given_up:
            self._forget_files(execution)
        self._announced = {each.id: at for each in queued if (at := self._announced.get(each.id))}
        for execution in queued:
            at = self._announced.get(execution.id)
            if at is None or now - at > _ANNOUNCE_AGAIN:
                self._announce(execution)

    def _announce(self, execution: Execution) -> None:
        self._queue.announce(execution)
        self._announced[execution.id] = self._clock.now()

    def _stop(self, streams: Transaction, execution: Execution, reason: str) -> Execution:
        if execution.state.ended:
            return execution
        if execution.state is ExecutionState.QUEUED:
            stopped = replace(execution, state=ExecutionState.STOPPED, reason=reason, ended_at=self._clock.now())
            streams.put_execution(stopped)
            return stopped
        asked = replace(execution, stop_requested=True)
        streams.put_execution(asked, lease_until=self._clock.now() + _LEASE)
        return asked

    def _held(self, streams: Transaction, id: str, worker: str) -> Execution:
        execution = _known(streams, id)
        if execution.state is not ExecutionState.RUNNING or execution.worker != worker:
            raise Conflict(f"execution {id} is not {worker}'s any more: it is {execution.state}")
        return execution

    def _require_held(self, id: str, worker: str) -> None:
        with self._repository.transaction() as streams:
            self._held(streams, id, worker)

    def _note_file(self, id: str, name: str) -> None:
        with self._repository.transaction() as streams:
            streams.add_file(id, name)

    def _forget_files(self, execution: Execution) -> None:
        """Remove the files of an execution that nobody will run any more; only when that is committed."""
        shutil.rmtree(self._folder / execution.id / "in", ignore_errors=True)

    def _keep_files(self, id: str, program: Program) -> None:
        folder = self._folder / id / "in"
        folder.mkdir(parents=True, mode=0o700)
        for name, content in program.files.items():
            (folder / name).write_bytes(content)

    def _project(self, principal: Principal, action: Action, project: str) -> ProjectName:
        name = parse_project(project)
        decision = decide(principal, action, project=name)
        self._journal.require(decision, principal, action, surface="programs", project=name, thing=f"project {name}")
        return name


def last_lines(path: Path, count: int) -> str:
    """Return the last `count` lines of a text file, of at most 1 MiB; nothing where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-count:]) if count > 0 else ""


def _known(streams: Transaction, id: str) -> Execution:
    execution = streams.execution(id)
    if execution is None:
        raise NotFound(f"there is no execution {ascii(id)[:40]}")
    return execution


def _open_to(principal: Principal, execution: Execution) -> bool:
    """Return whether the principal may see an execution at all: what a program printed may be rows that a restricted member may not see."""
    return principal.role is not Role.RESTRICTED or principal.name in (execution.started_by, execution.principal)


def _unended(streams: Transaction, project: ProjectName) -> int:
    return sum(each.project == project for each in streams.unended())


def _of(streams: Transaction, project: ProjectName, id: str, principal: Principal) -> Execution:
    execution = streams.execution(id)
    if execution is None or execution.project != project or not _open_to(principal, execution):
        raise NotFound(f"there is no execution {ascii(id)[:40]} in project {project}")
    return execution


def _is(principal: str, project: str, member: str, generation: int) -> bool:
    found = split_principal(principal)
    return found[:2] == (project, member) and found[2] <= generation
