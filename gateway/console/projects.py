"""The first page, and a project: what it is, what changed in it, its end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from gateway.console.forms import Field, Form, Sent
from gateway.console.visit import Link, ProjectOf, Secret, Visit, Visiting, away, project_page, project_path, router, tabs, visit
from gateway.upstream import Upstream
from tenancy.model import MemberState, Project, Role
from tenancy.policy import Action, by_author
from wardstream.errors import Denied, NotFound, Unavailable
from wardstream.names import MemberName, ProjectName

# An administrator of many; the command line lists all.
_MOST_PROJECTS = 100
_ACTIVITY = 20
_SANDBOX = "Sandboxed: rows stay inside; data scientists hold no certificate outside the platform."


@router.get("/console/")
async def home(request: Request) -> Response:
    """Show the first page to whoever is logged in."""
    try:
        visiting = await visit(request)
    except Unavailable as error:
        return away(error)
    processes: dict[str, Upstream] = request.app.state.upstreams
    waiting = await asyncio.gather(*(process.waiting() for process in processes.values()))
    try:
        projects: Any = await visiting.get("/v1/projects")
    except Unavailable:
        projects = None
    offers = [Link("New project", "/console/new-project")] if visiting.may(Action.PROJECT_CREATE) else []
    return visiting.page(
        "home.html",
        projects=projects[:_MOST_PROJECTS] if projects is not None else None,
        more=max(0, len(projects or ()) - _MOST_PROJECTS),
        offers=offers,
        processes=[("gateway", None), *zip(processes, waiting, strict=True)],
    )


@router.api_route("/console/new-project", methods=["GET", "POST"])
async def create(visiting: Visiting) -> Response:
    """Make a project with its first data owner."""

    async def form() -> Form:
        return Form(
            "New project",
            "Create project",
            "/console/",
            [
                Field("name", "Name", required=True, longest=30, help="lower-case letters, digits and hyphens; nobody can change it later"),
                Field("owner", "First data owner", required=True, longest=24, help="the member's name, such as anna"),
                Field("description", "Description", "area", longest=1000),
                Field("sandboxed", _SANDBOX, "mark", value="yes"),
            ],
        )

    async def act(sent: Sent) -> Response:
        body = {
            "name": sent.text("name"),
            "owner": sent.text("owner"),
            "description": sent.text("description"),
            "sandboxed": bool(sent.text("sandboxed")),
        }
        done = await visiting.send("POST", "/v1/projects", body)
        name = done["project"]["name"]
        return visiting.done(
            f"Project {name} is made",
            Link("To the project", project_page(name)),
            settled=done["settled"],
            secret=Secret(f"Enrolment token of {name}__{body['owner']}", done["owner_token"], done["expires_at"]),
        )

    return await visiting.step(Action.PROJECT_CREATE, None, form, act)


@router.get("/console/projects/{project}")
async def show(project: ProjectOf, visiting: Visiting) -> Response:
    """Show one project."""
    found: Any = await visiting.get(project_path(project))
    datasets, activity, shared, quota = await asyncio.gather(
        _seen(visiting, Action.DATASET_LIST, project, "datasets"),
        _seen(visiting, Action.ACTIVITY_READ, project, f"activity?limit={_ACTIVITY}"),
        _seen(visiting, Action.SHARE_LIST, project, "shared-datasets"),
        _seen(visiting, Action.QUOTA_READ, project, "quota"),
    )
    offers = visiting.offered(project, (Action.PROJECT_ALTER, Link("Edit project", project_page(project, "edit"))))
    if by_author(visiting.principal, Action.PROJECT_HAND_OVER, _project(found)).allowed:
        offers.append(Link("Hand over", project_page(project, "hand-over")))
    if by_author(visiting.principal, Action.PROJECT_CLOSE, _project(found)).allowed:
        offers.append(Link("Close project", project_page(project, "close"), danger=True))
    return visiting.page(
        "project.html",
        project=found,
        tabs=tabs(visiting, project),
        offers=offers,
        datasets=datasets,
        shared=shared,
        quota=quota,
        activity=list(reversed(activity)) if activity is not None else None,
    )


@router.api_route("/console/projects/{project}/edit", methods=["GET", "POST"])
async def edit(project: ProjectOf, visiting: Visiting) -> Response:
    """Change a project's description or sandbox."""

    async def form() -> Form:
        found: Any = await visiting.get(project_path(project))
        return Form(
            f"Edit project {project}",
            "Save",
            project_page(project),
            [
                Field("description", "Description", "area", value=found["description"], longest=1000),
                Field("sandboxed", _SANDBOX, "mark", value="yes" if found["sandboxed"] else ""),
            ],
            ["Sandboxing an open project ends the certificates that data scientists hold outside; each of them needs a new token."],
        )

    async def act(sent: Sent) -> Response:
        body = {"description": sent.text("description"), "sandboxed": bool(sent.text("sandboxed"))}
        done = await visiting.send("PATCH", project_path(project), body)
        renewed = ", ".join(done["renewed"])
        return visiting.done(
            f"Project {project} is changed",
            Link("Back to the project", project_page(project)),
            says=[f"These members need a new enrolment token: {renewed}."] if renewed else [],
            settled=done["settled"],
        )

    return await visiting.step(Action.PROJECT_ALTER, project, form, act)


