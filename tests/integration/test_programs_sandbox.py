"""The sandbox as it really runs on this machine."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from streams.programs.launcher import MOST_CONNECTIONS, MOST_LEVELS, folder_bytes, held_bytes, namespaces_can_be_refused
from streams.programs.sandbox import End, Job, Sandbox
from tests.support.waiting import eventually
from wardstream import processes
from wardstream.confinement import Confinement, Limits, confined
from wardstream.errors import Invalid
from wardstream.processes import ProcessRecord


class Running:
    """A sandbox and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.records = folder / "records"
        self.sandbox = Sandbox(folder / "jobs", records=self.records, environment={"PATH": "/usr/bin:/bin"})
        self.started: list[ProcessRecord] = []

    def start(self, job: Job) -> ProcessRecord:
        record = self.sandbox.start(job)
        self.started.append(record)
        return record

    def run(self, script: str, name: str = "job", within: float = 30, **options: object) -> tuple[End, str]:
        record = self.start(program(script, name, **options))
        eventually(lambda: processes.reap(record) is not None or not record.alive, within=within)
        end = self.sandbox.end(name)
        assert end is not None, self.printed(name)
        return end, self.printed(name)

    def printed(self, name: str) -> str:
        return self.sandbox.log_of(name).read_text(errors="replace")


def program(script: str, name: str = "job", **options: object) -> Job:
    return Job(name, ["python", "-u", "/job/main.py"], {"main.py": script.encode()}, **options)  # type: ignore[arg-type]  # a test's options


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    yield found
    for record in found.started:
        processes.stop(record, folder=found.records, seconds=5)


def test_output_and_exit_code_come_through(running: Running) -> None:
    end, printed = running.run("import sys; print('hello'); print('there', file=sys.stderr); sys.exit(7)")
    assert (end, printed) == (End(7, None), "hello\nthere\n")


def test_host_is_invisible_and_what_is_visible_cannot_be_changed(running: Running) -> None:
    secret = running.records.parent / "secret"
    secret.write_text("secret")
    end, printed = running.run(
        f"""
import os
for path in ("/etc/passwd", "/etc/shadow", {str(secret)!r}, {str(running.records)!r}, "/root/.ssh", "/home", "/var", "/run/docker.sock"):
    assert not os.path.exists(path), path
for path in ("/usr/x", "/job/x", "/x", "/dev/x", os.__file__ + "x"):
    try:
        open(path, "w")
    except OSError:
        continue
    raise SystemExit(path + " could be written")
open("/tmp/x", "w").write("x")
open("/out/x", "w").write("x")
print(os.listdir("/"), [name for name in os.environ if "SECRET" in name or "STACK" in name])
"""
    )
    assert end == End(0, None), printed
    assert "etc" not in printed
    assert "SECRET" not in printed


def test_runs_without_privileges_under_a_user_of_its_own(running: Running) -> None:
    end, printed = running.run(
        """
import os
status = open("/proc/self/status").read()
print(os.getuid(), os.getgroups(), [line for line in status.splitlines() if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))])
try:
    os.setuid(0)
except PermissionError:
    print("refused")
"""
    )
    assert end.code == 0
    assert not printed.startswith("0 ")
    assert "NoNewPrivs:\\t1" in printed
    assert "CapEff:\\t0000000000000000" in printed


def test_network_is_the_given_ports_and_nothing_else(running: Running) -> None:
    with EchoServer() as server, EchoServer() as other:
        end, printed = running.run(
            f"""
import socket
with socket.create_connection(("127.0.0.1", {server.port})) as line:
    line.sendall(b"x" * 300_000)
    line.shutdown(socket.SHUT_WR)
    received = 0
    while data := line.recv(65536):
        received += len(data)
    print("echoed", received)
for address in (("127.0.0.1", {other.port}), ("10.0.0.1", 80), ("8.8.8.8", 53)):
    try:
        socket.create_connection(address, 2)
    except OSError as error:
        print("refused", error.errno)
""",
            ways_out=[("127.0.0.1", server.port)],
        )
    assert end.code == 0
    assert printed.splitlines() == ["echoed 300000", "refused 111", "refused 101", "refused 101"]


