"""Pages of the console over answers of control as they are: certificates, pages of the audit, and what a refused form says."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI, Request

from gateway.authentication import Caller
from gateway.console import pages
from gateway.console.visit import form_token
from tenancy.model import Principal, PrincipalKind, Role
from wardstream.errors import Conflict
from wardstream.names import MemberName, ProjectName
from wardstream.server import application

_PROJECT = {
    "name": "icu",
    "description": "",
    "sandboxed": True,
    "created_at": "2026-01-01T00:00:00+00:00",
    "author": "anna",
    "state": "active",
}
_OWNER = Principal(PrincipalKind.MEMBER, ProjectName("icu"), MemberName("anna"), Role.DATA_OWNER)


class _Known:
    """Callers of one owner's session."""

    async def caller(self, request: Request) -> Caller:
        return Caller(_OWNER, "grant")

    def session_of(self, request: Request) -> str:
        return "session"


class _Control:
    """Control with answers by path."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"/v1/projects/icu": _PROJECT, **answers}
        self.asked: list[str] = []

    async def json(self, method: str, path: str, **_: object) -> Any:
        self.asked.append(path)
        answer = self.answers[path.partition("?")[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer(control: _Control, method: str, path: str, **form: str) -> httpx.Response:
    app: FastAPI = application("test", ready={})
    app.include_router(pages.router)
    app.state.callers, app.state.upstreams = _Known(), {"control": control}

    async def scenario() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://platform") as client:
            data = {"form_token": form_token("session"), **form} if method == "POST" else None
            return await client.request(method, path, data=data)

    return asyncio.run(scenario())


def test_certificates_are_shown_with_what_ends_soon_and_what_was_revoked() -> None:
    one = {
        "serial": "a1",
        "member": "monitor-7",
        "principal": "icu__monitor-7",
        "profile": "device",
        "issued_at": "2026-01-01T00:00:00+00:00",
    }
    found = [
        {**one, "expires_at": "2099-01-01T00:00:00+00:00", "revoked_at": None},
        {**one, "serial": "b2", "expires_at": "2026-01-02T00:00:00+00:00", "revoked_at": None},
        {**one, "serial": "c3", "expires_at": "2026-01-02T00:00:00+00:00", "revoked_at": "2026-01-01T10:30:00+00:00"},
    ]
    answer = _answer(_Control(**{"/v1/projects/icu/certificates": found}), "GET", "/console/projects/icu/certificates")
    assert answer.status_code == 200
    assert answer.text.count("soon</span>") == 1
    assert "2026-01-01 10:30" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_an_older_page_of_the_audit_begins_where_the_newer_one_ended() -> None:
    entries = [{"at": "2026-01-01T00:00:00+00:00", "chain": "control", "n": n, "place": f"2026-01-01|control|{n}"} for n in range(50)]
    control = _Control(**{"/v1/audit/entries": entries})
    answer = _answer(control, "GET", "/console/audit?action=member.add")
    assert "/console/audit?action=member.add&amp;older=2026-01-01%7Ccontrol%7C0" in answer.text
    _answer(control, "GET", "/console/audit?action=member.add&older=2026-01-01%7Ccontrol%7C0")
    assert "before=2026-01-01%7Ccontrol%7C0" in control.asked[-1]
    assert "action=member.add" in control.asked[-1]


def test_a_refused_form_keeps_what_was_entered_and_no_secret() -> None:
    control = _Control(**{"/v1/account/password": Conflict("that is <no> good password")})
    form = {"old": "horse battery", "new": "short", "code": "123456"}
    answer = _answer(control, "POST", "/console/account/password", **form)
    assert answer.status_code == 409
    assert "that is &lt;no&gt; good password" in answer.text
    assert not any(value in answer.text for value in form.values())
