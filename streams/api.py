"""Streams over HTTP: `public` is what the gateway passes on, `internal` is for the platform's processes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from streams.model import PROCESSOR_KINDS
from streams.programs.model import Execution, ExecutionState, Program
from streams.programs.service import ProgramService
from streams.reconcile import Reconciliation
from streams.repository import StoredProcessor
from streams.service import ProcessorService
from tenancy.api import bearer, caller, require_peer
from tenancy.model import Principal
from tenancy.policy import Action, decide, require
from wardstream.errors import Invalid
from wardstream.names import parse_project

public = APIRouter(prefix="/v1")
internal = APIRouter(prefix="/internal/v1", include_in_schema=False)

Tail = Annotated[int, Query(ge=1, le=10_000, description="how many of the last lines")]


def _processors(request: Request) -> ProcessorService:
    return cast(ProcessorService, request.app.state.processors)


def _programs(request: Request) -> ProgramService:
    return cast(ProgramService, request.app.state.programs)


def _program_worker(request: Request) -> str:
    return require_peer(request, "ws-program-worker")


Caller = Annotated[Principal, Depends(caller)]
Grant = Annotated[str, Depends(bearer)]
Processors = Annotated[ProcessorService, Depends(_processors)]
Programs = Annotated[ProgramService, Depends(_programs)]
ProgramWorker = Annotated[str, Depends(_program_worker)]


class _Body(BaseModel):
    """What is sent: unknown fields are refused, so that a misspelt one is not silently left out."""

    model_config = ConfigDict(extra="forbid")


class DeployProcessor(_Body):
    """A processor to be run."""

    name: str
    kind: str = Field(description=f"a built-in kind: {', '.join(sorted(PROCESSOR_KINDS))}")
    source: str = Field(description="the dataset that is read")
    result: str = Field(description="the feature group's dataset that is filled, <group>_<version>")
    parameters: dict[str, Any] = Field(default_factory=dict)


class ProcessorState(BaseModel):
    """A processor and what it does."""

    name: str
    kind: str
    runtime: str
    source: str
    result: str
    parameters: dict[str, Any]
    wanted: str = Field(description="running or paused")
    state: str = Field(description="starting, running, waiting (it failed and is started again), failed (left alone) or paused")
    reason: str | None
    restarts: int
    since: datetime
    created_by: str
    created_at: datetime


class RunProgram(_Body):
    """A program to be run once."""

    name: str = Field(description="the script among the files")
    files: dict[str, str] = Field(description="name -> content, base64")
    arguments: list[str] = Field(default_factory=list)
    run_as: str | None = Field(default=None, description="a service of the project; left out: the caller's own name")
    memory_mb: int = Field(default=2048, description="address space of each process, and memory of all together")
    cpu_seconds: int = 600
    label: str = Field(default="cpu", description="kind of worker")


class ExecutionShown(BaseModel):
    """One run of a program."""

    id: str
    project: str
    name: str
    principal: str
    started_by: str
    label: str
    state: str = Field(description="queued, running, succeeded, failed or stopped")
    attempt: int
    exit_code: int | None
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    files: list[str]


class ReconciliationState(BaseModel):
    """Whether one feature group is exactly what its topic says: `difference` is 0 and `online_equal` true."""

    group: str
    version: int
    records: int
    rows: int
    repeats: int
    deletions: int
    dead_letters: int
    behind: int = Field(description="records that the table has not reached yet")
    online_rows: int | None
    online_different: int | None
    online_equal: bool | None
    difference: int


# Processors


@public.get("/projects/{project}/processors", name="list-processors", summary="Processors of a project")
def list_processors(project: str, principal: Caller, processors: Processors) -> list[ProcessorState]:
    """By name, with what each does now."""
    return [_processor(each) for each in processors.list(principal, project)]


@public.post("/projects/{project}/processors", name="deploy-processor", summary="Run a processor", status_code=201)
def deploy_processor(project: str, body: DeployProcessor, principal: Caller, grant: Grant, processors: Processors) -> ProcessorState:
    """From a dataset into a feature group. The same again changes nothing."""
    return _processor(
        processors.deploy(
            principal,
            grant,
            project,
            name=body.name,
            kind=body.kind,
            source=body.source,
            result=body.result,
            parameters=body.parameters,
        )
    )


@public.get("/projects/{project}/processors/{processor}", name="describe-processor", summary="One processor")
def describe_processor(project: str, processor: str, principal: Caller, processors: Processors) -> ProcessorState:
    """Its state, how often it was restarted, and why it last failed."""
    return _processor(processors.describe(principal, project, processor))


@public.post("/projects/{project}/processors/{processor}/pause", name="pause-processor", summary="Stop a processor for a while")
def pause_processor(project: str, processor: str, principal: Caller, processors: Processors) -> ProcessorState:
    """Where it stopped is kept."""
    return _processor(processors.pause(principal, project, processor))


@public.post("/projects/{project}/processors/{processor}/resume", name="resume-processor", summary="Start a paused or failed processor")
def resume_processor(project: str, processor: str, principal: Caller, processors: Processors) -> ProcessorState:
    """It goes on where it stopped."""
    return _processor(processors.resume(principal, project, processor))


@public.delete("/projects/{project}/processors/{processor}", name="remove-processor", summary="Remove a processor", status_code=204)
def remove_processor(project: str, processor: str, principal: Caller, grant: Grant, processors: Processors) -> Response:
    """Its rights and its own topics go; its results stay."""
    processors.remove(principal, grant, project, processor)
    return Response(status_code=204)


@public.get(
    "/projects/{project}/processors/{processor}/logs", name="processor-log", summary="A processor's log", response_class=PlainTextResponse
)
def processor_log(project: str, processor: str, principal: Caller, processors: Processors, tail: Tail = 100) -> str:
    """The last lines."""
    return processors.log(principal, project, processor, tail=tail)


# Programs


@public.get("/projects/{project}/programs", name="list-executions", summary="Executions of a project's programs")
def list_executions(project: str, principal: Caller, programs: Programs) -> list[ExecutionShown]:
    """The newest first."""
    return [_execution(each) for each in programs.list(principal, project)]


@public.post("/projects/{project}/programs", name="run-program", summary="Run a program in a sandbox", status_code=201)
def run_program(project: str, body: RunProgram, principal: Caller, grant: Grant, programs: Programs) -> ExecutionShown:
    """It is queued when this returns."""
    files = {name: _decoded(name, text) for name, text in body.files.items()}
    program = Program(body.name, files, tuple(body.arguments), body.memory_mb, body.cpu_seconds, body.label)
    return _execution(programs.run(principal, grant, project, program, run_as=body.run_as))


@public.get("/projects/{project}/programs/{execution}", name="describe-execution", summary="One execution")
def describe_execution(project: str, execution: str, principal: Caller, programs: Programs) -> ExecutionShown:
    """Its state, and why it ended."""
    return _execution(programs.get(principal, project, execution))


@public.get(
    "/projects/{project}/programs/{execution}/logs",
    name="execution-log",
    summary="What a program printed",
    response_class=PlainTextResponse,
)
def execution_log(project: str, execution: str, principal: Caller, programs: Programs, tail: Tail = 1000) -> str:
    """The last lines."""
    return programs.log(principal, project, execution, tail=tail)


@public.get(
    "/projects/{project}/programs/{execution}/files/{name}",
    name="execution-file",
    summary="A file that a program left",
    response_class=FileResponse,
)
def execution_file(project: str, execution: str, name: str, principal: Caller, programs: Programs) -> FileResponse:
    """Outside a sandboxed project, only as much as a result has."""
    return FileResponse(programs.file(principal, project, execution, name), media_type="application/octet-stream", filename=name)


@public.delete("/projects/{project}/programs/{execution}", name="stop-execution", summary="End an execution")
def stop_execution(project: str, execution: str, principal: Caller, programs: Programs) -> ExecutionShown:
    """It is asked to end, and killed 3 s later."""
    return _execution(programs.stop(principal, project, execution))


@public.get("/projects/{project}/reconciliation", name="reconciliation", summary="Whether tables are what the topics say")
def reconciliation(request: Request, project: str, principal: Caller) -> list[ReconciliationState]:
    """For each feature group that the caller may know of: counts of the topic, of the table and of the online rows; one at a time."""
    count: Callable[[Principal, str], list[Reconciliation]] = request.app.state.reconciliation
    return [_reconciliation(each) for each in count(principal, project)]


# For the platform


class TakeBody(_Body):
    """A worker that wants to run an execution."""

    worker: str


class WorkShown(BaseModel):
    """All that a worker needs to run it."""

    project: str
    name: str
    principal: str
    started_by: str
    attempt: int
    grant: str
    arguments: list[str]
    files: dict[str, str]
    memory_mb: int
    cpu_seconds: int
    label: str


class StatusBody(_Body):
    """What a worker says of an execution: that it runs still, or how it ended."""

    worker: str
    state: ExecutionState
    exit_code: int | None = None
    reason: str | None = None


class StatusAnswer(BaseModel):
    """Whether the worker is to end it."""

    stop: bool


class RevocationBody(_Body):
    """A removed member."""

    principal: str
    generation: int


@internal.post("/executions/{execution}/take", name="take-execution")
def take_execution(execution: str, body: TakeBody, programs: Programs, _: ProgramWorker) -> WorkShown:
    """Give a queued execution to a worker; 409 for one that somebody has or had."""
    work = programs.take(execution, body.worker)
    return WorkShown(
        project=work.execution.project,
        name=work.execution.name,
        principal=work.execution.principal,
        started_by=work.execution.started_by,
        attempt=work.execution.attempt,
        grant=work.grant,
        arguments=list(work.program.arguments),
        files={name: base64.b64encode(content).decode() for name, content in work.program.files.items()},
        memory_mb=work.program.memory_mb,
        cpu_seconds=work.program.cpu_seconds,
        label=work.program.label,
    )


@internal.post("/executions/{execution}/status", name="execution-status")
def execution_status(execution: str, body: StatusBody, programs: Programs, _: ProgramWorker) -> StatusAnswer:
    """Note what the worker says; 409 when the execution is not its own any more."""
    if body.state is ExecutionState.RUNNING:
        return StatusAnswer(stop=programs.beat(execution, body.worker))
    programs.end(execution, body.worker, body.state, body.exit_code, body.reason)
    return StatusAnswer(stop=False)


@internal.post("/executions/{execution}/logs", name="add-execution-log", status_code=204)
async def add_execution_log(request: Request, execution: str, worker: str, offset: int, programs: Programs, _: ProgramWorker) -> Response:
    """Keep a part of what the program printed."""
    await run_in_threadpool(programs.add_log, execution, worker, offset, await request.body())
    return Response(status_code=204)


@internal.put("/executions/{execution}/files/{name}", name="add-execution-file", status_code=204)
async def add_execution_file(request: Request, execution: str, name: str, worker: str, programs: Programs, _: ProgramWorker) -> Response:
    """Keep a file that the program left."""
    await programs.add_file(execution, worker, name, request.stream())
    return Response(status_code=204)


@internal.post("/projects/{project}/flush", name="flush", status_code=204)
def flush(request: Request, project: str, principal: Caller) -> Response:
    """Make durable now what has arrived for the project's feature groups: an insert of the caller's waits for it."""
    require_peer(request, "ws-gateway")
    require(decide(principal, Action.DATASET_LIST, project=parse_project(project)), f"project {project}")
    ask: Callable[[str], None] = request.app.state.flush
    ask(project)
    return Response(status_code=204)


@internal.post("/revocations", name="revocation", status_code=204)
def revocation(request: Request, body: RevocationBody) -> Response:
    """Refuse a member's grants from now on and end what runs for it."""
    require_peer(request, "ws-control")
    revoke: Callable[[str, int], None] = request.app.state.revoke
    revoke(body.principal, body.generation)
    return Response(status_code=204)


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"the content of {ascii(name)[:110]} is not base64") from error


