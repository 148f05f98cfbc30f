"""What the routes of control share: who asks, what answers, what a body may hold."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from tenancy.audit_trail import AuditTrail
from tenancy.authentication import Authentication
from tenancy.grants import GrantVerifier
from tenancy.model import Principal
from tenancy.service import TenancyService
from tenancy.sharing import Sharing
from wardstream.errors import Denied, Unauthenticated
from wardstream.server import peer_name

# Every module here adds its routes to these.
public = APIRouter(prefix="/v1")
# Under the same prefix, and not in what the gateway passes on: a person at the outside door must not reach these.
platform = APIRouter(prefix="/v1", include_in_schema=False)
internal = APIRouter(prefix="/internal/v1", include_in_schema=False)


def caller(request: Request) -> Principal:
    """Return whom the request's grant names; raises `Unauthenticated` without a good one."""
    return cast(GrantVerifier, request.app.state.verifier).verify(bearer(request))


def bearer(request: Request) -> str:
    """Return the request's grant as it came; raises `Unauthenticated` where there is none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("a grant is missing: Authorization: Bearer <grant>")
    return token


def require_peer(request: Request, *names: str) -> str:
    """Return the calling process' name; raises `Denied` where it is none of `names`."""
    peer = peer_name(request)
    if peer not in names:
        raise Denied(f"{peer} may not ask for this")
    return peer


def _service(request: Request) -> TenancyService:
    return cast(TenancyService, request.app.state.service)


def _authentication(request: Request) -> Authentication:
    return cast(Authentication, request.app.state.authentication)


def _sharing(request: Request) -> Sharing:
    return cast(Sharing, request.app.state.sharing)


def _trail(request: Request) -> AuditTrail:
    return cast(AuditTrail, request.app.state.trail)


Caller = Annotated[Principal, Depends(caller)]
Service = Annotated[TenancyService, Depends(_service)]
Trail = Annotated[AuditTrail, Depends(_trail)]
Shares = Annotated[Sharing, Depends(_sharing)]
Credentials = Annotated[Authentication, Depends(_authentication)]


class Body(BaseModel):
    """What is sent: unknown fields are refused, so that a misspelt one is not silently left out."""

    model_config = ConfigDict(extra="forbid")
