"""What the stream-worker keeps running: materialisers, Faust workers in sandboxes, jobs on Flink."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from featurestore.model import FeatureGroup
from streams.control import Control
from streams.materialise import GROUPS, SETTINGS, STATUS, MaterialiserSettings
from streams.model import ProcessorSpec
from streams.programs.model import CERTIFICATE, KEY, ROOT
from streams.programs.sandbox import PROCESSOR_PACKAGES, Job, Sandbox, ways_out
from streams.programs.service import last_lines
from streams.runtimes.flink import FlinkRuntime
from streams.runtimes.flink_cluster import JOB_MANAGER, TASK_MANAGER, FlinkCluster
from streams.runtimes.job import Connection, WorkerJob
from streams.supervisor import ProcessUnit
from streams.watchdog import FAILING_SECONDS, JobWatchdog, SourceWatch
from tenancy.model import MATERIALISER
from wardstream import processes
from wardstream.confinement import Limits
from wardstream.errors import WardstreamError
from wardstream.names import MemberName, ProjectName
from wardstream.processes import ProcessRecord, write_private
from wardstream.settings import KafkaSettings, StreamWorkerSettings, TlsSettings

# Its state is small; most of its address space is libraries. It runs until it is stopped.
_PROCESSOR_LIMITS = Limits(memory_mb=4096, cpu_seconds=10**9, processes=512, open_files=1024)
_PROCESSOR_LOG_MB = 64

_FLINK_LOOK_SECONDS = 1.0
_WATCH_SECONDS = 10.0
_FLINK_ENDED = frozenset({"FAILED", "CANCELED", "CANCELLING", "FINISHED", "SUSPENDED"})


def materialiser_key(project: ProjectName) -> str:
    """Return the key of the unit, the record and the log of a project's materialiser."""
    return f"materialiser-{project}"


def processor_key(project: ProjectName, name: MemberName) -> str:
    """Return the key of the unit, the record and the sandbox of a processor; `__` is in no name."""
    return f"processor-{project}__{name}"