def _processor(stored: StoredProcessor) -> ProcessorState:
    spec = stored.spec
    return ProcessorState(
        name=spec.name,
        kind=spec.kind,
        runtime=spec.runtime.value,
        source=spec.source,
        result=spec.result,
        parameters=dict(spec.parameters),
        wanted=stored.wanted.value,
        state=stored.state.value,
        reason=stored.reason,
        restarts=stored.restarts,
        since=stored.since,
        created_by=stored.created_by,
        created_at=stored.created_at,
    )


def _execution(execution: Execution) -> ExecutionShown:
    return ExecutionShown(
        id=execution.id,
        project=execution.project,
        name=execution.name,
        principal=execution.principal,
        started_by=execution.started_by,
        label=execution.label,
        state=execution.state.value,
        attempt=execution.attempt,
        exit_code=execution.exit_code,
        reason=execution.reason,
        created_at=execution.created_at,
        started_at=execution.started_at,
        ended_at=execution.ended_at,
        files=list(execution.files),
    )


def _reconciliation(found: Reconciliation) -> ReconciliationState:
    return ReconciliationState(
        group=found.group,
        version=found.version,
        records=found.records,
        rows=found.rows,
        repeats=found.repeats,
        deletions=found.deletions,
        dead_letters=found.dead_letters,
        behind=found.behind,
        online_rows=found.online_equal,
        online_different=found.online_different,
        online_equal=None if found.online_different is None else found.online_different == 0,
        difference=found.difference,
    )
