"""The launcher on real Kafka and Redis: starting, repeating, recovering, stopping, and who is let in."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenancy.authority.issuer import issue, issue_platform, new_key
from tenancy.authority.profile import ACTING, DEVICE, Intermediate, member_uri
from tenancy.authority.store import AuthorityStore, private_pem
from tests.support.stack import RunningStack, run_launcher, start, stop, temporary_home
from tests.support.waiting import eventually
from wardstream.processes import ProcessRecord, recorded
from wardstream.settings import TlsSettings

pytestmark = pytest.mark.stack

# Starting, killing and stopping is the launcher's work, the same for each part; two parts are enough to see it.
ONLY = ("--only", "kafka,redis")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Broker and online store alone, for tests that only look."""
    with temporary_home("look") as folder:
        start(folder, *ONLY)
        yield folder


@pytest.fixture(scope="module")
def other_home() -> Iterator[Path]:
    """A second stack of the same parts, for tests that kill, stop and start; each leaves it running."""
    with temporary_home("kill") as folder:
        start(folder, *ONLY)
        yield folder


@pytest.fixture
def store_home() -> Iterator[Path]:
    """The online store alone, which starts in half a second."""
    with temporary_home("store") as folder:
        start(folder, "--only", "redis")
        yield folder


def records(home: Path) -> dict[str, ProcessRecord]:
    return {record.name: record for record in recorded(home / "processes")}


