"""Certificates of a project's members."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.responses import Response

from gateway.console.visit import ProjectOf, Visiting, project_path, router, tabs

_SOON = timedelta(days=7)


@router.get("/console/projects/{project}/certificates")
async def certificates(project: ProjectOf, visiting: Visiting) -> Response:
    """Show the certificates that have not expired, the newest first, and which of them end soon."""
    found: Any = await visiting.get(project_path(project, "certificates"))
    described: Any = await visiting.get(project_path(project))
    soon = (datetime.now(UTC) + _SOON).timestamp()
    shown = [{**each, "soon": datetime.fromisoformat(each["expires_at"]).timestamp() < soon and not each["revoked_at"]} for each in found]
    return visiting.page("certificates.html", project=described, tabs=tabs(visiting, project), certificates=shown)
