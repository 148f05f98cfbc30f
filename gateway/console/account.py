"""One's own: memberships, sessions, API keys, password."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi.responses import Response

from gateway.console.forms import Field, Form, Sent
from gateway.console.visit import Link, Secret, Visit, Visiting, router
from tenancy.policy import SCOPES, Action
from wardstream.client.transport import path_part
from wardstream.errors import Invalid, NotFound

_PAGE = "/console/account"
_BACK = Link("Back to your account", _PAGE)


@router.get(_PAGE)
async def account(visiting: Visiting) -> Response:
    """Show what the visitor has open, and with what it may come back."""
    visiting.require(Action.ACCOUNT_MANAGE, visiting.principal.project)
    person = visiting.principal.person
    sessions, keys = await asyncio.gather(visiting.get("/v1/account/sessions"), visiting.get("/v1/account/keys"))
    memberships: Any = await visiting.get("/v1/account/memberships") if person is not None else []
    links = [(Action.ACCOUNT_MANAGE, Link("New API key", f"{_PAGE}/keys/add"))]
    if person is not None:
        links.append((Action.ACCOUNT_MANAGE, Link("Change password", f"{_PAGE}/password")))
    return visiting.page(
        "account.html",
        sessions=[{**each, "offers": [_end(each["id"])], "here": _is_here(visiting, each["id"])} for each in sessions],
        keys=[{**each, "offers": [_revoke(each["id"])]} for each in keys],
        memberships=memberships,
        offers=visiting.offered(visiting.principal.project, *links),
    )


@router.api_route(f"{_PAGE}/sessions/{{session}}/end", methods=["GET", "POST"])
async def end_session(session: str, visiting: Visiting) -> Response:
    """End one of the visitor's sessions."""

    async def form() -> Form:
        found = await _one(visiting, "sessions", session)
        here = "It is the one that you are using: you will have to log in again." if _is_here(visiting, session) else ""
        says = [f"Whoever uses it has to log in again. It comes from {found['source'] or 'an unknown address'}.", *([here] if here else [])]
        return Form("End a session", "End session", _PAGE, says=says, danger=True)

    async def act(_: Sent) -> Response:
        await visiting.send("DELETE", f"/v1/account/sessions/{path_part(session)}")
        return visiting.done("The session is ended", _BACK)

    return await visiting.step(Action.ACCOUNT_MANAGE, visiting.principal.project, form, act)


@router.api_route(f"{_PAGE}/keys/add", methods=["GET", "POST"])
async def add_key(visiting: Visiting) -> Response:
    """Make an API key."""

    async def form() -> Form:
        return Form(
            "New API key",
            "Make key",
            _PAGE,
            [
                Field("label", "Where it is used", required=True, longest=60, help="such as: notebook of the ward round"),
                Field(
                    "scopes", "Opens only", "several", options=[(scope, scope) for scope in SCOPES], help="none marked: all that you may do"
                ),
                Field("days", "Good for days", longest=8, help="empty: until you revoke it"),
            ],
        )

    async def act(sent: Sent) -> Response:
        body = {"label": sent.text("label"), "scopes": sent.all("scopes") or None, "days": _days(sent.text("days"))}
        done = await visiting.send("POST", "/v1/account/keys", body)
        secret = Secret(f"API key of {visiting.principal.name}", done["api_key"], done["key"]["expires_at"])
        return visiting.done("The API key is made", _BACK, secret=secret)

    return await visiting.step(Action.ACCOUNT_MANAGE, visiting.principal.project, form, act)


@router.api_route(f"{_PAGE}/keys/{{key}}/revoke", methods=["GET", "POST"])
async def revoke_key(key: str, visiting: Visiting) -> Response:
    """Make an API key worthless."""

    async def form() -> Form:
        found = await _one(visiting, "keys", key)
        return Form("Revoke an API key", "Revoke key", _PAGE, says=[f"{found['label'] or 'It'} opens nothing from then on."], danger=True)

    async def act(_: Sent) -> Response:
        await visiting.send("DELETE", f"/v1/account/keys/{path_part(key)}")
        return visiting.done("The API key is revoked", _BACK)

    return await visiting.step(Action.ACCOUNT_MANAGE, visiting.principal.project, form, act)


@router.api_route(f"{_PAGE}/password", methods=["GET", "POST"])
async def password(visiting: Visiting) -> Response:
    """Change the password of the account."""

    async def form() -> Form:
        return Form(
            "Change password",
            "Change password",
            _PAGE,
            [
                Field("old", "Password until now", "secret", required=True),
                Field("new", "New password", "secret", required=True, help="a sentence that nobody else would say"),
                Field("code", "Code of your authenticator", "secret", required=True, longest=64),
            ],
            ["Every session of yours ends with it, this one too."],
        )

    async def act(sent: Sent) -> Response:
        body = {"old": sent.raw("old"), "new": sent.raw("new"), "code": sent.text("code")}
        await visiting.send("POST", "/v1/account/password", body)
        return visiting.done("The password is changed", Link("Log in again", "/console/login"))

    return await visiting.step(Action.ACCOUNT_MANAGE, visiting.principal.project, form, act)


def _end(session: str) -> Link:
    return Link("End", f"{_PAGE}/sessions/{path_part(session)}/end", danger=True)


def _revoke(key: str) -> Link:
    return Link("Revoke", f"{_PAGE}/keys/{path_part(key)}/revoke", danger=True)


def _is_here(visiting: Visit, session: str) -> bool:
    return visiting.session is not None and visiting.session.split("_")[1:2] == [session]


def _days(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise Invalid(f"days are a number, such as 30; got {text[:20]!a}") from error


async def _one(visiting: Visit, kind: str, name: str) -> dict[str, Any]:
    found: Any = await visiting.get(f"/v1/account/{kind}")
    for each in found:
        if each["id"] == name:
            return dict(each)
    raise NotFound(f"{name[:16]} is not there")