def ports(home: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((home / "ports.json").read_text())
    return found


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(home: Path) -> list[int]:
    """Return every process of this machine that was started for `home`."""
    mark, found = f"STACK_HOME={home}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def states(home: Path) -> dict[str, str]:
    return {part["name"]: part["state"] for part in json.loads(run_launcher(home, "status", "--output", "json").stdout)}


def test_repeated_up_changes_nothing(home: Path) -> None:
    before = records(home)
    start(home, *ONLY)
    assert records(home) == before


def test_secrets_of_the_run_are_private(home: Path) -> None:
    for name in ("run.json", "ports.json", "redis/users.acl", "pki/authority/root.pem", "pki/platform/ws-control.key"):
        assert (home / name).stat().st_mode & 0o077 == 0, name


def test_run_file_names_who_listens_where(home: Path) -> None:
    run = json.loads((home / "run.json").read_text())
    found = {process["name"]: process for process in run["processes"]}
    assert set(found) == {"kafka", "redis"}
    assert found["kafka"]["pid"] == records(home)["kafka"].pid
    assert all(listening(port) for process in found.values() for port in process["ports"].values())


def test_env_prints_shell_lines_and_json_alike(home: Path) -> None:
    values = json.loads(run_launcher(home, "env", "--output", "json").stdout)
    lines = run_launcher(home, "env").stdout.splitlines()
    assert lines == [f"export {name}={value}" for name, value in values.items()]
    assert set(values) == {
        "WARDSTREAM_URL",
        "WARDSTREAM_OUTSIDE_URL",
        "WARDSTREAM_CA",
        "WARDSTREAM_API_KEY_FILE",
        "KAFKA_BOOTSTRAP_SERVERS",
        "SCHEMA_REGISTRY_URL",
        "KAFKA_REST_URL",
    }


def test_status_names_what_runs_and_what_does_not(home: Path) -> None:
    found = states(home)
    assert (found["kafka"], found["redis"], found["gateway"]) == ("ready", "ready", "stopped")


def test_doctor_finds_nothing_that_must_be_changed(home: Path) -> None:
    done = run_launcher(home, "doctor", "--output", "json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert {name: found["detail"] for name, found in findings.items() if found["state"] == "failed"} == {}
    assert "not promised" in findings["walls"]["detail"]
    assert done.returncode == 0


def test_doctor_names_a_key_that_others_may_read(home: Path) -> None:
    key = home / "admin.key"
    existed = key.exists()
    before = key.read_text() if existed else ""
    key.write_text(before or "x")
    key.chmod(0o644)
    home.chmod(0o755)
    try:
        done = run_launcher(home, "doctor", "--output", "json")
        finding = next(finding for finding in json.loads(done.stdout) if finding["name"] == "permissions")
        assert finding["state"] == "failed"
        assert "admin.key" in finding["detail"]
        assert done.returncode == 1
    finally:
        home.chmod(0o700)
        if existed:
            key.chmod(0o600)
        else:
            key.unlink()


def test_log_of_one_part_is_printed(home: Path) -> None:
    done = run_launcher(home, "logs", "redis", "-n", "3")
    assert len(done.stdout.splitlines()) == 3
    assert "Ready to accept connections" in done.stdout


def test_every_line_of_the_broker_has_the_keys_of_our_own_logs(home: Path) -> None:
    for name in ("kafka.log", "kafka-authorizer.log"):
        for line in (home / "logs" / name).read_text().splitlines():
            assert list(json.loads(line))[:5] == ["time", "level", "process", "logger", "message"], line
    assert '"level":"WARNING","process":"kafka"' in (home / "logs" / "kafka.log").read_text()


def test_unknown_log_is_refused_with_the_known_ones(home: Path) -> None:
    done = run_launcher(home, "logs", "mongodb")
    assert done.returncode == 2
    assert "kafka" in done.stderr


def test_unknown_part_is_refused_with_the_known_ones(home: Path) -> None:
    done = run_launcher(home, "up", "--only", "mongodb")
    assert done.returncode == 2
    assert "stream-worker" in done.stderr


def test_new_ports_are_refused_while_the_old_ones_are_in_use(home: Path) -> None:
    before = ports(home)
    done = run_launcher(home, "up", "--repick")
    assert done.returncode == 5
    assert "down" in done.stderr
    assert ports(home) == before


def test_killed_broker_is_started_again_by_the_next_up(other_home: Path) -> None:
    before = records(other_home)
    os.kill(before["kafka"].pid, signal.SIGKILL)
    eventually(lambda: not before["kafka"].alive)
    assert states(other_home)["kafka"] == "died"
    start(other_home, *ONLY)
    assert states(other_home)["kafka"] == "ready"
    assert records(other_home)["redis"] == before["redis"]


def test_down_leaves_no_process_and_no_port_and_up_keeps_the_ports(other_home: Path) -> None:
    before = ports(other_home)
    stop(other_home)
    assert processes_of(other_home) == []
    assert not [name for name, port in before.items() if listening(port)]
    assert not (other_home / "run.json").exists()
    stop(other_home)
    start(other_home, *ONLY)
    assert ports(other_home) == before


def test_new_ports_are_taken_when_the_stack_is_down(other_home: Path) -> None:
    before = ports(other_home)
    stop(other_home)
    start(other_home, "--repick", *ONLY)
    assert not set(ports(other_home).values()) & set(before.values())
    assert states(other_home)["kafka"] == "ready"


def test_two_stacks_run_side_by_side(home: Path, other_home: Path) -> None:
    assert not set(ports(home).values()) & set(ports(other_home).values())
    assert {states(folder)[part] for folder in (home, other_home) for part in ("kafka", "redis")} == {"ready"}


def test_launcher_killed_while_starting_is_completed_by_the_next() -> None:
    with temporary_home("torn") as folder:
        for seconds in (0.8, 1.6, 2.4):
            with pytest.raises(subprocess.TimeoutExpired):
                run_launcher(folder, "up", *ONLY, seconds=seconds)
        start(folder, *ONLY)
        assert {states(folder)[name] for name in ("kafka", "redis")} == {"ready"}
        stop(folder)
        assert processes_of(folder) == []


def test_what_a_killed_launcher_left_unrecorded_is_replaced(store_home: Path) -> None:
    lost = records(store_home)["redis"]
    (store_home / "processes" / "redis.json").unlink()
    start(store_home, "--only", "redis")
    assert not lost.alive
    assert states(store_home)["redis"] == "ready"


def test_down_stops_what_a_worker_started_and_recorded(store_home: Path) -> None:
    program = "import sys; from pathlib import Path; from wardstream import processes; home = Path(sys.argv[1]); processes.start("
    program += "'materialiser', ['/bin/sleep', '600'], folder=home / 'processes', log=home / 'logs' / 'materialiser.log', environment={})"
    subprocess.run([sys.executable, "-c", program, store_home], check=True)
    child = records(store_home)["materialiser"]
    assert states(store_home)["materialiser"] == "running"
    stop(store_home)
    assert not child.alive


def test_two_launchers_at_once_start_one_stack(store_home: Path) -> None:
    stop(store_home)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: run_launcher(store_home, "up", "--only", "redis"), range(2)))
    assert [launcher.returncode for launcher in done] == [0, 0]
    # A server forks for a moment when it saves; counted are those that the launchers started.
    assert len([pid for pid in processes_of(store_home) if os.getsid(pid) == pid]) == 1


