"""The program-worker process: `python -m streams.programs.worker`.

Takes executions of its label from the platform's topic, runs each in a sandbox under a certificate of its own, and sends log
and files to the stream-worker. It holds no right but to read that topic, and no credential of a project for longer than
an execution.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import Consumer, KafkaException, TopicPartition
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from streams.control import Control, Identity
from streams.programs.model import (
    CERTIFICATE,
    KEY,
    MOST_FILE_BYTES,
    REVOKED,
    ROOT,
    WALL_SECONDS,
    ExecutionState,
    Program,
    ended,
    with_files_left_out,
)
from streams.programs.sandbox import Job, Sandbox, ways_out
from tenancy.acls import EXECUTIONS_TOPIC
from tenancy.api import require_peer, voids
from wardstream import processes
from wardstream.client.transport import Transport
from wardstream.errors import Conflict, NotFound, Unavailable, WardstreamError
from wardstream.kafka import consumer, kafka_error
from wardstream.names import split_principal
from wardstream.processes import ProcessRecord
from wardstream.server import application, platform_listener, serve
from wardstream.settings import ProgramWorkerSettings, load
from wardstream.telemetry import configure_logging

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_BEAT_SECONDS = 1.0
_CONSUME_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_LOG_PART = 1 << 20
# A worker that dies gives its partitions back after this long: the least that a broker accepts.
_SESSION_MS = 6_000


@dataclass
class Running:
    """One execution of this worker."""

    id: str
    principal: str
    started_by: str
    record: ProcessRecord | None = None
    ending: str | None = None
    """Why it is being ended, if it is."""
    log_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ProgramWorker:
    """Takes and runs executions, at most `slots` at a time."""

    def __init__(self, settings: ProgramWorkerSettings, control: Control, streams: Transport) -> None:
        self._settings = settings
        self._control = control
        self._streams = streams
        self._name = f"{settings.label}-{secrets.token_hex(4)}"
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "STACK_HOME": str(settings.home)}
        self._records = settings.home / "processes"
        self._sandbox = Sandbox(settings.home / "executions", records=self._records, environment=environment)
        self._free = threading.Semaphore(settings.slots)
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._waiting: str | None = "the topic of executions has not been read yet"
        self._thread = threading.Thread(target=self._run, name="executions", daemon=True)

    def begin(self) -> None:
        """End what an earlier run left, then take executions."""
        for record in processes.recorded(self._records):
            if record.name.startswith("execution-"):
                processes.stop(record, folder=self._records, seconds=5)
        self._sandbox.clear()
        self._thread.start()

    def end(self) -> None:
        """End all executions; the stream-worker gives them to another worker when this one stays silent."""
        self._stopped.set()
        with self._lock:
            running = list(self._running.values())
        for each in running:
            if each.record is not None:
                with suppress(ProcessLookupError):
                    os.killpg(each.record.pid, 9)
        self._thread.join(timeout=5)

    def waiting(self) -> str | None:
        """Return what keeps this worker from taking executions, or None."""
        return self._waiting

    def revoke(self, principal: str, generation: int) -> int:
        """Ask every execution that acts for a removed member, or was started by it, to end, kill it 3 s later; returns how many."""
        project, member, _ = split_principal(principal)
        with self._lock:
            found = [
                each
                for each in self._running.values()
                if any(_is(name, project, member, generation) for name in (each.principal, each.started_by))
            ]
        for each in found:
            self._end(each, REVOKED)
        return len(found)

    # Taking

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._take_all()
            except WardstreamError as error:
                self._waiting = error.message
                logger.warning("will try again", extra={"reason": error.message, **error.details})
            except Exception:
                self._waiting = "something went wrong here; the log of the program worker says what"
                logger.exception("will try again")
            self._stopped.wait(_RETRY_SECONDS)

    def _take_all(self) -> None:
        client = consumer(
            self._settings.kafka,
            group=f"ws-program-worker.{self._settings.label}",
            # The newer protocol keeps a dead member's partitions for 45 s.
            group_protocol="classic",
            session_timeout_ms=_SESSION_MS,
            heartbeat_interval_ms=1_500,
        )
        try:
            client.subscribe([EXECUTIONS_TOPIC], on_assign=self._assigned)
            while not self._stopped.is_set():
                self._take_one(client)
        finally:
            client.close()

    def _assigned(self, client: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # Also called with none, where there are more workers than partitions.
        self._waiting = None

    def _take_one(self, client: Consumer) -> None:
        # A slot first: what has been read and cannot be run would keep other workers waiting.
        if not self._free.acquire(timeout=_CONSUME_SECONDS):
            # Polled all the same, or the broker takes this member for dead; nothing comes from paused partitions.
            assigned = client.assignment()
            client.pause(assigned)
            client.poll(0)
            client.resume(assigned)
            return
        taken = False
        try:
            messages = client.consume(1, _CONSUME_SECONDS)
            for message in messages:
                if (error := message.error()) is not None:
                    raise kafka_error(KafkaException(error), f"read {EXECUTIONS_TOPIC}")
                taken = self._offered(message.value())
                # Committed when it is taken: from here on its lease at the stream-worker brings it back, not the topic.
                place = TopicPartition(EXECUTIONS_TOPIC, cast(int, message.partition()), cast(int, message.offset()) + 1)
                with suppress(KafkaException):
                    client.commit(offsets=[place], asynchronous=False)
        finally:
            if not taken:
                self._free.release()

    def _offered(self, value: bytes | None) -> bool:
        """Take an execution if it is for this worker and still to be had."""
        try:
            found = json.loads(value or b"")
            id, label = str(found["id"]), str(found["label"])
        except (ValueError, KeyError, TypeError):
            logger.warning("a record on the topic of executions is none")
            return False
        if label != self._settings.label:
            return False
        try:
            work = self._streams.json("POST", f"/internal/v1/executions/{id}/take", json={"worker": self._name})
        except (Conflict, NotFound):
            return False
        running = Running(id, work["principal"], work["started_by"])
        with self._lock:
            self._running[id] = running
        threading.Thread(target=self._execute, args=(running, work), name=f"execution {id}", daemon=True).start()
        return True

    # Running

    def _execute(self, running: Running, work: Mapping[str, Any]) -> None:
        name = f"execution-{running.id}"
        try:
            self._run_to_end(name, running, work)
        except Conflict as error:
            # It was given to somebody else, or ended by hand.
            logger.warning("an execution was lost", extra={"execution": running.id, "reason": error.message})
        except Exception:
            logger.exception("an execution was given up", extra={"execution": running.id})
        finally:
            try:
                if running.record is not None:
                    self._sandbox.stop(running.record)
                self._sandbox.remove(name)
            except Exception:
                logger.exception("what an execution left could not be removed", extra={"execution": running.id})
            finally:
                # Whatever a job leaves behind: a slot that is not given back is lost until this process ends.
                with self._lock:
                    del self._running[running.id]
                self._free.release()

    def _run_to_end(self, name: str, running: Running, work: Mapping[str, Any]) -> None:
        files = {file: base64.b64decode(text) for file, text in work["files"].items()}
        program = Program(work["name"], files, tuple(work["arguments"]), work["memory_mb"], work["cpu_seconds"], work["label"])
        try:
            identity = self._control.execution_identity(work["grant"])
        except Unavailable as error:
            # Control is away, which says nothing about the program: when its lease has run out, it is tried again.
            logger.warning("an execution has no certificate yet", extra={"execution": running.id, "reason": error.message})
            return
        except WardstreamError as error:
            self._report(running, ExecutionState.FAILED, None, f"it could not be started: {error.message}")
            return
        try:
            job = self._job(name, program, identity, work)
            with running.lock:
                if running.ending is None:
                    running.record = self._sandbox.start(job)
        except WardstreamError as error:
            self._report(running, ExecutionState.FAILED, None, f"it could not be started: {error.message}")
            return
        if running.record is None:
            self._report(running, ExecutionState.STOPPED, None, running.ending)
            return
        logger.info("an execution runs", extra={"execution": running.id, "principal": running.principal, "attempt": work["attempt"]})
        code = self._watch(name, running, running.record)
        if self._stopped.is_set():
            return
        end = self._sandbox.end(name)
        reason: str | None
        if end is None:
            state = ExecutionState.FAILED if running.ending is None else ExecutionState.STOPPED
            reason = running.ending or "its sandbox was killed from outside"
        else:
            state, reason = ended(end.code, running.ending or end.reason, cpu_seconds=program.cpu_seconds)
            code = end.code
        self._patiently(lambda: self._send_log(name, running))
        if state is not ExecutionState.STOPPED or running.ending != REVOKED:
            reason = with_files_left_out(reason, self._send_files(name, running))
        self._report(running, state, code, reason)
        logger.info("an execution ended", extra={"execution": running.id, "state": state.value, "exit_code": code})

    def _job(self, name: str, program: Program, identity: Identity, work: Mapping[str, Any]) -> Job:
        settings = self._settings
        return Job(
            name=name,
            command=["python", "-u", f"/job/{program.name}", *program.arguments],
            files={
                **program.files,
                CERTIFICATE: identity.certificate.encode(),
                KEY: identity.key.encode(),
                ROOT: settings.tls.ca_file.read_bytes(),
            },
            environment={
                "PYTHONPATH": "/job",
                "WARDSTREAM_URL": settings.inside_url,
                "WARDSTREAM_CA": f"/job/{ROOT}",
                "WARDSTREAM_CERTIFICATE": f"/job/{CERTIFICATE}",
                "WARDSTREAM_KEY": f"/job/{KEY}",
                "WARDSTREAM_PROJECT": work["project"],
                "WARDSTREAM_BOOTSTRAP": settings.worker_bootstrap_servers,
            },
            ways_out=ways_out(settings.worker_bootstrap_servers, settings.inside_url),
            limits=program.limits,
            wall_seconds=WALL_SECONDS,
        )

    def _watch(self, name: str, running: Running, record: ProcessRecord) -> int | None:
        """Return the exit code when the job has ended, sending what it prints and asking whether it is to go on."""
        beaten = 0.0
        while True:
            code = processes.reap(record)
            if code is not None or not record.alive:
                return code
            if time.monotonic() - beaten >= _BEAT_SECONDS:
                beaten = time.monotonic()
                try:
                    self._send_log(name, running)
                    answer = self._status(running, ExecutionState.RUNNING, None, None)
                    if answer["stop"]:
                        self._end(running, "stopped")
                except Unavailable as error:
                    logger.warning("the stream worker is away", extra={"execution": running.id, "reason": error.message})
            self._stopped.wait(_LOOK_SECONDS)
            if self._stopped.is_set():
                return None

    def _end(self, running: Running, reason: str) -> None:
        """Ask the job to end; its launcher kills it after its grace."""
        with running.lock:
            if running.ending is not None:
                return
            running.ending = reason
            if running.record is not None and running.record.alive:
                with suppress(ProcessLookupError):
                    os.kill(running.record.pid, 15)

    # Telling

    def _send_log(self, name: str, running: Running) -> None:
        path = self._sandbox.log_of(name)
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(running.log_sent)
            while part := file.read(_LOG_PART):
                self._streams.request(
                    "POST",
                    f"/internal/v1/executions/{running.id}/logs",
                    content=part,
                    params={"worker": self._name, "offset": running.log_sent},
                )
                running.log_sent += len(part)

    def _send_files(self, name: str, running: Running) -> list[str]:
        """Send what the job left and return the names of the files that are too large for it."""
        too_large = []
        for file, descriptor in self._sandbox.written(name):
            size = os.fstat(descriptor).st_size
            if size > MOST_FILE_BYTES:
                logger.warning("a file is too large to be kept", extra={"execution": running.id, "bytes": size})
                too_large.append(file)
                continue
            with os.fdopen(os.dup(descriptor), "rb") as opened:
                content = opened.read(MOST_FILE_BYTES)
            self._patiently(
                lambda file=file, content=content: self._streams.request(  # type: ignore[misc]  # bound now
                    "PUT", f"/internal/v1/executions/{running.id}/files/{file}", content=content, params={"worker": self._name}
                )
            )
        return too_large

    def _report(self, running: Running, state: ExecutionState, code: int | None, reason: str | None) -> None:
        self._patiently(lambda: self._status(running, state, code, reason))

    def _status(self, running: Running, state: ExecutionState, code: int | None, reason: str | None) -> Mapping[str, Any]:
        body = {"worker": self._name, "state": state.value, "exit_code": code, "reason": reason}
        answer: Mapping[str, Any] = self._streams.json("POST", f"/internal/v1/executions/{running.id}/status", json=body)
        return answer

    def _patiently(self, say: Callable[[], object]) -> None:
        """Say it until it is heard: the stream-worker may be restarting."""
        while True:
            try:
                say()
                return
            except Unavailable as error:
                logger.warning("will say it again", extra={"reason": error.message})
                if self._stopped.wait(_RETRY_SECONDS):
                    return


class RevocationBody(BaseModel):
    """A removed member."""

    model_config = ConfigDict(extra="forbid")

    principal: str
    generation: int


internal = APIRouter(prefix="/internal/v1", include_in_schema=False)


@internal.post("/revocations", name="revocation", status_code=204)
def revocation(request: Request, body: RevocationBody) -> Response:
    """End what runs for a removed member."""
    require_peer(request, "ws-control")
    worker: ProgramWorker = request.app.state.worker
    ended_now = worker.revoke(body.principal, body.generation)
    logger.info("access ended", extra={"principal": body.principal, "generation": body.generation, "executions_ended": ended_now})
    return Response(status_code=204)


def build(worker: ProgramWorker) -> FastAPI:
    """Return the application."""
    app = application("Wardstream programs", ready={"executions": worker.waiting})
    app.state.worker = worker
    # Nothing here is decided by what a grant says: what an execution may do, broker and doors know.
    app.state.void = lambda project, member, before: None
    app.include_router(internal)
    app.include_router(voids)
    return app


def main() -> int:
    """Serve until SIGTERM; then end all executions."""
    try:
        settings = load(ProgramWorkerSettings)
        configure_logging("program-worker", settings.log_level)
        pair = (settings.tls.certificate_file, settings.tls.key_file)
        control = Transport(settings.control_url, ca_file=settings.tls.ca_file, certificate=pair)
        streams = Transport(settings.stream_worker_url, ca_file=settings.tls.ca_file, certificate=pair)
        worker = ProgramWorker(settings, Control(control), streams)
        worker.begin()
        serve(build(worker), [platform_listener(settings)], on_stop=worker.end)
    except WardstreamError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


def _is(principal: str, project: str, member: str, generation: int) -> bool:
    found = split_principal(principal)
    return found[:2] == (project, member) and found[2] <= generation


if __name__ == "__main__":
    sys.exit(main())
