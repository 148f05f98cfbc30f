"""What commands ask of the platform, and what they say of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

import typer
from click.testing import Result
from typer.testing import CliRunner

from wardstream.cli import projects
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


def test_the_audit_is_listed_from_an_entry_on() -> None:
    platform = _Platform([{"sequence": 8}])

    done = _run(projects.audit, platform, "list", "--after", "7", "--limit", "2", "--output", "json")

    assert json.loads(done.stdout) == [{"sequence": 8}]
    assert platform.asked == [("GET", "/api/v1/audit", {"params": {"project": None, "limit": 2, "after": 7}})]


def test_the_audit_is_listed_from_its_newest_entries_if_nothing_is_said() -> None:
    platform = _Platform([])

    _run(projects.audit, platform, "list", "--project", "icu")

    assert platform.asked == [("GET", "/api/v1/audit", {"params": {"project": "icu", "limit": 50, "after": None}})]