def test_port_taken_by_another_program_is_named(store_home: Path) -> None:
    stop(store_home)
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports(store_home)["redis"]))
        other.listen()
        done = run_launcher(store_home, "up", "--only", "redis")
    assert done.returncode == 5
    assert f"port {ports(store_home)['redis']} of redis is taken by another program" in done.stderr


def test_part_that_does_not_come_up_is_shown_with_the_end_of_its_log(store_home: Path) -> None:
    stop(store_home)
    with (store_home / "redis" / "users.acl").open("a") as users:
        users.write("user broken on +nosuchcommand\n")
    done = run_launcher(store_home, "up", "--only", "redis")
    assert done.returncode == 7
    assert "redis ended" in done.stderr
    assert "Aborting Redis startup" in done.stderr


# Who is let in


def certificate(home: Path, kind: str, folder: Path, *, common_name: str | None = None, whole_chain: bool = False) -> TlsSettings:
    """Issue a certificate with the stack's own authority, as control would, or as control never would."""
    store, key, now = AuthorityStore(home / "pki" / "authority"), new_key(), datetime.now(UTC)
    authority = store.authority(kind)
    assert authority is not None
    if kind == "platform":
        chain = issue_platform(authority, key.public_key(), name=common_name or "ws-launcher", now=now).chain
    else:
        profile = DEVICE if kind == Intermediate.OUTSIDE else ACTING
        name = common_name or "some-project__some-member"
        chain = issue(
            authority, profile, key.public_key(), common_name=name, names=[member_uri("some-project", "some-member")], now=now
        ).chain
    if whole_chain:
        chain += (home / "pki" / "root.pem").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "crt").write_text(chain)
    (folder / "key").write_text(private_pem(key))
    return TlsSettings(ca_file=home / "pki" / "root.pem", certificate_file=folder / "crt", key_file=folder / "key")


_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

# ApiVersions, version 0, of nobody in particular: the first question that any client asks after the handshake.
_HELLO = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


def let_in(port: int, tls: TlsSettings) -> bool:
    """Return whether the broker answers; it refuses a certificate in the handshake, and a name by closing the connection."""
    return bool(answer(port, tls, sends=_HELLO))


def answer(port: int, tls: TlsSettings | None, *, root: Path | None = None, sends: bytes = _HEALTH) -> bytes:
    """Connect, ask something and return the answer's beginning, nothing when the connection is refused.

    In TLS 1.3 the refusal of a client's certificate arrives with the first read: as an alert, or as the end of the connection.
    """
    context = ssl.create_default_context(cafile=str(tls.ca_file if tls else root))
    if tls is not None:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(sends)
            return connection.recv(100)
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return b""


@pytest.mark.parametrize("listener", ["client", "worker", "internal"])
@pytest.mark.parametrize("kind", ["outside", "inside", "platform"])
@pytest.mark.parametrize("whole_chain", [False, True], ids=["", "with-root"])
def test_each_kind_of_certificate_opens_its_own_listener_only(
    home: Path, tmp_path: Path, kind: str, listener: str, whole_chain: bool
) -> None:
    own = {"outside": "client", "inside": "worker", "platform": "internal"}
    tls = certificate(home, kind, tmp_path, whole_chain=whole_chain)
    assert let_in(ports(home)[f"kafka-{listener}"], tls) == (own[kind] == listener)


@pytest.mark.parametrize("listener", ["client", "worker", "internal"])
@pytest.mark.parametrize("kind", ["outside", "inside"])
def test_member_certificate_with_a_platform_name_opens_nothing(home: Path, tmp_path: Path, kind: str, listener: str) -> None:
    assert not let_in(ports(home)[f"kafka-{listener}"], certificate(home, kind, tmp_path, common_name="ws-control"))


@pytest.mark.parametrize("listener", ["kafka-client", "kafka-worker", "kafka-internal", "kafka-controller", "redis"])
def test_client_without_a_certificate_is_refused(home: Path, listener: str) -> None:
    assert answer(ports(home)[listener], None, root=home / "pki" / "root.pem") == b""


