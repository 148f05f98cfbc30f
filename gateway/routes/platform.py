"""Who the caller is, how the platform is, and what control tells the gateway."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from gateway.authentication import Caller, Callers
from gateway.produce import ProducerPool
from gateway.upstream import Upstream
from wardstream.errors import Denied
from wardstream.server import peer_name

router = APIRouter(prefix="/api/v1", tags=["platform"])
internal = APIRouter(prefix="/internal/v1", include_in_schema=False)


class IdentityAnswer(BaseModel):
    """Who the platform takes the caller for."""

    principal: str
    project: str | None
    role: str | None
    door: str


class StatusAnswer(BaseModel):
    """Each process with what it waits for; null when it is ready."""

    processes: dict[str, str | None]


class Revocation(BaseModel):
    """A principal that lost its rights, up to a generation."""

    principal: str
    generation: int


async def caller(request: Request) -> Caller:
    """Return who sent the request."""
    found: Callers = request.app.state.callers
    return await found.caller(request)


CallerDependency = Annotated[Caller, Depends(caller)]


@router.get("/whoami", summary="Who the platform takes the caller for", response_model=IdentityAnswer)
async def whoami(found: CallerDependency) -> IdentityAnswer:
    """Answer with the caller's principal."""
    principal = found.principal
    return IdentityAnswer(
        principal=principal.name,
        project=principal.project,
        role=principal.role.value if principal.role else None,
        door=principal.door.value,
    )


@router.get("/status", summary="State of the platform's processes", response_model=StatusAnswer)
async def status(request: Request, _: CallerDependency) -> StatusAnswer:
    """Ask every process behind the gateway."""
    upstreams: dict[str, Upstream] = request.app.state.upstreams
    waiting = await asyncio.gather(*(upstream.waiting() for upstream in upstreams.values()))
    return StatusAnswer(processes={"gateway": None, **dict(zip(upstreams, waiting, strict=True))})


@internal.post("/revocations", status_code=204)
async def revocation(request: Request, revoked: Revocation) -> None:
    """Drop what is held for a principal; control repeats this until it is answered."""
    if peer_name(request) != "ws-control":
        raise Denied("revocations come from control")
    callers: Callers = request.app.state.callers
    producers: ProducerPool = request.app.state.producers
    callers.revoke(revoked.principal, revoked.generation)
    producers.drop(revoked.principal)
