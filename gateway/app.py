"""The gateway's application: what it answers itself, what it passes on, and the description of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.authentication import Callers, Doors
from gateway.confluent import registry
from gateway.console import pages
from gateway.description import OWN, WITHOUT_GRANT, describe
from gateway.limits import BodyLimit
from gateway.produce import ProducerPool
from gateway.routes import platform, topics
from gateway.rows import RowWriter
from gateway.upstream import Upstream
from tenancy.access import AccessJournal
from tenancy.api import chains, voids
from tenancy.routes.people import SOURCE_HEADER
from wardstream.server import ReadyCheck, application

# Of a process, not of the doors.
_PLATFORM_ONLY = ("/internal/", "/metrics")


def build(
    *,
    doors: Doors,
    callers: Callers,
    upstreams: Mapping[str, Upstream],
    producers: ProducerPool,
    rows: RowWriter,
    journal: AccessJournal,
    topic_services: topics.TopicServices,
    routers: Sequence[tuple[str, APIRouter]],
    ready: Mapping[str, ReadyCheck],
) -> FastAPI:
    """Return the application; `routers` are the public routes of the processes behind, by upstream name."""
    app = application("Wardstream", ready=ready)
    app.state.callers = callers
    app.state.upstreams = dict(upstreams)
    app.state.producers = producers
    app.state.rows = rows
    app.state.journal = journal
    app.state.topics = topic_services
    app.state.void = callers.void
    for router in (*OWN, platform.internal, chains, voids, pages.router):
        app.include_router(router)
    registry.mount(app, callers, upstreams["query"])
    for name, router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                endpoint = _passed_on(upstreams[name], callers, with_grant=not route.path.startswith(WITHOUT_GRANT))
                app.router.routes.append(Route("/api" + route.path, endpoint, methods=sorted(route.methods or ())))
    described = describe([router for _, router in routers])

    @app.get("/api/openapi.json", include_in_schema=False)
    def openapi() -> JSONResponse:
        return JSONResponse(described)

    app.add_middleware(BodyLimit)
    app.add_middleware(_PlatformOnly, port=doors.platform)
    return app


def _passed_on(upstream: Upstream, callers: Callers, *, with_grant: bool) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if with_grant:
            return await upstream.forward(request, (await callers.caller(request)).grant, below="/api")
        # Where it comes from, so that guessing is held up there.
        where = request.client.host if request.client is not None else ""
        return await upstream.forward(request, None, below="/api", more={SOURCE_HEADER: where})

    return endpoint


class _PlatformOnly:
    """Answers routes of the platform on the platform's port alone; on a door they do not exist."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["server"][1] != self._port and scope["path"].startswith(_PLATFORM_ONLY):
            message = f"no such address: {scope['method']} {scope['path']}"
            await JSONResponse({"code": "not-found", "message": message}, status_code=404)(scope, receive, send)
            return
        await self._app(scope, receive, send)
