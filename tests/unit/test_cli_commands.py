"""What commands ask of the platform, and what they say of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import typer
from typer.testing import CliRunner, Result

from wardstream.cli import audit, members, projects
from wardstream.cli.context import Context
from wardstream.client.projects import Project
from wardstream.client.session import Connection
from wardstream.client.transport import Transport


@dataclass
class _Platform:
    """Gives one answer to every request and keeps what was asked."""

    answer: Any
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def json(self, method: str, path: str, **arguments: Any) -> Any:
        self.asked.append((method, path, arguments))
        return self.answer


@dataclass(frozen=True)
class _LoggedIn(Context):
    """The global options of somebody whom the platform knows."""

    platform: _Platform

    def connection(self) -> Connection:
        return Connection(cast(Transport, self.platform))

    def project(self, name: str | None = None) -> Project:
        return Project(cast(Transport, self.platform), name or "icu")


def _run(app: typer.Typer, platform: _Platform, *arguments: str) -> Result:
    """Return what the command wrote: `stdout`, and `output` with the remarks beside it."""
    done = CliRunner().invoke(app, arguments, obj=_LoggedIn(None, None, None, None, platform), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_audit_is_searched_by_what_was_said_and_shown_narrow() -> None:
    entry = {"at": "2026-11-25T08:00:00.000001+00:00", "principal": "icu__anna", "surface": "sql", "action": "row.read", "n": 1}
    platform = _Platform([{**entry, "project": "icu", "dataset": "vitals_1", "outcome": "allowed", "seal": "a" * 64}])

    done = _run(audit.app, platform, "list", "--project", "icu", "--surface", "sql", "--since", "2026-11-25T07:00:00")

    params = platform.asked[0][2]["params"]
    assert {key: value for key, value in params.items() if value is not None} == {
        "project": "icu",
        "surface": "sql",
        "since": "2026-11-25T07:00:00+00:00",
        "limit": 50,
    }
    assert "icu.vitals_1" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


_ADD = (members.app, ("add", "anna", "--role", "observer"))
_CREATE = (projects.app, ("create", "icu", "--owner", "olga"))


def _made(*, settled: bool) -> _Platform:
    token = {"enrolment_token": "wse_1", "owner_token": "wse_1", "expires_at": "2030-01-01T00:00:00Z"}
    return _Platform({"member": {"principal": "icu__anna"}, "settled": settled, **token})


@pytest.mark.parametrize(("app", "arguments"), [_ADD, _CREATE])
def test_rights_that_do_not_hold_everywhere_yet_are_spoken_of(app: typer.Typer, arguments: tuple[str, ...]) -> None:
    assert "not confirmed" in _run(app, _made(settled=False), *arguments).output
    assert "not confirmed" not in _run(app, _made(settled=True), *arguments).output


@pytest.mark.parametrize(("app", "arguments"), [_ADD, _CREATE])
def test_programs_are_told_whether_rights_hold_everywhere(app: typer.Typer, arguments: tuple[str, ...]) -> None:
    assert json.loads(_run(app, _made(settled=True), *arguments, "--output", "json").stdout)["settled"] is True
