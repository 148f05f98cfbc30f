"""The audit: searching it, and checking that it is as it was written."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import Response

from gateway.console.forms import Field
from gateway.console.visit import Link, Visiting, router, tabs
from tenancy.audit import Outcome
from tenancy.policy import Action
from wardstream.errors import WardstreamError
from wardstream.names import parse_project

_A_PAGE = 50
# What an entry's line shows by itself; the rest stands below it.
_IN_LINE = frozenset(
    {"at", "principal", "action", "project", "dataset", "subject", "outcome", "surface", "reason", "n", "chain", "hash", "place"}
)


@router.get("/console/audit")
async def search(visiting: Visiting) -> Response:
    """Show the newest entries that fit, newest first; a page leads to what is older."""
    asked = {name: value.strip() for name, value in visiting.request.query_params.items() if value.strip()}
    # Without a project it is the visitor's own; an administrator's is the platform's.
    project = parse_project(asked["project"]) if "project" in asked else visiting.principal.project
    visiting.require(Action.AUDIT_READ, project)
    fields = _fields(asked, whole=visiting.principal.project is None)
    filters = {field.name: field.value for field in fields if field.value}
    entries: list[dict[str, Any]] = []
    error: WardstreamError | None = None
    try:
        sent = {name: _moment(value) if name in ("since", "until") else value for name, value in filters.items()}
        if "older" in asked:
            sent["before"] = asked["older"]
        if project is not None:
            sent["project"] = project
        entries = await visiting.get(f"/v1/audit/entries?{urlencode({**sent, 'limit': _A_PAGE})}")
    except WardstreamError as found:
        if found.status != 422:
            raise
        error = found
    older = f"/console/audit?{urlencode({**filters, 'older': entries[0]['place']})}" if len(entries) == _A_PAGE else None
    return visiting.page(
        "audit.html",
        status=error.status if error is not None else 200,
        fields=fields,
        project=project,
        tabs=tabs(visiting, project) if project is not None else [],
        entries=[_shown(entry) for entry in reversed(entries)],
        older=older,
        newest=f"/console/audit?{urlencode(filters)}" if "older" in asked else None,
        error=error,
        offers=[Link("Check the chains", "/console/audit/verify")],
    )


@router.get("/console/audit/verify")
async def verify(visiting: Visiting) -> Response:
    """Check every chain and show what was found."""
    visiting.require(Action.AUDIT_READ, visiting.principal.project)
    found: Any = await visiting.get("/v1/audit/verify")
    return visiting.page("verified.html", found=found, back=Link("Back to the audit", "/console/audit"))


def _fields(asked: dict[str, str], *, whole: bool) -> list[Field]:
    outcomes = [("", "any"), *((outcome.value, outcome.value) for outcome in Outcome)]
    return [
        *([Field("project", "Project", value=asked.get("project", ""), longest=30)] if whole else []),
        Field("by", "Principal", value=asked.get("by", ""), longest=64),
        Field("action", "Action", value=asked.get("action", ""), longest=60),
        Field("dataset", "Dataset", value=asked.get("dataset", ""), longest=100),
        Field("outcome", "Outcome", "choice", asked.get("outcome", ""), options=outcomes),
        Field("since", "From (UTC)", "time", asked.get("since", "")),
        Field("until", "Until (UTC)", "time", asked.get("until", "")),
        Field("text", "Anywhere", value=asked.get("text", ""), longest=100),
    ]


def _moment(text: str) -> str:
    """Return a time of the form as the search takes it; what is none goes on as it is and is refused there."""
    try:
        return f"{datetime.fromisoformat(text.removesuffix('Z')).replace(tzinfo=None).isoformat()}+00:00"
    except ValueError:
        return text


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with what its line shows, and the rest as words."""
    rest = {name: value for name, value in entry.items() if name not in _IN_LINE and value not in (None, "", {}, [])}
    target = entry.get("dataset") or entry.get("subject") or entry.get("resource") or ""
    return {
        "at": entry["at"],
        "principal": entry.get("principal") or "",
        "action": entry.get("action") or "",
        "target": target,
        "project": entry.get("project") or "",
        "surface": entry.get("surface") or "",
        "outcome": entry.get("outcome") or "",
        "reason": entry.get("reason") or "",
        "place": f"{entry['chain']} {entry['n']}",
        "rest": ", ".join(f"{name} {value}" for name, value in sorted(rest.items())),
    }
