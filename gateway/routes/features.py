"""Rows of feature groups that are written over REST."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel

from gateway.authentication import Caller
from gateway.routes.platform import caller
from gateway.rows import RowWriter, Written

router = APIRouter(prefix="/api/v1", tags=["feature groups"])

_ARROW = "application/vnd.apache.arrow.stream"


class Rejected(BaseModel):
    """A row that was not written, by its place in the request."""

    index: int
    reason: str


class WrittenAnswer(BaseModel):
    """What became of the rows."""

    accepted: int
    rejected: list[Rejected]
    materialised: bool


async def writer(request: Request) -> RowWriter:
    """Return what writes rows."""
    found: RowWriter = request.app.state.rows
    return found


@router.post(
    "/projects/{project}/feature-groups/{group}/{version}/rows",
    summary="Write rows to a feature group (an Arrow IPC stream)",
    response_model=WrittenAnswer,
    openapi_extra={"requestBody": {"content": {_ARROW: {"schema": {"type": "string", "format": "binary"}}}, "required": True}},
)
async def write_rows(
    request: Request,
    project: str,
    group: str,
    version: Annotated[int, Path(ge=1, le=2**31 - 1)],
    found: Annotated[Caller, Depends(caller)],
    rows: Annotated[RowWriter, Depends(writer)],
    wait: bool = False,
    timeout: Annotated[float, Query(gt=0, le=300, description="seconds to wait for both stores")] = 60.0,
) -> WrittenAnswer:
    """Produce the rows in the caller's name; rows that do not fit come back with their reason."""
    body = await request.body()
    return answer(await rows.rows(found, project, group, version, body, wait_seconds=timeout if wait else 0.0))


def answer(written: Written) -> WrittenAnswer:
    """Return the answer's model."""
    rejected = [Rejected(index=index, reason=reason) for index, reason in written.rejected]
    return WrittenAnswer(accepted=written.accepted, rejected=rejected, materialised=written.materialised)
