"""The stream-worker process: `python -m streams.main`."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError
from sqlalchemy import Engine

from featurestore.model import FeatureGroup
from featurestore.online.redis import connect as connect_redis
from streams import api
from streams.control import Control
from streams.materialise import SETTINGS, MaterialiserSettings
from streams.model import ProcessorSpec, Runtime
from streams.programs.model import Execution
from streams.programs.sandbox import Sandbox
from streams.programs.service import ProgramService
from streams.query import Query
from streams.reconcile import Reconciliation, reconcile, seen_by
from streams.repository import Repository
from streams.service import ProcessorService, ProcessorUnit
from streams.supervisor import Status, Supervisor, end_left_behind
from streams.units import FaustUnit, FlinkJobs, FlinkUnit, MaterialiserUnit, materialiser_key, processor_key
from tenancy.access import AccessJournal
from tenancy.acls import EXECUTIONS_TOPIC
from tenancy.api import chains, voids
from tenancy.grants import CautiousVerifier
from tenancy.model import Principal
from tenancy.policy import Action, decide, require
from wardstream.client.transport import Transport
from wardstream.clock import Clock, SystemClock
from wardstream.database import connect, migrate
from wardstream.errors import LimitExceeded, Unavailable, WardstreamError
from wardstream.kafka import deliver, producer
from wardstream.names import ProjectName, parse_project, split_principal
from wardstream.server import application, platform_listener, serve
from wardstream.settings import KafkaSettings, StreamWorkerSettings, load
from wardstream.telemetry import configure_logging

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"
_FOLLOW_SECONDS = 1.0
_RECONCILE_SECONDS = 2.0
# How long a materialiser may have trouble before this process calls itself not ready.
_TROUBLE_SECONDS = 3.0
# `down` grants 8 s, of which open requests may take 3. What is not done by then is ended by `down` and by the next start.
_END_SECONDS = 4.5
_END_UNITS_SECONDS = 3.0


def main() -> int:
    """Serve until SIGTERM; then stop everything that was started."""
    try:
        settings = load(StreamWorkerSettings)
        configure_logging("stream-worker", settings.log_level)
        run(settings)
    except WardstreamError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


def run(settings: StreamWorkerSettings) -> None:
    """Serve until SIGTERM."""
    worker = StreamWorker(settings, SystemClock())
    worker.begin()
    serve(worker.app, [platform_listener(settings)], on_stop=worker.end)


class StreamWorker:
    """The process, wired."""

    def __init__(self, settings: StreamWorkerSettings, clock: Clock) -> None:
        self._settings = settings
        self._engine = _database(settings)
        self._repository = Repository(self._engine)
        tls = settings.tls
        pair = (tls.certificate_file, tls.key_file)
        self._to_control = Transport(settings.control_url, ca_file=tls.ca_file, certificate=pair)
        self._to_query = Transport(settings.query_url, ca_file=tls.ca_file, certificate=pair)
        self._control, self._query = Control(self._to_control), Query(self._to_query)
        self._verifier = CautiousVerifier(settings.grants_key_file.read_bytes(), clock, self._control.recent)
        self._environment = child_environment(settings.home)
        self._records = settings.home / "processes"
        self._sandbox = Sandbox(settings.home / "streams" / "sandboxes", records=self._records, environment=self._environment)
        self._flink = FlinkJobs(settings, self._environment)
        self._supervisor = Supervisor(clock, changed=self._seen)
        self._journal = AccessJournal.of(settings, clock)
        self._processors = ProcessorService(
            repository=self._repository,
            control=self._control,
            query=self._query,
            supervisor=self._supervisor,
            unit_of=self._unit_of,
            log_of=self._log_of,
            journal=self._journal,
            clock=clock,
        )
        self._programs = ProgramService(
            repository=self._repository,
            control=self._control,
            queue=ExecutionTopic(settings.kafka),
            folder=settings.home / "streams" / "executions",
            verifier=self._verifier,
            journal=self._journal,
            clock=clock,
        )
        self._tables = Tables(settings, self._control, self._query, self._supervisor, self._environment)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._every, args=(_FOLLOW_SECONDS, "feature groups", self._tables.follow), daemon=True),
            threading.Thread(target=self._every, args=(_RECONCILE_SECONDS, "executions", self._programs.reconcile), daemon=True),
        ]
        REGISTRY.register(StreamMetrics(self._supervisor, self._tables))
        self.app = self._application()

    def begin(self) -> None:
        """End what an earlier run left, then start what is to run."""
        left = end_left_behind(self._records, ("materialiser-", "processor-"))
        self._flink.cluster.stop()
        if left:
            logger.warning("ended what an earlier run of this process left", extra={"processes": left})
        self._programs.resume()
        self._processors.start_all()
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop everything, all at once, within `_END_SECONDS`; what cannot be stopped by then ends after this process."""
        deadline = time.monotonic() + _END_SECONDS
        self._stopped.set()
        if not self._supervisor.stop(seconds=_END_UNITS_SECONDS):
            logger.warning("not everything that runs here has ended in time")
        flink = threading.Thread(target=self._flink.cluster.stop, name="end of Flink", daemon=True)
        flink.start()
        for thread in (flink, *self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        for transport in (self._to_control, self._to_query):
            transport.close()
        self._journal.close()
        self._engine.dispose()

    def _application(self) -> FastAPI:
        app = application(
            "Wardstream streams",
            ready={
                "audit": self._journal.trouble,
                "revocations": self._verifier.ready,
                "feature-groups": self._tables.waiting,
                "tables": self._tables.trouble,
            },
        )
        app.state.verifier = self._verifier
        app.state.processors = self._processors
        app.state.programs = self._programs
        app.state.reconciliation = self._tables.reconciliation
        app.state.flush = self._tables.flush
        app.state.revoke = self._revoke
        app.state.journal = self._journal
        app.state.void = self._verifier.void
        for router in (api.public, api.internal, chains, voids):
            app.include_router(router)
        return app

    def _revoke(self, principal: str, generation: int) -> None:
        self._verifier.revoke(principal, generation)
        self._programs.revoke(principal, generation)
        project, member, _ = split_principal(principal)
        self._processors.revoke(project, member)
        logger.info("access ended", extra={"principal": principal, "generation": generation})

    def _unit_of(self, spec: ProcessorSpec) -> ProcessorUnit:
        if spec.runtime is Runtime.FLINK:
            return FlinkUnit(spec, self._settings, self._control, self._flink)
        return FaustUnit(spec, self._settings, self._control, self._sandbox)

    def _log_of(self, spec: ProcessorSpec) -> Path:
        return self._flink.log if spec.runtime is Runtime.FLINK else self._sandbox.log_of(processor_key(spec.project, spec.name))

    def _seen(self, key: str, status: Status) -> None:
        self._processors.seen(key, status)

    def _every(self, seconds: float, what: str, do: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                do()
            except WardstreamError as error:
                logger.warning("not done yet", extra={"what": what, "reason": error.message, **error.details})
            except Exception:
                # The thread must live: a fault here would end it without a sign.
                logger.exception("not done", extra={"what": what})
            self._stopped.wait(seconds)


class Tables:
    """The materialisers: one process for each project that has feature groups. Thread-safe."""

    def __init__(
        self, settings: StreamWorkerSettings, control: Control, query: Query, supervisor: Supervisor, environment: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._control = control
        self._query = query
        self._supervisor = supervisor
        self._environment = environment
        self._units: dict[ProjectName, MaterialiserUnit] = {}
        self._groups: dict[ProjectName, list[FeatureGroup]] = {}
        self._counting: set[ProjectName] = set()
        self._known = False
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Start, change and stop materialisers so that they are what the catalogue wants, of projects that are not closed."""
        there = self._control.projects()
        wanted: dict[ProjectName, list[FeatureGroup]] = {}
        for group in self._query.feature_groups():
            if group.project in there:
                wanted.setdefault(group.project, []).append(group)
        for project in set(self._groups) - set(wanted):
            self._supervisor.drop(materialiser_key(project))
            with self._lock:
                del self._groups[project], self._units[project]
        for project, groups in wanted.items():
            groups.sort(key=lambda each: each.dataset)
            if self._groups.get(project) == groups:
                continue
            unit = self._units.get(project) or MaterialiserUnit(project, self._settings, self._control, self._environment)
            unit.set_groups(groups)
            new = project not in self._units
            with self._lock:
                self._units[project], self._groups[project] = unit, groups
            if new:
                self._supervisor.keep(unit, give_up=False)
        self._known = True

    def waiting(self) -> str | None:
        """Return what is missing before tables are filled, or None."""
        return None if self._known else "the query process does not say yet which feature groups there are"

    def trouble(self) -> str | None:
        """Return which tables are not being filled and why, or None."""
        found = []
        statuses = self._supervisor.status()
        for project in self._projects():
            status = statuses.get(materialiser_key(project))
            if status is not None and status.reason and time.time() - status.since.timestamp() > _TROUBLE_SECONDS:
                found.append(f"{project}: {status.reason}")
            for dataset, group in self.status(project).items():
                if group.get("reason"):
                    found.append(f"{project}.{dataset}: {group['reason']}")
        return "; ".join(found) or None

    def status(self, project: ProjectName) -> Mapping[str, Mapping[str, Any]]:
        """Return what the project's materialiser last said of each group."""
        with self._lock:
            unit = self._units.get(project)
        return {} if unit is None else unit.status()

    def statuses(self) -> Iterator[tuple[ProjectName, str, Mapping[str, Any]]]:
        """Yield project, dataset and status of every group."""
        for project in self._projects():
            for dataset, status in self.status(project).items():
                yield project, dataset, status

    def flush(self, project: str) -> None:
        """Make durable now what has arrived for the project."""
        with self._lock:
            unit = self._units.get(parse_project(project))
        if unit is not None:
            unit.flush()

    def reconciliation(self, principal: Principal, project: str) -> list[Reconciliation]:
        """Return for each feature group that the caller may know of whether its tables are what its topic says.

        Takes as long as reading all of it; raises `LimitExceeded` while the project is being counted for somebody.
        """
        owner = parse_project(project)
        require(decide(principal, Action.DATASET_LIST, project=owner), f"project {owner}")
        with self._lock:
            unit, groups = self._units.get(owner), seen_by(principal, self._groups.get(owner, ()))
            if unit is None or not groups:
                return []
            if owner in self._counting:
                raise LimitExceeded(f"the tables of project {owner} are being counted already: try again when that is done")
            self._counting.add(owner)
        try:
            return self._counted(owner, unit, groups)
        finally:
            with self._lock:
                self._counting.discard(owner)

    def _counted(self, owner: ProjectName, unit: MaterialiserUnit, groups: Sequence[FeatureGroup]) -> list[Reconciliation]:
        try:
            settings = MaterialiserSettings.model_validate_json((unit.folder / SETTINGS).read_text())
        except (FileNotFoundError, ValidationError) as error:
            raise Unavailable(f"the tables of project {owner} are not being filled yet; try again in a moment") from error
        store = self._control.store_credentials(owner)
        online = connect_redis(settings.redis, user=store.user, password=store.password)
        try:
            return [
                reconcile(group, kafka=settings.kafka, online=online, pseudonym_key=store.pseudonym_key, warehouse=self._settings.warehouse)
                for group in groups
            ]
        finally:
            online.close()

    def _projects(self) -> list[ProjectName]:
        with self._lock:
            return list(self._units)


class ExecutionTopic:
    """The platform's topic that workers read; a record says no more than that there is work."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def announce(self, execution: Execution) -> None:
        """See `ExecutionQueue`."""
        value = json.dumps({"id": execution.id, "label": execution.label}).encode()
        with self._lock:
            if self._producer is None:
                self._producer = producer(self._kafka, linger_ms=0)
            deliver(self._producer, [(EXECUTIONS_TOPIC, execution.id.encode(), value, [])], seconds=10)


class StreamMetrics(Collector):
    """What runs and how far tables are, read when somebody asks."""

    def __init__(self, supervisor: Supervisor, tables: Tables) -> None:
        self._supervisor = supervisor
        self._tables = tables

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures."""
        state = GaugeMetricFamily("wardstream_unit_state", "1 for the state that a supervised unit is in", labels=["unit", "state"])
        restarts = GaugeMetricFamily("wardstream_unit_restarts", "How often a supervised unit was started again", labels=["unit"])
        for key, status in self._supervisor.status().items():
            state.add_metric([key, status.state.value], 1)
            restarts.add_metric([key], status.restarts)
        yield state
        yield restarts
        places = ["project", "dataset"]
        figures = {
            name: GaugeMetricFamily(f"wardstream_materialiser_{name}", text, labels=places)
            for name, text in (
                ("records", "Records consumed since its start"),
                ("rejected", "Records written to dead letters since its start"),
                ("buffered", "Records that wait to be durable"),
                ("waiting", "1 while it waits for a store or the broker"),
            )
        }
        for project, dataset, found in self._tables.statuses():
            values = {**found, "waiting": int(found.get("state") == "waiting")}
            for name, figure in figures.items():
                figure.add_metric([project, dataset], float(values.get(name) or 0))
        yield from figures.values()


def child_environment(home: Path) -> dict[str, str]:
    """Return what every child gets: nothing of ours but a path, and the mark by which the launcher finds strays."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "STACK_HOME": str(home), "PYTHONSAFEPATH": "1"}


def _database(settings: StreamWorkerSettings) -> Engine:
    if settings.database_url.startswith("sqlite:///"):
        Path(settings.database_url.removeprefix("sqlite:///")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = connect(settings.database_url)
    migrate(engine, _MIGRATIONS)
    return engine


if __name__ == "__main__":
    sys.exit(main())
