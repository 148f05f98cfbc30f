"""A process' chain of access entries, for control: `router` belongs into each process that keeps one, as `app.state.journal`."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from tenancy.access import AccessJournal, found_in
from tenancy.routes.context import require_peer
from wardstream.chain import read_lines

router = APIRouter(prefix="/internal/v1", include_in_schema=False)


def _journal(request: Request) -> AccessJournal:
    require_peer(request, "ws-control")
    return cast(AccessJournal, request.app.state.journal)


@router.get("/audit/head", name="audit-head")
def head(request: Request) -> dict[str, Any]:
    """Number and seal of the newest entry."""
    found = _journal(request).head
    return {"number": found.number, "seal": found.seal}


@router.get("/audit/lines", name="audit-lines")
def lines(request: Request, after: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
    """The chain's lines as they are."""
    return StreamingResponse(read_lines(_journal(request).folder, after=after), media_type="text/plain")


@router.get("/audit/search", name="audit-search")
def search(request: Request) -> list[dict[str, Any]]:
    """The entries that fit, the newest first."""
    return found_in(_journal(request).folder, dict(request.query_params))
