"""Coming in and going out of the console, and what its pages are made with."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

from fastapi import Depends, Form, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from gateway.authentication import SESSION_COOKIE, Callers
from gateway.console.visit import FOLDER, HEADERS, SCRIPT, away, login_page, require_own_form, router, within
from wardstream.errors import Conflict, Invalid, LimitExceeded, NotFound, Unauthenticated, Unavailable

_SESSION_SECONDS = 12 * 3600
_KEPT = {**HEADERS, "Cache-Control": "max-age=3600"}


async def callers(request: Request) -> Callers:
    """Return what recognises callers."""
    found: Callers = request.app.state.callers
    return found


@router.get("/")
def root() -> Response:
    """Lead to the console."""
    return RedirectResponse("/console/")


@router.get("/console/style.css")
def style() -> Response:
    """Return the style sheet."""
    return FileResponse(FOLDER / "static" / "style.css", media_type="text/css", headers=_KEPT)


@router.get("/console/htmx.min.js")
def script() -> Response:
    """Return the script that set-up brought; every page works without it."""
    if not SCRIPT.exists():
        raise NotFound("this platform was set up without the console's script")
    return FileResponse(SCRIPT, media_type="text/javascript", headers=_KEPT)


@router.get("/console/login")
async def login(found: Annotated[Callers, Depends(callers)], link: str | None = None) -> Response:
    """Open a session with a one-time link; without one, ask for an API key."""
    return login_page() if link is None else await _opened(found.open_session(link=link), "/console/")


@router.post("/console/login/password")
async def login_by_password(
    request: Request,
    found: Annotated[Callers, Depends(callers)],
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=200)],
    code: Annotated[str, Form(max_length=64)],
    project: Annotated[str, Form(max_length=30)] = "",
    back: Annotated[str | None, Form(max_length=500)] = None,
) -> Response:
    """Open a session with an account's password and code."""
    require_own_form(request)
    source = request.client.host if request.client is not None else ""
    opening = found.log_in(name.strip(), password, code.strip(), project.strip(), source)
    return await _opened(opening, within(back), name=name.strip(), project=project.strip())


@router.post("/console/login")
async def login_by_key(
    request: Request,
    found: Annotated[Callers, Depends(callers)],
    api_key: Annotated[str, Form(max_length=200)],
    back: Annotated[str | None, Form(max_length=500)] = None,
) -> Response:
    """Open a session with an API key that was typed into the form."""
    require_own_form(request)
    return await _opened(found.open_session(api_key=api_key.strip()), within(back))


@router.post("/console/logout")
async def logout(request: Request, found: Annotated[Callers, Depends(callers)]) -> Response:
    """End the session."""
    require_own_form(request)
    if session := request.cookies.get(SESSION_COOKIE):
        try:
            await found.end_session(session)
        except Unavailable as error:
            return away(error)
    answer = RedirectResponse("/console/login", status_code=303, headers=HEADERS)
    answer.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


async def _opened(opening: Awaitable[str], back: str, **entered: str) -> Response:
    try:
        session = await opening
    except (Unauthenticated, Unavailable, Conflict, LimitExceeded, NotFound, Invalid) as error:
        return login_page(status=error.status, reason=error.message, back=back, **entered)
    answer = RedirectResponse(back, status_code=303, headers=HEADERS)
    answer.set_cookie(SESSION_COOKIE, session, max_age=_SESSION_SECONDS, httponly=True, secure=True, samesite="strict", path="/")
    return answer