class MaterialiserUnit:
    """The process that fills one project's tables."""

    def __init__(self, project: ProjectName, settings: StreamWorkerSettings, control: Control, environment: Mapping[str, str]) -> None:
        self._project = project
        self._settings = settings
        self._control = control
        self._environment = environment
        self.folder = settings.home / "streams" / "materialisers" / project
        self._log = settings.home / "logs" / f"{materialiser_key(project)}.log"
        self._unit = ProcessUnit(materialiser_key(project), self._start, records=settings.home / "processes", why=self._why)

    @property
    def key(self) -> str:
        """See `Unit`."""
        return self._unit.key

    def start(self) -> datetime | None:
        """See `Unit`."""
        return self._unit.start()

    def failure(self) -> str | None:
        """See `Unit`."""
        return self._unit.failure()

    def stop(self) -> None:
        """See `Unit`."""
        self._unit.stop()

    def set_groups(self, groups: Sequence[FeatureGroup]) -> None:
        """Tell the process which groups to fill, now and after every start.

        A running one gets a new certificate with them: what it may read was decided when the old one was first shown.
        """
        record = self._unit.record
        if record is not None and record.alive:
            self._control.service_identity(self._project, MATERIALISER).write(self.folder)
        documents = [{**group.document(), "project": group.project} for group in groups]
        write_private(self.folder / GROUPS, json.dumps(documents))

    def flush(self) -> None:
        """Ask the process to make durable now what has arrived; one that is still starting does so by itself."""
        record = self._unit.record
        # Its first status says that it listens to signals: before, one would end it.
        if record is not None and record.alive and (self.folder / STATUS).exists():
            os.kill(record.pid, signal.SIGUSR1)

    def status(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the process last said of its groups: dataset -> state, reason, records and so on."""
        try:
            found: dict[str, dict[str, Any]] = json.loads((self.folder / STATUS).read_text())["groups"]
        except (FileNotFoundError, ValueError, KeyError):
            return {}
        return found

    def _start(self) -> tuple[ProcessRecord, datetime | None]:
        settings = self._settings
        identity = self._control.service_identity(self._project, MATERIALISER)
        certificate, key = identity.write(self.folder)
        tls = TlsSettings(ca_file=settings.tls.ca_file, certificate_file=certificate, key_file=key)
        store = self._control.store_credentials(self._project)
        content = MaterialiserSettings(
            project=self._project,
            kafka=KafkaSettings(bootstrap_servers=settings.worker_bootstrap_servers, tls=tls),
            redis=settings.redis.model_copy(update={"tls": tls}),
            redis_user=store.user,
            redis_password=store.password,
            pseudonym_key=base64.b64encode(store.pseudonym_key).decode(),
            inside_url=settings.inside_url,
            warehouse=settings.warehouse,
            log_level=settings.log_level,
        )
        write_private(self.folder / SETTINGS, content.model_dump_json())
        (self.folder / STATUS).unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, "-m", "streams.materialise", self.folder]
        folder = settings.home / "processes"
        return processes.start(self.key, command, folder=folder, log=self._log, environment=self._environment), identity.renew_at

    def _why(self, code: int | None) -> str:
        return f"the materialiser ended{_with(code)}; the end of its log: {last_lines(self._log, 1).strip()[:500]}"


class FaustUnit:
    """A Faust worker in a sandbox of its own."""

    def __init__(self, spec: ProcessorSpec, settings: StreamWorkerSettings, control: Control, sandbox: Sandbox) -> None:
        self._spec = spec
        self._settings = settings
        self._control = control
        self._sandbox = sandbox
        self._watch: SourceWatch | None = None
        self._looked_at = 0.0
        self._unit = ProcessUnit(processor_key(spec.project, spec.name), self._start, records=settings.home / "processes", why=self._why)

    @property
    def key(self) -> str:
        """See `Unit`."""
        return self._unit.key

    def start(self) -> datetime | None:
        """See `Unit`."""
        renew_at = self._unit.start()
        self._looked_at = time.monotonic()
        return renew_at

    def failure(self) -> str | None:
        """See `Unit`. A worker that runs and reads nothing has failed too."""
        reason = self._unit.failure()
        if reason is None and self._watch is not None and time.monotonic() - self._looked_at >= _WATCH_SECONDS:
            self._looked_at = time.monotonic()
            reason = self._watch.failure()
        return reason

    def stop(self) -> None:
        """See `Unit`."""
        self._unit.stop()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def forget(self) -> None:
        """Remove what a processor leaves that was stopped and will never run again; harmless when repeated."""
        shutil.rmtree(self._keys, ignore_errors=True)
        self._sandbox.remove(self.key)

    @property
    def _keys(self) -> Path:
        return self._settings.home / "streams" / "processors" / self.key

    def _start(self) -> tuple[ProcessRecord, datetime | None]:
        settings, spec = self._settings, self._spec
        identity = self._control.service_identity(spec.project, spec.name)
        certificate, key = identity.write(self._keys)
        tls = TlsSettings(ca_file=settings.tls.ca_file, certificate_file=certificate, key_file=key)
        kafka = KafkaSettings(bootstrap_servers=settings.worker_bootstrap_servers, tls=tls)
        self._watch = SourceWatch(spec, kafka, monotonic=time.monotonic)
        connection = Connection(
            bootstrap_servers=settings.worker_bootstrap_servers,
            ca_file=f"/job/{ROOT}",
            certificate_file=f"/job/{CERTIFICATE}",
            key_file=f"/job/{KEY}",
            registry_url=f"{settings.inside_url}/registry",
        )
        job = Job(
            name=self.key,
            command=["python", "-u", "-m", "streams.runtimes.faust", "/job/processor.json"],
            files={
                "processor.json": WorkerJob(spec, connection).to_json().encode(),
                CERTIFICATE: identity.certificate.encode(),
                KEY: identity.key.encode(),
                ROOT: settings.tls.ca_file.read_bytes(),
            },
            ways_out=ways_out(settings.worker_bootstrap_servers, settings.inside_url),
            limits=_PROCESSOR_LIMITS,
            log_mb=_PROCESSOR_LOG_MB,
            packages=PROCESSOR_PACKAGES,
        )
        return self._sandbox.start(job), identity.renew_at

    def _why(self, code: int | None) -> str:
        end = self._sandbox.end(self.key)
        if end is not None and end.reason is not None:
            return end.reason
        return f"the Faust worker ended{_with(code)}; the end of its log: {last_lines(self._sandbox.log_of(self.key), 1).strip()[:500]}"


class FlinkJobs:
    """The shared cluster for SQL that the platform wrote, and the one lock around it: it is started with its first job."""

    def __init__(self, settings: StreamWorkerSettings, environment: Mapping[str, str]) -> None:
        """`environment` is what every child of this process gets."""
        folder = settings.home / "streams" / "flink"
        self.cluster = FlinkCluster(folder, java=settings.java, environment=environment)
        self.runtime = FlinkRuntime(self.cluster, jars=settings.jars / "flink", folder=folder)
        self.lock = threading.Lock()
        self.folder = folder / "jobs"
        self.log = folder / "logs" / "flink-taskmanager.log"


class FlinkUnit:
    """A job on the shared Flink cluster."""

    def __init__(self, spec: ProcessorSpec, settings: StreamWorkerSettings, control: Control, flink: FlinkJobs) -> None:
        self._spec = spec
        self._settings = settings
        self._control = control
        self._flink = flink
        self._looked_at = 0.0
        self._watchdog = JobWatchdog(time.monotonic())

    @property
    def key(self) -> str:
        """See `Unit`."""
        return processor_key(self._spec.project, self._spec.name)

    def start(self) -> datetime | None:
        """See `Unit`. Continues from the newest complete checkpoint."""
        settings, spec = self._settings, self._spec
        identity = self._control.service_identity(spec.project, spec.name)
        folder = self._flink.folder / self.key
        certificate, key = identity.write(folder)
        bundle = folder / "bundle.pem"
        write_private(bundle, identity.key + identity.certificate)
        connection = Connection(
            bootstrap_servers=settings.worker_bootstrap_servers,
            ca_file=str(settings.tls.ca_file),
            certificate_file=str(certificate),
            key_file=str(key),
            registry_url=f"{settings.inside_url}/registry",
            bundle_file=str(bundle),
        )
        with self._flink.lock:
            self._flink.runtime.ensure(WorkerJob(spec, connection))
        self._watchdog = JobWatchdog(time.monotonic())
        return identity.renew_at

    def failure(self) -> str | None:
        """See `Unit`. A task manager that ended is replaced here: Flink goes on with its jobs by itself.

        A late answer of Flink's is no failure of the job; one that is restarted without end is.
        """
        now = time.monotonic()
        if now - self._looked_at < _FLINK_LOOK_SECONDS:
            return None
        self._looked_at = now
        try:
            if JOB_MANAGER not in self._flink.cluster.alive():
                return "Flink's job manager ended"
            if TASK_MANAGER not in self._flink.cluster.alive():
                with self._flink.lock:
                    self._flink.cluster.start()
            job = self._flink.runtime.job(self._spec)
            if job is None:
                return "Flink does not know the job"
            if job.state in _FLINK_ENDED:
                return f"Flink says that the job is {job.state}"
            if self._watchdog.failing(now, job.state):
                why = self._flink.cluster.failure(job.id) or "its log says why"
                return f"Flink could not keep the job running for {FAILING_SECONDS:g} s: {why}"
            self._flink.runtime.sweep(self._spec, job.id)
        except WardstreamError as error:
            return error.message if self._watchdog.silent(time.monotonic()) else None
        return None

    def stop(self) -> None:
        """See `Unit`."""
        with self._flink.lock, suppress(WardstreamError):
            self._flink.runtime.stop(self._spec)

    def forget(self) -> None:
        """Remove what a processor leaves that was stopped and will never run again: checkpoints, keys; harmless when repeated."""
        self._flink.runtime.forget(self._spec)
        shutil.rmtree(self._flink.folder / self.key, ignore_errors=True)


def _with(code: int | None) -> str:
    if code is None:
        return ""
    return f" with code {code}" if code >= 0 else f", killed by signal {-code}"