def test_memory_beyond_the_limit_is_refused(running: Running) -> None:
    end, printed = running.run("try:\n    bytearray(3 << 30)\nexcept MemoryError:\n    print('MemoryError')", limits=Limits(memory_mb=2048))
    assert (end.code, printed) == (0, "MemoryError\n")


def test_processes_that_share_out_their_memory_are_ended_for_the_sum(running: Running) -> None:
    end, _ = running.run(
        """
import os, time
for _ in range(4):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20)) * 150
        time.sleep(60)
time.sleep(60)
""",
        limits=Limits(memory_mb=400),
    )
    assert end.reason == "all its processes together took more than 400 MiB of memory"


def test_disk_beyond_the_limit_ends_the_job(running: Running) -> None:
    end, _ = running.run("import time\nfor n in range(40): open(f'/out/{n}', 'wb').write(b'x' * (1 << 20))\ntime.sleep(60)", out_mb=20)
    assert end.reason == "it wrote more than 20 MiB to /out"


def test_folders_without_end_end_the_job_and_can_be_removed(running: Running) -> None:
    end, _ = running.run(
        """
import os, time
os.chdir("/out")
for _ in range(1500):
    os.mkdir("a")
    os.chdir("a")
time.sleep(60)
"""
    )
    assert end.reason == f"it made folders more than {MOST_LEVELS} deep in /out"
    assert running.run("print('again')")[0] == End(0, None)
    running.sandbox.clear()
    assert list(running.sandbox.folder_of("job").parent.iterdir()) == []


def test_folders_of_an_ordinary_depth_are_no_reason_to_end_a_job(running: Running) -> None:
    end, _ = running.run(f"import os, time\nos.makedirs('/out' + '/a' * {MOST_LEVELS})\ntime.sleep(1.5)")
    assert end == End(0, None)


def test_files_that_are_open_and_have_no_name_count_as_disk(running: Running) -> None:
    end, _ = running.run(
        """
import os, time
held = []
for n in range(40):
    held.append(open(f"/out/{n}", "wb", buffering=0))
    held[-1].write(b"x" * (1 << 20))
    os.unlink(f"/out/{n}")
time.sleep(60)
""",
        out_mb=20,
    )
    assert end.reason == "it wrote more than 20 MiB to /out"


def test_empty_files_are_bounded_too(running: Running) -> None:
    end, _ = running.run("import time\nfor n in range(2000): open(f'/out/{n}', 'w').close()\ntime.sleep(60)", out_mb=4)
    assert end.reason == "it wrote more than 4 MiB to /out"


@pytest.mark.parametrize("where", ["in the first thread", "in a thread with descriptors of its own"])
def test_files_that_lie_in_memory_count_as_memory(running: Running, where: str) -> None:
    end, _ = running.run(
        f"""
import ctypes, os, threading, time

def fill(own):
    if own:
        ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
    held = [os.memfd_create("x") for _ in range(8)]
    for each in held:
        for _ in range(64):
            os.write(each, b"x" * (1 << 20))
    time.sleep(60)

if {where != "in the first thread"}:
    threading.Thread(target=fill, args=(True,)).start()
    time.sleep(60)
fill(False)
""",
        limits=Limits(memory_mb=400),
    )
    assert end.reason == "all its processes together took more than 400 MiB of memory"


def test_memory_counts_when_the_first_thread_has_ended(running: Running) -> None:
    end, _ = running.run(
        """
import ctypes, os, threading, time

def fill():
    time.sleep(0.5)
    for _ in range(3):
        if os.fork() == 0:
            threading.Thread(target=hold).start()
            ctypes.CDLL(None).pthread_exit(None)
    time.sleep(60)

def hold():
    block = bytearray(os.urandom(1 << 20)) * 250
    time.sleep(60)

fill()
""",
        limits=Limits(memory_mb=600),
    )
    assert end.reason == "all its processes together took more than 600 MiB of memory"


