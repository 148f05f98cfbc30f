"""Quotas of projects."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from pydantic import BaseModel, Field, StrictInt

from tenancy.policy import Action, decide, require
from tenancy.project_limits import Limit, ProjectLimits
from tenancy.routes.context import Body, Caller, caller, internal, public, require_peer
from wardstream.names import parse_project


class LimitState(BaseModel):
    """One quota: `limit` null is no bound; `used` null is not known yet, or a rate that the broker enforces."""

    name: str
    limit: int | None
    used: int | None


class SetQuota(Body):
    """Quotas to be set, null for no bound; what is left out stays."""

    limits: dict[str, StrictInt | None] = Field(min_length=1, max_length=50)


class UsageReport(Body):
    """What a process counts of projects: project -> quota -> used."""

    used: dict[str, dict[str, int]]


def _limits(request: Request) -> ProjectLimits:
    return cast(ProjectLimits, request.app.state.limits)


Limits = Annotated[ProjectLimits, Depends(_limits)]


@public.get("/projects/{project}/quota", name="project-quota", summary="What a project may have, and has", response_model=list[LimitState])
def quota(caller: Caller, limits: Limits, project: str) -> list[Limit]:
    """Show what the project may have, and what is used of it."""
    return limits.limits(caller, parse_project(project))


@public.patch("/projects/{project}/quota", name="set-project-quota", summary="Set quotas of a project", response_model=list[LimitState])
def set_quota(caller: Caller, limits: Limits, project: str, body: SetQuota) -> list[Limit]:
    """Set quotas of the project (administrators); a limit of n lets n be there."""
    return limits.set(caller, parse_project(project), body.limits)


@internal.post("/usage", name="usage")
def usage(request: Request, limits: Limits, body: UsageReport) -> dict[str, dict[str, int | None]]:
    """Note what the process counts, and tell it the limits of these projects: query while somebody asks who may know of them."""
    counted = {parse_project(project): counts for project, counts in body.used.items()}
    if require_peer(request, "ws-query", "ws-stream-worker") == "ws-query":
        principal = caller(request)
        for project in counted:
            require(decide(principal, Action.DATASET_LIST, project=project), f"project {project}")
    found = limits.report(counted)
    return {str(project): counts for project, counts in found.items()}
