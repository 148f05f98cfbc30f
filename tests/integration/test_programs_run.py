"""A project's programs on the running platform: from a script to its log, its files and its end."""

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.stack import NewProject, Person, RunningStack
from tests.support.waiting import eventually
from wardstream import processes
from wardstream.client.programs import Execution
from wardstream.errors import Denied, Invalid, NotFound

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]


class Runner:
    """Somebody who runs programs."""

    def __init__(self, person: Person, folder: Path) -> None:
        self.person = person
        self.programs = person.project.programs
        self._folder = folder

    def start(self, script: str, **options: object) -> Execution:
        path = self._folder / "main.py"
        path.write_text(textwrap.dedent(script))
        return self.programs.run(path, **options)  # type: ignore[arg-type]  # a test's options

    def run(self, script: str, **options: object) -> tuple[Execution, str]:
        ended = self.programs.wait(self.start(script, **options).id, timeout_seconds=90)
        return ended, self.programs.logs(ended.id)


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    return stack.new_project("programs")


@pytest.fixture(scope="module")
def scientist(project: NewProject) -> Person:
    return project.add("mia", "data-scientist")


@pytest.fixture
def runner(scientist: Person, tmp_path: Path) -> Runner:
    return Runner(scientist, tmp_path)


def test_program_acts_in_the_callers_name_at_the_inside_door(project: NewProject, runner: Runner) -> None:
    ended, log = runner.run(
        """
        import sys, wardstream
        import helper
        project = wardstream.login()
        print(project.name, wardstream.connect().whoami().principal, wardstream.connect().whoami().door, helper.WORD, sys.argv[1:])
        open("/out/result.txt", "w").write("42")
        """,
        arguments=["--fast", "two words"],
        files=[_file(runner, "helper.py", "WORD = 'beside'")],
    )
    assert (ended.state, ended.exit_code, ended.files) == ("succeeded", 0, ("result.txt",)), log
    assert log == f"{project.name} {project.name}__mia inside beside ['--fast', 'two words']\n"
    assert runner.programs.file(ended.id, "result.txt") == b"42"
    assert ended.id in [each.id for each in runner.programs.list()]


def test_program_reads_what_stays_inside_a_sandboxed_project(project: NewProject, scientist: Person, runner: Runner) -> None:
    topic = project.create_topic("notes", permission="editable")
    project.owner.produce(topic, [b"one", b"two"])
    with pytest.raises(Denied, match="wardstream program run"):
        scientist.project.get_feature_store().sql("select 1")
    ended, log = runner.run(
        f"""
        import os
        from confluent_kafka import Consumer
        consumer = Consumer({{
            "bootstrap.servers": os.environ["WARDSTREAM_BOOTSTRAP"], "security.protocol": "ssl", "ssl.ca.location": os.environ["WARDSTREAM_CA"],
            "ssl.certificate.location": os.environ["WARDSTREAM_CERTIFICATE"], "ssl.key.location": os.environ["WARDSTREAM_KEY"],
            "group.id": "{project.name}.mia.reader", "auto.offset.reset": "earliest",
        }})
        consumer.subscribe(["{topic}"])
        found = []
        while len(found) < 2:
            for message in consumer.consume(10, 1):
                assert message.error() is None, message.error()
                found.append(message.value().decode())
        print(found)
        consumer.close()
        """
    )
    assert (ended.state, log) == ("succeeded", "['one', 'two']\n")


def test_program_runs_under_a_service_of_the_project(project: NewProject, runner: Runner) -> None:
    project.owner.connection.transport.json("PUT", f"/api/v1/projects/{project.name}/services/trainer", json={"reads": [], "writes": []})
    ended, log = runner.run("import wardstream; print(wardstream.connect().whoami().principal)", run_as="trainer")
    assert (ended.principal, log) == (f"{project.name}__trainer", f"{project.name}__trainer\n")
    with pytest.raises((NotFound, Denied, Invalid)):
        runner.start("print()", run_as="nobody")


def test_failure_says_why(runner: Runner) -> None:
    ended, log = runner.run("print('about to fail'); raise SystemExit(3)")
    assert (ended.state, ended.exit_code, ended.reason) == ("failed", 3, "it ended with code 3; its log says more")
    assert log == "about to fail\n"
    ended, _ = runner.run("while True: pass", cpu_seconds=1)
    assert ended.state == "failed"
    assert "1 s of processor time" in ended.reason
    ended, log = runner.run("bytearray(1 << 30)", memory_mb=512)
    assert (ended.state, "MemoryError" in log) == ("failed", True)


