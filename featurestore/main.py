"""The query process: `python -m featurestore.main`. Catalogue, online reads, SQL, training data, schema registry."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from fastapi import FastAPI

from featurestore import api
from featurestore.control import Control, SubjectDatasets
from featurestore.models.service import ModelService
from featurestore.online_stores import RedisStores
from featurestore.repository import Repository
from featurestore.service import FeatureStoreService
from featurestore.sql.engine import SqlEngine
from featurestore.usage import Usage
from schemas.api import registry as registry_routes
from schemas.log import SchemaLog, open_log
from schemas.registry import RegistryService
from tenancy.access import AccessJournal
from tenancy.api import bearer, chains, voids
from tenancy.grants import CautiousVerifier
from wardstream.client.transport import Transport
from wardstream.clock import SystemClock
from wardstream.database import connect, migrate
from wardstream.errors import WardstreamError
from wardstream.names import PrincipalName, principal_of, split_principal
from wardstream.server import application, platform_listener, serve
from wardstream.settings import QuerySettings, load
from wardstream.telemetry import configure_logging

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"


def main() -> int:
    """Serve until SIGTERM."""
    try:
        settings = load(QuerySettings)
        configure_logging("query", settings.log_level)
        run(settings)
    except WardstreamError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


def run(settings: QuerySettings) -> None:
    """Serve until SIGTERM; then end the statements that run."""
    engine = connect(settings.database_url)
    migrate(engine, _MIGRATIONS)
    log = open_log(settings.kafka)
    sql = SqlEngine(seconds=settings.sql_seconds, memory_mb=settings.sql_memory_mb, max_rows=settings.sql_max_rows)
    transport = Transport(
        settings.control_url, ca_file=settings.tls.ca_file, certificate=(settings.tls.certificate_file, settings.tls.key_file)
    )
    app = build(settings, Repository(engine), log, sql, Control(transport))
    log.start()
    sql.prepare()

    def stop() -> None:
        sql.close()
        log.stop()
        transport.close()
        engine.dispose()

    serve(app, [platform_listener(settings)], on_stop=stop)


def build(settings: QuerySettings, repository: Repository, log: SchemaLog, sql: SqlEngine, control: Control) -> FastAPI:
    """Return the application."""
    clock = SystemClock()
    verifier = CautiousVerifier(settings.grants_key_file.read_bytes(), clock, control.recent)
    journal = AccessJournal.of(settings, clock)
    registry = RegistryService(log, journal)
    online = RedisStores(settings.redis, control)
    service = FeatureStoreService(
        repository=repository,
        control=control,
        registry=registry,
        online=online,
        usage=Usage(control=control, online=online, warehouse=settings.warehouse),
        sql=sql,
        journal=journal,
        warehouse=settings.warehouse,
        clock=clock,
    )

    def revoke(principal: str, generation: int) -> None:
        verifier.revoke(principal, generation)
        service.revoke(principal, generation)
        ended = sum(sql.cancel(name) for name in _names(principal, generation))
        logger.info("access ended", extra={"principal": principal, "generation": generation, "statements_ended": ended})

    def void(project: str, member: str | None, before: float) -> None:
        verifier.void(project, member, before)
        service.change(project, member)
        ended = sql.cancel_members(project, member)
        logger.info("rights changed", extra={"project": project, "member": member, "statements_ended": ended})

    app = application(
        "Wardstream query", ready={"registry": registry.ready, "sql": sql.ready, "revocations": verifier.ready, "audit": journal.trouble}
    )
    app.state.verifier = verifier
    app.state.revoke = revoke
    app.state.void = void
    app.state.registry = registry
    app.state.subject_datasets = SubjectDatasets(control, bearer)
    app.state.models = ModelService(repository=repository, warehouse=settings.warehouse, journal=journal, clock=clock)
    app.state.journal = journal
    app.state.service = service
    for router in (api.public, api.internal, chains, voids, registry_routes):
        app.include_router(router)
    return app


def _names(principal: str, generation: int) -> list[PrincipalName]:
    project, member, _ = split_principal(principal)
    return [principal_of(project, member, each) for each in range(1, generation + 1)]


if __name__ == "__main__":
    sys.exit(main())