def test_what_cannot_be_looked_at_is_an_error_and_not_nothing(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path) == 0
    assert held_bytes(os.getpid(), device=0).memory > 1 << 20
    with pytest.raises(FileNotFoundError):
        folder_bytes(tmp_path / "nothing")
    held, limit = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open("/", os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            folder_bytes(tmp_path)
        with pytest.raises(OSError, match="Too many open files"):
            held_bytes(os.getpid(), device=0)
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_process_that_has_gone_holds_nothing() -> None:
    child = subprocess.Popen(["/usr/bin/true"])
    child.wait()
    assert (held_bytes(child.pid, device=0).memory, held_bytes(child.pid, device=0).unlinked) == (0, 0)


def test_connections_are_bounded_and_the_job_is_looked_at_all_the_same(running: Running) -> None:
    with EchoServer() as server:
        end, printed = running.run(
            f"""
import socket, time
lines = []
for _ in range(400):
    line = socket.create_connection(("127.0.0.1", {server.port}))
    line.settimeout(5)
    lines.append(line)
answered = 0
for line in lines:
    try:
        line.sendall(b"x")
        answered += line.recv(1) == b"x"
    except OSError:
        pass
print(answered)
for line in lines:
    line.close()
time.sleep(0.5)
line = socket.create_connection(("127.0.0.1", {server.port}))
line.sendall(b"y")
print(line.recv(1))
time.sleep(60)
""",
            ways_out=[("127.0.0.1", server.port)],
            limits=Limits(open_files=1024),
            wall_seconds=5,
        )
    assert printed.splitlines() == [str(MOST_CONNECTIONS), "b'y'"]
    assert end.reason == "it ran longer than 5 s"


def test_ordinary_users_job_makes_no_namespaces_where_they_can_be_refused() -> None:
    if not namespaces_can_be_refused():
        pytest.skip("bubblewrap here is older than 0.8, or may not make user namespaces")
    command = ["/usr/bin/unshare", "--user", "/usr/bin/true"]
    codes = [subprocess.run(confined(command, Confinement(own_namespaces=own)), check=False).returncode for own in (True, False)]
    assert codes == [0, 1]


def test_temporary_files_are_bounded(running: Running) -> None:
    end, printed = running.run(
        """
for folder in ("/tmp", "/dev/shm"):
    try:
        open(folder + "/x", "wb").write(b"x" * (80 << 20))
    except OSError as error:
        print(error.errno)
""",
        limits=Limits(tmp_mb=64),
    )
    assert (end.code, printed) == (0, "28\n28\n")


def test_fork_bomb_is_bounded_and_leaves_nothing(running: Running) -> None:
    end, printed = running.run(
        """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        count += 1
except OSError:
    print(count)
""",
        limits=Limits(processes=64),
    )
    assert end.code == 0
    assert 40 < int(printed) < 64
    assert not marked(running)


def test_processor_time_is_bounded(running: Running) -> None:
    end, _ = running.run("while True: pass", limits=Limits(cpu_seconds=1))
    assert end.code == 128 + signal.SIGXCPU or end.code == 128 + signal.SIGKILL


def test_time_on_the_clock_is_bounded(running: Running) -> None:
    end, _ = running.run("import time; time.sleep(60)", wall_seconds=0.5)
    assert end.reason == "it ran longer than 0.5 s"


def test_other_jobs_files_and_processes_are_invisible(running: Running) -> None:
    running.start(program("import time\nopen('/out/mine', 'w').write('x')\nopen('/tmp/mine', 'w').write('x')\ntime.sleep(60)", "first"))
    eventually(lambda: (running.sandbox.folder_of("first") / "out" / "mine").exists())
    end, printed = running.run(
        f"""
import os
assert not os.path.exists({str(running.sandbox.folder_of("first"))!r})
print(os.listdir("/out"), "mine" in os.listdir("/tmp"), len([pid for pid in os.listdir("/proc") if pid.isdigit()]) <= 4, os.getuid())
""",
        "second",
    )
    assert (end.code, printed.startswith("[] False True")) == (0, True), printed
    if os.geteuid() == 0:
        owners = {(running.sandbox.folder_of(name) / "out").stat().st_uid for name in ("first", "second")}
        assert len(owners) == 2
        assert 0 not in owners


def test_stop_asks_first(running: Running) -> None:
    record = running.start(
        program("import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('asked')))\nprint('up')\ntime.sleep(60)")
    )
    eventually(lambda: "up" in running.printed("job"))
    running.sandbox.stop(record)
    assert running.printed("job") == "up\nasked\n"
    assert running.sandbox.end("job") == End(0, "stopped")


def test_stop_ends_what_does_not_listen(running: Running) -> None:
    record = running.start(program("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"))
    eventually(lambda: "up" in running.printed("job"))
    began = time.monotonic()
    running.sandbox.stop(record)
    assert time.monotonic() - began < 5
    assert not marked(running)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_death_of_the_launcher_takes_the_job_with_it(running: Running, number: signal.Signals) -> None:
    record = running.start(program("import time; print('up'); time.sleep(60)"))
    eventually(lambda: "up" in running.printed("job"))
    os.kill(record.pid, number)
    eventually(lambda: (processes.reap(record), not marked(running))[1], within=6)


def test_death_of_the_worker_takes_the_job_with_it(running: Running, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"""
import sys, time
from pathlib import Path
from streams.programs.sandbox import Job, Sandbox
sandbox = Sandbox(Path({str(tmp_path / "jobs")!r}), records=Path({str(running.records)!r}), environment={{"PATH": "/usr/bin:/bin"}})
sandbox.start(Job("job", ["python", "-u", "/job/main.py"], {{"main.py": b"import time; print('up'); time.sleep(60)"}}))
time.sleep(60)
"""
    )
    record = processes.start(
        "worker", [sys.executable, worker], folder=running.records, log=tmp_path / "worker.log", environment={"PATH": "/usr/bin:/bin"}
    )
    eventually(lambda: "up" in running.printed("job"))
    os.kill(record.pid, signal.SIGKILL)
    eventually(lambda: processes.reap(record) is not None)
    eventually(lambda: not marked(running), within=6)
    eventually(lambda: running.sandbox.end("job") == End(128 + signal.SIGTERM, "the worker ended"))


def test_what_is_left_in_out_can_be_taken_but_links_out_of_it_cannot(running: Running) -> None:
    running.run(
        """
import os
open("/out/model.bin", "wb").write(b"weights")
os.symlink("/etc/shadow", "/out/link")
os.mkfifo("/out/pipe")
os.mkdir("/out/folder")
open("/out/.hidden", "w").write("x")
open("/out/twice", "w").write("x"); os.link("/out/twice", "/out/again")
"""
    )
    assert [(name, os.read(descriptor, 100)) for name, descriptor in running.sandbox.written("job")] == [("model.bin", b"weights")]


def test_output_is_kept_up_to_a_bound(running: Running) -> None:
    end, printed = running.run("for _ in range(30): print('x' * 99_999)\nraise SystemExit(3)", log_mb=1)
    assert end == End(3, None)
    assert len(printed) < (1 << 20) + 100
    assert printed.endswith("[no more than 1 MiB of output are kept]\n")


def test_command_that_is_not_there_is_a_plain_sentence(running: Running) -> None:
    record = running.start(Job("job", ["/job/nothing"]))
    eventually(lambda: processes.reap(record) is not None)
    assert (running.sandbox.end("job"), running.printed("job")) == (
        End(127, None),
        "cannot start /job/nothing: No such file or directory\n",
    )


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "-rf", "a b", "x" * 101, "ü"])
def test_file_names_are_plain(running: Running, name: str) -> None:
    with pytest.raises(Invalid, match="is not a file name"):
        running.sandbox.start(Job("job", ["python"], {name: b""}))


def test_the_sdk_and_the_libraries_are_there(running: Running) -> None:
    end, printed = running.run("import wardstream, numpy, pyarrow, confluent_kafka; print(wardstream.login.__name__)")
    assert (end.code, printed) == (0, "login\n")


def marked(running: Running) -> list[int]:
    """Return the processes that were started with this test's folder on their command line."""
    mark = str(running.records.parent / "jobs").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class EchoServer:
    """A TCP server on the loopback address that sends back what it gets."""

    def __enter__(self) -> "EchoServer":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(_echo, "127.0.0.1", 0), self._loop).result(5)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