@router.api_route("/console/projects/{project}/hand-over", methods=["GET", "POST"])
async def hand_over(project: ProjectOf, visiting: Visiting) -> Response:
    """Make another data owner the author."""

    async def form() -> Form:
        await _require_author(visiting, Action.PROJECT_HAND_OVER, project)
        members: Any = await visiting.get(project_path(project, "members"))
        owners = [each["name"] for each in members if each["role"] == Role.DATA_OWNER and each["state"] == MemberState.ACTIVE]
        others = [(name, name) for name in owners if name != visiting.principal.member]
        return Form(
            f"Hand over project {project}",
            "Hand over",
            project_page(project),
            [
                Field(
                    "to",
                    "New author",
                    "choice",
                    options=others,
                    required=True,
                    help="" if others else "make another member a data owner first",
                )
            ],
            ["The author answers for the project, and alone may close it or hand it over. You stay a data owner."],
        )

    async def act(sent: Sent) -> Response:
        await visiting.send("POST", project_path(project, "hand-over"), {"to": sent.text("to")})
        return visiting.done(
            f"{sent.text('to')} is the author of project {project}",
            Link("Back to the project", project_page(project)),
        )

    return await visiting.step(Action.PROJECT_HAND_OVER, project, form, act)


@router.api_route("/console/projects/{project}/close", methods=["GET", "POST"])
async def close(project: ProjectOf, visiting: Visiting) -> Response:
    """End every membership and share of a project."""

    async def form() -> Form:
        await _require_author(visiting, Action.PROJECT_CLOSE, project)
        return Form(
            f"Close project {project}",
            "Close for good",
            project_page(project),
            [Field("confirm", "The project's name once more", required=True, longest=30)],
            [
                "Every membership and every share of the project ends at once, your own membership last.",
                "Its data stay until they are erased. Nothing opens a closed project again, and its name is not given out anew.",
            ],
            danger=True,
        )

    async def act(sent: Sent) -> Response:
        done = await visiting.send("POST", project_path(project, "close"), {"confirm": sent.text("confirm")})
        return visiting.done(
            f"Project {project} is closed" if done["settled"] else f"Project {project} is closing",
            Link("To the first page", "/console/"),
            settled=done["settled"],
            seconds=done["seconds"],
        )

    return await visiting.step(Action.PROJECT_CLOSE, project, form, act)


async def _seen(visiting: Visit, action: Action, project: ProjectName, part: str) -> Any:
    """Return a part of the project's page, or None where the visitor may not see it."""
    if not visiting.may(action, project):
        return None
    try:
        return await visiting.get(f"{project_path(project)}/{part}")
    except (Denied, NotFound):
        return None


async def _require_author(visiting: Visit, action: Action, project: ProjectName) -> None:
    decision = by_author(visiting.principal, action, _project(await visiting.get(project_path(project))))
    if not decision.allowed:
        raise Denied(decision.reason)


def _project(found: dict[str, Any]) -> Project:
    """Return what control said of a project as the value that decisions take."""
    author = MemberName(found["author"]) if found["author"] is not None else None
    return Project(
        ProjectName(found["name"]), found["description"], found["sandboxed"], datetime.fromisoformat(found["created_at"]), author
    )
