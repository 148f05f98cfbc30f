"""What every process is told by control when rights change while the principal stays: `router` belongs into each of them.

The process sets `app.state.void`, which is called with project, member (None: all) and the time until which grants are void.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from tenancy.routes.context import Body, require_peer

router = APIRouter(prefix="/internal/v1", include_in_schema=False)


class VoidBody(Body):
    """Whose grants are void that were signed until `before`, in seconds since 1970."""

    project: str
    member: str | None
    before: float


@router.post("/voids", name="void", status_code=204)
def void(request: Request, body: VoidBody) -> Response:
    """Refuse those grants from now on; control repeats this until it is answered."""
    require_peer(request, "ws-control")
    tell: Callable[[str, str | None, float], None] = request.app.state.void
    tell(body.project, body.member, body.before)
    return Response(status_code=204)
