"""Quotas of a project where its people meet them: rows, groups, programs, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.stack import NewProject, RunningStack
from tests.support.tables import Table, new_table
from tests.support.waiting import eventually
from wardstream.client.features import Feature
from wardstream.client.projects import Limit
from wardstream.errors import LimitExceeded

pytestmark = pytest.mark.stack


def limits(found: list[Limit]) -> dict[str, Limit]:
    return {each.name: each for each in found}


def rows(patient: str) -> pa.Table:
    return pa.table({"patient": [patient], "at": [datetime(2026, 1, 1, tzinfo=UTC)], "heart_rate": [1.0], "ward": ["x"]})


@pytest.mark.parametrize("quota", ["bytes_online", "bytes_offline"])
def test_a_project_without_room_for_bytes_gets_neither_rows_nor_groups(stack: RunningStack, quota: str) -> None:
    table: Table = new_table(stack)
    assert table.group.insert(rows("a"), wait=True).materialised
    admin = stack.admin.projects.get(table.project.name)
    # Counted at the next insert; then the project is given exactly what it has.
    eventually(lambda: table.group.insert(rows("b"), wait=True).materialised and limits(admin.quota())[quota].used, within=20)
    admin.set_quota({quota: 1})
    refused = eventually(lambda: _refusal(lambda: table.group.insert(rows("c"))), within=20)
    used = limits(table.project.owner.project.quota())[quota].used
    words = quota.replace("_", " ")
    assert refused == (
        f"project {table.project.name} has {used} of 1 {words}, 1 more would be too many: "
        "an administrator can raise it (`wardstream project quota set`)"
    )
    with pytest.raises(LimitExceeded):
        new_group_in(table.project)
    admin.set_quota({quota: None})
    eventually(lambda: table.group.insert(rows("c")).accepted, within=20)


def _refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except LimitExceeded as error:
        return error.message
    return ""


def new_group_in(project: NewProject) -> None:
    features = [Feature("patient", "string"), Feature("at", "timestamp")]
    store = project.owner.project.get_feature_store()
    store.create_feature_group("more", primary_key=["patient"], event_time="at", features=features)


def test_one_more_program_than_the_quota_is_refused(stack: RunningStack, tmp_path: Path) -> None:
    project = stack.new_project("runs")
    stack.admin.projects.get(project.name).set_quota({"executions": 1})
    script = tmp_path / "main.py"
    script.write_text("import time\ntime.sleep(60)\n")
    programs = project.owner.project.programs
    first = programs.run(script)
    with pytest.raises(LimitExceeded, match=f"project {project.name} has 1 of 1 executions, 1 more would be too many"):
        programs.run(script)
    assert limits(project.owner.project.quota())["executions"] == Limit("executions", 1, 1)
    programs.stop(first.id)


def test_quotas_are_set_and_shown_by_the_command_line(stack: RunningStack) -> None:
    project = stack.new_project("cli")
    done = _cli(stack, stack.home / "admin.key", "project", "quota", "set", "topics=7", "bytes_offline=none", "--project", project.name)
    assert done.returncode == 0, done.stderr
    key = stack.home / f"{project.name}.key"
    key.write_text(project.owner.api_key)
    shown = {each["name"]: each for each in json.loads(_cli(stack, key, "project", "quota", "show", "--output", "json").stdout)}
    assert (shown["topics"]["limit"], shown["topics"]["used"], shown["bytes_offline"]["limit"]) == (7, 0, None)
    refused = _cli(stack, key, "project", "quota", "set", "topics=8")
    assert (refused.returncode, "ask" in refused.stderr) == (4, True)
    assert "name=value" in _cli(stack, key, "project", "quota", "set", "topics=many").stderr


def _cli(stack: RunningStack, key: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WARDSTREAM_")}
    environment = {**clean, "WARDSTREAM_URL": stack.url(), "WARDSTREAM_CA": str(stack.root), "WARDSTREAM_API_KEY_FILE": str(key)}
    command = [sys.executable, "-m", "wardstream.cli.main", *arguments]
    return subprocess.run(
        command, env={**environment, "NO_COLOR": "1", "COLUMNS": "200"}, capture_output=True, text=True, timeout=60, check=False
    )
