"""The doors for client certificates: proof of the certificate's key."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from gateway.authentication import Callers
from gateway.routes.body import described, read

router = APIRouter(prefix="/api/v1", tags=["platform"])


class DoorChallenge(BaseModel):
    """What to sign with the certificate's key: the lines `wardstream door proof 1`, platform, door, nonce, without a newline at the end.

    The platform is named by SHA-256 of its root certificate (DER, hex); whoever signs compares it with the root that it trusts.
    """

    nonce: str
    platform: str
    door: str
    expires_at: datetime


class SignedChallenge(BaseModel):
    """A challenge that was signed: ECDSA over SHA-256 (DER), in base64."""

    nonce: str = Field(max_length=4096)
    signature: str = Field(max_length=512)


class DoorTokenShown(BaseModel):
    """A token for connections with the same certificate: as bearer, or as the password of basic authentication."""

    token: str
    expires_at: datetime
    lifetime_seconds: float


BODIES: tuple[type[BaseModel], ...] = (SignedChallenge,)


@router.post("/door-challenges", summary="What to sign with the client certificate's key", response_model=DoorChallenge)
async def challenge(request: Request) -> DoorChallenge:
    """Good once, for a minute, for the certificate and the door of this connection."""
    callers: Callers = request.app.state.callers
    return DoorChallenge.model_validate(await callers.challenge(request))


@router.post(
    "/door-tokens",
    summary="Exchange a signed challenge for a token of minutes",
    response_model=DoorTokenShown,
    openapi_extra=described(SignedChallenge),
)
async def door_token(request: Request) -> DoorTokenShown:
    """The token counts on connections with the same certificate only."""
    callers: Callers = request.app.state.callers
    callers.require_certificate(request)
    body = await read(request, SignedChallenge)
    return DoorTokenShown.model_validate(await callers.door_token(request, body.nonce, body.signature))
