"""The gateway process: `python -m gateway.main`."""

from __future__ import annotations

import sys

from featurestore import api as featurestore_api
from gateway.app import build
from gateway.authentication import Callers, Doors
from gateway.produce import ProducerPool
from gateway.routes.topics import TopicServices
from gateway.rows import RowWriter
from gateway.upstream import Upstream
from streams import api as streams_api
from tenancy import api as tenancy_api
from tenancy.access import AccessJournal
from tenancy.grants import GrantVerifier
from wardstream.client.transport import Transport
from wardstream.clock import SystemClock
from wardstream.errors import WardstreamError
from wardstream.server import Listener, platform_listener, serve, server_context
from wardstream.settings import GatewaySettings, load
from wardstream.telemetry import configure_logging


def main() -> int:
    """Run until SIGTERM; returns the exit code."""
    try:
        _run()
    except WardstreamError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


def _run() -> None:
    settings = load(GatewaySettings)
    configure_logging("gateway", settings.log_level)
    upstreams = {
        "control": Upstream("control", settings.control_url, settings.tls),
        "query": Upstream("query", settings.query_url, settings.tls),
        "stream-worker": Upstream("stream-worker", settings.stream_worker_url, settings.tls),
        "program-worker": Upstream("program-worker", settings.program_worker_url, settings.tls),
    }
    doors = Doors(settings.port, settings.door_port, settings.outside_port, settings.inside_port)
    certificate = (settings.tls.certificate_file, settings.tls.key_file)
    control = Transport(settings.control_url, ca_file=settings.tls.ca_file, certificate=certificate)
    query = Transport(settings.query_url, ca_file=settings.tls.ca_file, certificate=certificate)
    streams = Transport(settings.stream_worker_url, ca_file=settings.tls.ca_file, certificate=certificate)
    producers = ProducerPool(control, settings.worker_bootstrap_servers, settings.tls.ca_file)
    clock = SystemClock()
    journal = AccessJournal.of(settings, clock)
    app = build(
        doors=doors,
        callers=Callers(upstreams["control"], GrantVerifier(settings.grants_key_file.read_bytes()), doors),
        upstreams=upstreams,
        producers=producers,
        rows=RowWriter(control=control, query=query, streams=streams, producers=producers, journal=journal, clock=clock),
        journal=journal,
        topic_services=TopicServices(control, query),
        routers=[("control", tenancy_api.public), ("query", featurestore_api.public), ("stream-worker", streams_api.public)],
        ready={"audit": journal.trouble},
    )
    serve(
        app,
        [
            platform_listener(settings),
            Listener(settings.host, settings.door_port, server_context(settings.tls, clients=None)),
            Listener(settings.host, settings.outside_port, server_context(settings.tls, clients=settings.outside_ca_file)),
            Listener(settings.host, settings.inside_port, server_context(settings.tls, clients=settings.inside_ca_file)),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