def test_stop_ends_a_running_program_and_a_queued_one(runner: Runner) -> None:
    started = runner.start("import time; print('up'); time.sleep(100)")
    eventually(lambda: runner.programs.logs(started.id) == "up\n", within=30)
    runner.programs.stop(started.id)
    ended = runner.programs.wait(started.id, timeout_seconds=15)
    assert (ended.state, ended.reason) == ("stopped", "stopped")
    nobody = runner.start("print()", label="gpu-none")
    runner.programs.stop(nobody.id)
    assert runner.programs.get(nobody.id).state == "stopped"


def test_removed_scientists_program_is_ended(project: NewProject, stack: RunningStack, tmp_path: Path) -> None:
    leaving = project.add("leo", "data-scientist")
    started = Runner(leaving, tmp_path).start(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\nopen('/out/loot', 'w').write('x')\ntime.sleep(100)"
    )
    owner = project.owner.project
    eventually(lambda: owner.programs.logs(started.id) == "up\n", within=30)
    began = time.monotonic()
    owner.remove_member("leo")
    ended = owner.programs.wait(started.id, timeout_seconds=20)
    assert time.monotonic() - began < 15
    assert (ended.state, ended.files) == ("stopped", ())
    assert ended.reason.startswith("revoked")
    assert not [each for each in processes.recorded(stack.home / "processes") if each.name == f"execution-{started.id}" and each.alive]


def test_sandbox_killed_from_outside_is_a_failure_with_its_reason(stack: RunningStack, runner: Runner) -> None:
    started = runner.start("import time; print('up'); time.sleep(100)")
    eventually(lambda: runner.programs.logs(started.id) == "up\n", within=30)
    record = next(each for each in processes.recorded(stack.home / "processes") if each.name == f"execution-{started.id}")
    os.kill(record.pid, signal.SIGKILL)
    ended = runner.programs.wait(started.id, timeout_seconds=15)
    assert (ended.state, ended.reason) == ("failed", "its sandbox was killed from outside")


def test_credentials_of_an_execution_are_gone_when_it_has_ended(stack: RunningStack, runner: Runner) -> None:
    ended, _ = runner.run("print('done')")
    eventually(lambda: not (stack.home / "executions" / f"execution-{ended.id}").exists())
    assert not list((stack.home / "streams" / "executions" / ended.id).rglob("*.pem"))


def test_other_projects_executions_are_not_there(stack: RunningStack, runner: Runner) -> None:
    ended, _ = runner.run("print('mine')")
    stranger = stack.new_project("other").owner
    for call in (stranger.project.programs.get, stranger.project.programs.logs):
        with pytest.raises(NotFound):
            call(ended.id)
    transport = stranger.connection.transport
    with pytest.raises(NotFound):
        transport.json("GET", f"/api/v1/projects/{runner.person.project_name}/programs/{ended.id}")


def test_observer_runs_nothing(project: NewProject, tmp_path: Path) -> None:
    watcher = Runner(project.add("otto", "observer"), tmp_path)
    with pytest.raises(Denied):
        watcher.start("print()")


def test_bad_requests_are_refused_with_what_would_be_right(runner: Runner) -> None:
    path, transport = f"/api/v1/projects/{runner.person.project_name}/programs", runner.person.connection.transport
    body = {"name": "main.py", "files": {"main.py": ""}}
    for change, message in (
        ({"files": {}}, "not among its files"),
        ({"files": {"main.py": "%%%"}}, "not base64"),
        ({"files": {"main.py": "", "key.pem": ""}}, "choose another"),
        ({"files": {"main.py": "", "../x": ""}}, "not a file name"),
        ({"memory_mb": 1}, "memory_mb must be"),
        ({"cpu_seconds": 0}, "cpu_seconds must be"),
        ({"label": "GPU!"}, "not a worker label"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(Invalid, match=message):
            transport.json("POST", path, json={**body, **change})


def _file(runner: Runner, name: str, text: str) -> Path:
    path = runner._folder / name
    path.write_text(text)
    return path
