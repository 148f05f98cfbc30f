"""Shares of a project: what it gives to others, is offered by them and has from them."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from gateway.console.forms import Field, Form, Sent
from gateway.console.visit import Link, ProjectOf, Visit, Visiting, project_page, project_path, router, tabs
from tenancy.model import DatasetPermission, ShareState
from tenancy.policy import Action
from wardstream.errors import NotFound
from wardstream.names import ProjectName


@router.get("/console/projects/{project}/shares")
async def shares(project: ProjectOf, visiting: Visiting) -> Response:
    """Show shares in both directions, those that are over too."""
    described: Any = await visiting.get(project_path(project))
    found: Any = await visiting.get(project_path(project, "shares"))
    received: Any = await visiting.get(project_path(project, "shared-datasets"))
    shown = [{**each, "offers": _offers(visiting, project, each)} for each in reversed(found)]
    return visiting.page(
        "shares.html",
        project=described,
        tabs=tabs(visiting, project),
        offered_here=[each for each in shown if each["receiver"] == project and not ShareState(each["state"]).over],
        given=[each for each in shown if each["project"] == project and not ShareState(each["state"]).over],
        over=[each for each in shown if ShareState(each["state"]).over],
        received=received,
        offers=visiting.offered(project, (Action.SHARE_OFFER, Link("Offer a dataset", project_page(project, "shares", "offer")))),
    )


@router.api_route("/console/projects/{project}/shares/offer", methods=["GET", "POST"])
async def offer(project: ProjectOf, visiting: Visiting) -> Response:
    """Offer a dataset to another project."""

    async def form() -> Form:
        datasets: Any = await visiting.get(project_path(project, "datasets"))
        return Form(
            f"Offer a dataset of {project}",
            "Offer",
            project_page(project, "shares"),
            [
                Field("dataset", "Dataset", "choice", options=[(each["name"], each["name"]) for each in datasets], required=True),
                Field("receiver", "To project", required=True, longest=30, help="whether a project of that name exists is not told"),
                Field(
                    "mode",
                    "Who there may write",
                    "choice",
                    DatasetPermission.READ_ONLY,
                    options=[
                        (DatasetPermission.READ_ONLY, "nobody: read-only"),
                        (DatasetPermission.EDITABLE_BY_OWNERS, "its data owners: editable-by-owners"),
                        (DatasetPermission.EDITABLE, "its data owners and scientists: editable"),
                    ],
                ),
                Field("columns", "Columns", longest=8000, help="of a feature group, to share its table by these alone; empty: all of it"),
                Field("purpose", "Purpose", "area", required=True, longest=500, help="both projects see it"),
                Field("expires_at", "Ends at (UTC)", "time", help="empty: until it is withdrawn"),
            ],
            ["Nothing is open before an owner of the other project accepts. No copy is made: they read what you keep."],
        )

    async def act(sent: Sent) -> Response:
        body = {
            "dataset": sent.text("dataset"),
            "receiver": sent.text("receiver"),
            "mode": sent.text("mode"),
            "columns": sent.text("columns").replace(",", " ").split() or None,
            "purpose": sent.text("purpose"),
            "expires_at": sent.time("expires_at", "Ends at"),
        }
        done = await visiting.send("POST", project_path(project, "shares"), body)
        return visiting.done(
            f"{project}.{done['dataset']} is offered to {done['receiver']}",
            _back(project),
            says=["An owner of that project sees the offer among its shares, and accepts or rejects it."],
        )

    return await visiting.step(Action.SHARE_OFFER, project, form, act)


@router.api_route("/console/projects/{project}/shares/{share}/accept", methods=["GET", "POST"])
async def accept(project: ProjectOf, share: str, visiting: Visiting) -> Response:
    """Put an offer in force."""

    def says(found: dict[str, Any]) -> list[str]:
        return [
            f"All people of {project} may use {found['project']}.{found['dataset']} at once ({found['mode']}), those who come later too."
        ]

    return await _decided(visiting, project, share, Action.SHARE_ACCEPT, ("POST", "accept"), ("Accept", "is accepted"), says, danger=False)


@router.api_route("/console/projects/{project}/shares/{share}/reject", methods=["GET", "POST"])
async def reject(project: ProjectOf, share: str, visiting: Visiting) -> Response:
    """Refuse an offer."""

    def says(found: dict[str, Any]) -> list[str]:
        return [f"The offer of {found['project']}.{found['dataset']} is over then; {found['project']} may offer it again."]

    return await _decided(visiting, project, share, Action.SHARE_ACCEPT, ("POST", "reject"), ("Reject", "is rejected"), says, danger=True)


@router.api_route("/console/projects/{project}/shares/{share}/withdraw", methods=["GET", "POST"])
async def withdraw(project: ProjectOf, share: str, visiting: Visiting) -> Response:
    """End a share."""

    def says(found: dict[str, Any]) -> list[str]:
        if found["state"] == ShareState.OFFERED:
            return [f"{found['receiver']} can no longer accept it."]
        return [f"The people of {found['receiver']} lose {found['project']}.{found['dataset']} on every surface; open consumers are cut."]

    return await _decided(visiting, project, share, Action.SHARE_WITHDRAW, ("DELETE", ""), ("Withdraw", "is withdrawn"), says, danger=True)


async def _decided(
    visiting: Visit,
    project: ProjectName,
    share: str,
    action: Action,
    call: tuple[str, str],
    words: tuple[str, str],
    says: Any,
    *,
    danger: bool,
) -> Response:
    method, last = call
    verb, outcome = words

    async def form() -> Form:
        found = await _share(visiting, project, share)
        title = f"{verb} the share of {found['project']}.{found['dataset']} with {found['receiver']}"
        ends = [f"It ends at {found['expires_at'][:16].replace('T', ' ')} UTC."] if found["expires_at"] else []
        return Form(title, verb, project_page(project, "shares"), says=[*says(found), f"Purpose: {found['purpose']}", *ends], danger=danger)

    async def act(_: Sent) -> Response:
        path = project_path(project, "shares", share, *([last] if last else []))
        done = await visiting.send(method, path)
        name = f"{done['share']['project']}.{done['share']['dataset']}"
        return visiting.done(
            f"The share of {name} with {done['share']['receiver']} {outcome}",
            _back(project),
            settled=done["settled"],
            seconds=done["seconds"],
        )

    return await visiting.step(action, project, form, act)


def _offers(visiting: Visit, project: ProjectName, share: dict[str, Any]) -> list[Link]:
    """Return what may be offered for one share, as far as it is not over."""
    state = ShareState(share["state"])

    def link(label: str, step: str, *, danger: bool = False) -> Link:
        return Link(label, project_page(project, "shares", share["id"], step), danger)

    if state.over:
        return []
    mine = state is ShareState.OFFERED and share["receiver"] == project
    return visiting.offered(
        project,
        *([(Action.SHARE_ACCEPT, link("Accept", "accept")), (Action.SHARE_ACCEPT, link("Reject", "reject", danger=True))] if mine else []),
        *([(Action.SHARE_WITHDRAW, link("Withdraw", "withdraw", danger=True))] if not mine else []),
    )


def _back(project: ProjectName) -> Link:
    return Link("Back to the shares", project_page(project, "shares"))


async def _share(visiting: Visit, project: ProjectName, share: str) -> dict[str, Any]:
    found: Any = await visiting.get(project_path(project, "shares"))
    for each in found:
        if each["id"] == share:
            return dict(each)
    raise NotFound(f"share {share[:16]} of project {project} is not there")
