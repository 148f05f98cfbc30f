"""Reading and writing the streams database, in transactions of plain values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlalchemy.exc import OperationalError

from streams import tables
from streams.model import ProcessorSpec
from streams.programs.model import Execution, ExecutionState, Program
from wardstream.errors import Unavailable
from wardstream.names import MemberName, PrincipalName, ProjectName


class Wanted(StrEnum):
    """What a processor is to do."""

    RUNNING = "running"
    PAUSED = "paused"
    REMOVED = "removed"


class Condition(StrEnum):
    """What something that is supervised does."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """It failed and is started again in a moment."""
    FAILED = "failed"
    """It failed too often in a row and is left alone until somebody resumes it."""
    PAUSED = "paused"


@dataclass(frozen=True)
class StoredProcessor:
    """A processor with what is wanted of it and what it does."""

    spec: ProcessorSpec
    wanted: Wanted
    created_by: PrincipalName
    created_at: datetime
    state: Condition
    reason: str | None
    restarts: int
    since: datetime


class Repository:
    """The streams database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield a transaction that is committed when the block ends well and undone when it raises.

        Raises `Unavailable` when the database does not answer in time.
        """
        try:
            with self._engine.begin() as connection:
                yield Transaction(connection)
        except OperationalError as error:
            raise Unavailable("the streams database does not answer", reason=str(error.orig)) from error


class Transaction:
    """Everything that can be asked of and done to the database; good for the one `with` block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # Processors

    def processors(self, project: ProjectName | None = None) -> list[StoredProcessor]:
        """Return processors by name, removed ones left out, of one project or of all."""
        table = tables.processors
        query = select(table).where(table.c.wanted != Wanted.REMOVED.value).order_by(table.c.project, table.c.name)
        if project is not None:
            query = query.where(table.c.project == project)
        return [_processor(row) for row in self._connection.execute(query)]

    def processor(self, project: ProjectName, name: MemberName) -> StoredProcessor | None:
        """Return the processor, removed or not, or None where there never was one of this name."""
        table = tables.processors
        row = self._connection.execute(select(table).where(table.c.project == project, table.c.name == name)).one_or_none()
        return None if row is None else _processor(row)

    def put_processor(self, stored: StoredProcessor) -> None:
        """Keep `stored` in place of whatever was kept under its name."""
        table, spec = tables.processors, stored.spec
        values = {
            "spec": spec.to_json(),
            "wanted": stored.wanted.value,
            "created_by": stored.created_by,
            "created_at": stored.created_at,
            "state": stored.state.value,
            "reason": stored.reason,
            "restarts": stored.restarts,
            "since": stored.since,
        }
        changed = self._connection.execute(update(table).where(table.c.project == spec.project, table.c.name == spec.name).values(**values))
        if not changed.rowcount:
            self._connection.execute(insert(table).values(project=spec.project, name=spec.name, **values))

    def seen(self, project: ProjectName, name: MemberName, state: Condition, reason: str | None, restarts: int, at: datetime) -> None:
        """Keep what a processor does, as it was last seen."""
        table = tables.processors
        self._connection.execute(
            update(table)
            .where(table.c.project == project, table.c.name == name)
            .values(state=state.value, reason=reason, restarts=restarts, since=at)
        )

    # Executions

    def add_execution(self, execution: Execution, program: Program, grant: str) -> None:
        """Keep a new execution; the program's files are kept elsewhere."""
        self._connection.execute(
            insert(tables.executions).values(
                id=execution.id,
                project=execution.project,
                name=execution.name,
                principal=execution.principal,
                started_by=execution.started_by,
                label=execution.label,
                arguments=list(program.arguments),
                memory_mb=program.memory_mb,
                cpu_seconds=program.cpu_seconds,
                grant=grant,
                state=execution.state.value,
                attempt=execution.attempt,
                stop_requested=False,
                files=[],
                created_at=execution.created_at,
            )
        )

    def executions(self, project: ProjectName, limit: int) -> list[Execution]:
        """Return a project's executions, newest first."""
        table = tables.executions
        query = select(table).where(table.c.project == project).order_by(table.c.created_at.desc(), table.c.id).limit(limit)
        return [_execution(row) for row in self._connection.execute(query)]

    def unended(self) -> list[Execution]:
        """Return every execution that is queued or running."""
        table = tables.executions
        states = [ExecutionState.QUEUED.value, ExecutionState.RUNNING.value]
        return [
            _execution(row) for row in self._connection.execute(select(table).where(table.c.state.in_(states)).order_by(table.c.created_at))
        ]

    def execution(self, id: str) -> Execution | None:
        """Return the execution, or None."""
        table = tables.executions
        row = self._connection.execute(select(table).where(table.c.id == id)).one_or_none()
        return None if row is None else _execution(row)

    def order(self, id: str) -> tuple[tuple[str, ...], int, int, str]:
        """Return arguments, memory in MiB, processor seconds and grant of an execution that exists."""
        table = tables.executions
        row = self._connection.execute(select(table).where(table.c.id == id)).one()
        return tuple(row.arguments), row.memory_mb, row.cpu_seconds, row.grant

    def put_execution(self, execution: Execution, *, lease_until: datetime | None = None) -> None:
        """Keep what changes in an execution's life."""
        table = tables.executions
        self._connection.execute(
            update(table)
            .where(table.c.id == execution.id)
            .values(
                state=execution.state.value,
                attempt=execution.attempt,
                worker=execution.worker,
                lease_until=lease_until,
                stop_requested=execution.stop_requested,
                exit_code=execution.exit_code,
                reason=execution.reason,
                files=list(execution.files),
                started_at=execution.started_at,
                ended_at=execution.ended_at,
            )
        )

    def extend_lease(self, id: str, until: datetime) -> None:
        """Give the worker of a running execution more time to say something."""
        table = tables.executions
        self._connection.execute(update(table).where(table.c.id == id).values(lease_until=until))

    def extend_all_leases(self, until: datetime) -> None:
        """Do so for every running execution: their workers could say nothing while this process was away."""
        table = tables.executions
        self._connection.execute(update(table).where(table.c.state == ExecutionState.RUNNING.value).values(lease_until=until))

    def expired(self, now: datetime) -> list[Execution]:
        """Return the running executions whose worker has said nothing for too long."""
        table = tables.executions
        query = select(table).where(table.c.state == ExecutionState.RUNNING.value, table.c.lease_until < now)
        return [_execution(row) for row in self._connection.execute(query)]

    def add_file(self, id: str, name: str) -> None:
        """Note that the execution left the file `name`."""
        execution = self.execution(id)
        if execution is not None and name not in execution.files:
            table = tables.executions
            files = [*execution.files, name]
            self._connection.execute(update(table).where(table.c.id == id).values(files=files))


def with_state(stored: StoredProcessor, state: Condition, at: datetime, reason: str | None = None) -> StoredProcessor:
    """Return `stored` as it is from now on."""
    return replace(stored, state=state, reason=reason, since=at)


def _processor(row: Row[tuple[object, ...]]) -> StoredProcessor:
    return StoredProcessor(
        ProcessorSpec.from_json(row.spec),
        Wanted(row.wanted),
        PrincipalName(row.created_by),
        row.created_at,
        Condition(row.state),
        row.reason,
        row.restarts,
        row.since,
    )


def _execution(row: Row[tuple[object, ...]]) -> Execution:
    return Execution(
        row.id,
        ProjectName(row.project),
        row.name,
        PrincipalName(row.principal),
        PrincipalName(row.started_by),
        row.label,
        ExecutionState(row.state),
        row.attempt,
        row.created_at,
        row.started_at,
        row.ended_at,
        row.exit_code,
        row.reason,
        tuple(row.files),
        row.worker,
        row.stop_requested,
    )
