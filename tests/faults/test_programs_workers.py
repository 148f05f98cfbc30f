"""Workers killed: what they ran is taken up again, and nothing that they started stays behind."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.stack import RunningStack, run_launcher
from tests.support.tables import new_table, rows
from tests.support.waiting import eventually
from wardstream import processes
from wardstream.processes import ProcessRecord

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(240)]


def test_program_of_a_killed_worker_is_run_again_and_its_first_sandbox_is_gone(stack: RunningStack, tmp_path: Path) -> None:
    project = stack.new_project("killed")
    script = tmp_path / "main.py"
    script.write_text("import time; print('up'); time.sleep(12); open('/out/done', 'w').write('x')")
    programs = project.owner.project.programs
    started = programs.run(script)
    eventually(lambda: programs.logs(started.id) == "up\n", within=40)
    sandbox = record(stack, f"execution-{started.id}")
    kill(stack, "program-worker")
    eventually(lambda: not sandbox.alive, within=10)
    restart(stack)
    ended = programs.wait(started.id, timeout_seconds=120)
    assert (ended.state, ended.files) == ("succeeded", ("done",))
    shown = project.owner.connection.transport.json("GET", f"/api/v1/projects/{project.name}/programs/{started.id}")
    assert shown["attempt"] == 2


def test_children_of_a_killed_stream_worker_end_and_the_next_one_fills_the_tables(stack: RunningStack) -> None:
    table = new_table(stack)
    table.insert(rows(range(5), minute=0))
    child = table.materialiser()
    kill(stack, "stream-worker")
    eventually(lambda: not child.alive, within=15)
    table.insert(rows(range(5), minute=1), wait=False)
    restart(stack)
    found = table.settled(records=10, within=90)
    assert (found["difference"], found["rows"]) == (0, 10)
    assert table.materialiser().pid != child.pid


def record(stack: RunningStack, name: str) -> ProcessRecord:
    return next(each for each in processes.recorded(stack.home / "processes") if each.name == name)


def kill(stack: RunningStack, part: str) -> None:
    pid = next(each["pid"] for each in json.loads((stack.home / "run.json").read_text())["processes"] if each["name"] == part)
    os.kill(pid, signal.SIGKILL)


def restart(stack: RunningStack) -> None:
    """Start what is missing, as a supervisor of the machine would."""
    done = run_launcher(stack.home, "up")
    assert done.returncode == 0, done.stdout + done.stderr
