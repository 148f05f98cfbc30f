"""The console's first page: projects, datasets and the state of the stack.

Server-rendered, no script; the policy below forbids anything that a name typed by a stranger could become.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from gateway.authentication import SESSION_COOKIE, Callers
from gateway.upstream import Upstream
from wardstream.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unauthenticated, Unavailable

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent
_TEMPLATES = Environment(loader=FileSystemLoader(_FOLDER / "templates"), autoescape=select_autoescape(default=True))
_SESSION_SECONDS = 12 * 3600
# An administrator of many; the command line lists all.
_MOST_PROJECTS = 100
_POLICY = "default-src 'none'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers hide the origin of our own forms too, and the one-time link goes to nobody but us as it is.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


async def callers(request: Request) -> Callers:
    """Return what recognises callers."""
    found: Callers = request.app.state.callers
    return found


async def upstreams(request: Request) -> dict[str, Upstream]:
    """Return the processes behind the gateway by name."""
    found: dict[str, Upstream] = request.app.state.upstreams
    return found


@router.get("/")
def root() -> Response:
    """Lead to the console."""
    return RedirectResponse("/console/")


@router.get("/console/style.css")
def style() -> Response:
    """Return the style sheet."""
    return Response(
        (_FOLDER / "static" / "style.css").read_text(), media_type="text/css", headers={**_HEADERS, "Cache-Control": "max-age=3600"}
    )


@router.get("/console/login")
async def login(found: Annotated[Callers, Depends(callers)], link: str | None = None) -> Response:
    """Open a session with a one-time link; without one, ask for an API key."""
    return _page("login.html") if link is None else await _opened(found.open_session(link=link))


@router.post("/console/login/password")
async def login_by_password(
    request: Request,
    found: Annotated[Callers, Depends(callers)],
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=200)],
    code: Annotated[str, Form(max_length=64)],
    project: Annotated[str, Form(max_length=30)] = "",
    origin: Annotated[str | None, Header()] = None,
    host: Annotated[str, Header()] = "",
) -> Response:
    """Open a session with an account's password and code."""
    _require_own_form(origin, host)
    source = request.client.host if request.client is not None else ""
    return await _opened(found.log_in(name.strip(), password, code.strip(), project.strip(), source), name=name.strip(), project=project)


@router.post("/console/login")
async def login_by_key(
    found: Annotated[Callers, Depends(callers)],
    api_key: Annotated[str, Form(max_length=200)],
    origin: Annotated[str | None, Header()] = None,
    host: Annotated[str, Header()] = "",
) -> Response:
    """Open a session with an API key that was typed into the form."""
    _require_own_form(origin, host)
    return await _opened(found.open_session(api_key=api_key.strip()))


@router.post("/console/logout")
async def logout(
    request: Request,
    found: Annotated[Callers, Depends(callers)],
    origin: Annotated[str | None, Header()] = None,
    host: Annotated[str, Header()] = "",
) -> Response:
    """End the session."""
    _require_own_form(origin, host)
    if session := request.cookies.get(SESSION_COOKIE):
        try:
            await found.end_session(session)
        except Unavailable as error:
            return _away(error)
    answer = RedirectResponse("/console/login", status_code=303, headers=_HEADERS)
    answer.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


@router.get("/console/")
async def home(
    request: Request, found: Annotated[Callers, Depends(callers)], processes: Annotated[dict[str, Upstream], Depends(upstreams)]
) -> Response:
    """Show the first page to whoever is logged in."""
    try:
        caller = await found.caller(request)
    except Unauthenticated as error:
        # Whoever comes without a session has done nothing wrong; whose session is over is told so.
        return _page("login.html", status=401, reason=error.message if SESSION_COOKIE in request.cookies else None)
    except Unavailable as error:
        return _away(error)
    control = processes["control"]
    waiting = await asyncio.gather(*(process.waiting() for process in processes.values()))
    try:
        projects: Any = await control.json("GET", "/v1/projects", grant=caller.grant)
        shown = [{**project, "datasets": await _datasets(control, project["name"], caller.grant)} for project in projects[:_MOST_PROJECTS]]
        more = max(0, len(projects) - _MOST_PROJECTS)
    except Unavailable:
        shown, more = None, 0
    return _page(
        "home.html",
        caller=caller.principal,
        session=SESSION_COOKIE in request.cookies,
        projects=shown,
        more=more,
        processes=[("gateway", None), *zip(processes, waiting, strict=True)],
    )


def _away(error: Unavailable) -> Response:
    """Return the first page as far as it goes while nobody can be recognised: with no state but the one that the error tells."""
    processes = [("gateway", None), ("control", error.message)]
    return _page("home.html", status=error.status, caller=None, session=False, projects=None, more=0, processes=processes)


async def _datasets(control: Upstream, project: str, grant: str) -> Any:
    """Return the project's datasets, or None where the caller may not know them."""
    try:
        return await control.json("GET", f"/v1/projects/{project}/datasets", grant=grant)
    except (Denied, NotFound):
        return None


async def _opened(opening: Awaitable[str], **entered: str) -> Response:
    try:
        session = await opening
    except (Unauthenticated, Unavailable, Conflict, LimitExceeded, NotFound, Invalid) as error:
        return _page("login.html", status=error.status, reason=error.message, **entered)
    answer = RedirectResponse("/console/", status_code=303, headers=_HEADERS)
    answer.set_cookie(SESSION_COOKIE, session, max_age=_SESSION_SECONDS, httponly=True, secure=True, samesite="strict", path="/")
    return answer


def _require_own_form(origin: str | None, host: str) -> None:
    """Raise `Denied` for a form that another site sends; every browser says where a form comes from."""
    if origin is not None and origin != f"https://{host}":
        raise Denied("this form is sent from the console alone")


def _page(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status_code=status, headers=_HEADERS)
