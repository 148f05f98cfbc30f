"""The schema registry at /registry on every door: passed on to the process that keeps it, errors in its clients' shape."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from gateway.authentication import Callers
from gateway.upstream import Upstream
from wardstream.errors import WardstreamError

_METHODS = ["GET", "POST", "PUT", "DELETE"]
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


def mount(app: FastAPI, callers: Callers, query: Upstream) -> None:
    """Add the registry's routes."""

    async def endpoint(request: Request) -> Response:
        try:
            caller = await callers.caller(request)
            return await query.forward(request, caller.grant)
        except WardstreamError as error:
            # Stock clients read error_code; a plain HTTP status is a valid one.
            return JSONResponse({"error_code": error.status, "message": error.message}, status_code=error.status, media_type=_MEDIA_TYPE)

    for path in ("/registry", "/registry/{path:path}"):
        app.router.routes.append(Route(path, endpoint, methods=_METHODS))