@pytest.mark.parametrize("listener", ["kafka-client", "redis"])
def test_client_without_tls_is_refused(home: Path, listener: str) -> None:
    with socket.create_connection(("127.0.0.1", ports(home)[listener]), timeout=5) as plain:
        plain.sendall(b"PING\r\n\r\n\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionResetError:
            answer = b""
    assert b"PONG" not in answer
    assert answer[:1] in (b"", b"\x15")


def ask_redis(home: Path, *lines: str) -> list[str]:
    """Send inline commands over the launcher's certificate and return the first line of each answer."""
    platform = home / "pki" / "platform"
    context = ssl.create_default_context(cafile=str(home / "pki" / "root.pem"))
    context.load_cert_chain(platform / "ws-launcher.crt", platform / "ws-launcher.key")
    with (
        socket.create_connection(("127.0.0.1", ports(home)["redis"]), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
        answers = connection.makefile("rb")
        return [answers.readline().decode().strip() for _ in lines]


def test_default_user_of_the_online_store_is_refused(home: Path) -> None:
    assert [answer.split()[0] for answer in ask_redis(home, "PING", "GET x", "AUTH default", "AUTH default x")] == [
        "-NOAUTH", "-NOAUTH", "-WRONGPASS", "-WRONGPASS"
    ]  # fmt: skip


def test_launchers_user_may_ask_for_life_and_nothing_else(home: Path) -> None:
    password = (home / "redis" / "launcher.password").read_text().strip()
    answers = ask_redis(home, f"AUTH ws-launcher {password}", "PING", "GET x", "SET x 1", "ACL LIST", "FLUSHALL", "SCAN 0", "CONFIG GET *")
    assert answers[:2] == ["+OK", "+PONG"]
    assert {answer.split()[0] for answer in answers[2:]} == {"-NOPERM"}


# The whole platform


def test_every_process_answers_health_readiness_and_metrics(stack: RunningStack) -> None:
    for process in ("control", "query", "stream-worker", "program-worker", "gateway"):
        client = stack.platform(process)
        try:
            assert client.json("GET", "/healthz") == {"status": "alive"}
            assert client.json("GET", "/readyz")["ready"] is True
            assert b"wardstream_requests_total" in client.request("GET", "/metrics").content
        finally:
            client.close()


def test_every_part_is_ready_after_up(stack: RunningStack) -> None:
    found = states(stack.home)
    assert {
        name: found[name] for name in ("kafka", "redis", "control", "query", "stream-worker", "program-worker", "gateway")
    } == dict.fromkeys(("kafka", "redis", "control", "query", "stream-worker", "program-worker", "gateway"), "ready")


@pytest.mark.parametrize(
    ("listener", "kind"),
    [("control", "platform"), ("query", "platform"), ("gateway", "platform"), ("outside", "outside"), ("inside", "inside")],
)
def test_port_answers_certificates_of_its_own_kind(stack: RunningStack, tmp_path: Path, listener: str, kind: str) -> None:
    assert answer(stack.ports[listener], certificate(stack.home, kind, tmp_path)).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("process", ["control", "query", "stream-worker", "program-worker", "gateway"])
@pytest.mark.parametrize("kind", ["outside", "inside"])
def test_member_certificate_opens_no_process_port(stack: RunningStack, tmp_path: Path, process: str, kind: str) -> None:
    tls = certificate(stack.home, kind, tmp_path)
    assert answer(stack.ports[process], tls) == b""


@pytest.mark.parametrize(("door", "kind"), [("outside", "inside"), ("outside", "platform"), ("inside", "outside"), ("inside", "platform")])
def test_door_refuses_certificates_of_the_other_kinds(stack: RunningStack, tmp_path: Path, door: str, kind: str) -> None:
    assert answer(stack.ports[door], certificate(stack.home, kind, tmp_path)) == b""


@pytest.mark.parametrize("listener", ["outside", "inside", "control", "query", "stream-worker", "program-worker", "gateway"])
def test_private_port_refuses_a_caller_without_a_certificate(stack: RunningStack, listener: str) -> None:
    assert answer(stack.ports[listener], None, root=stack.root) == b""
