"""One stack on this machine: started, watched and stopped as a whole. Everything it knows lies in its home folder."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from cryptography import x509

from compose import kafka, parts, ports, probe, redis
from compose.parts import MARK, NAMES, Part
from compose.ports import Ports
from wardstream import processes
from wardstream.errors import Conflict, Invalid, Unavailable
from wardstream.processes import ProcessRecord
from wardstream.settings import ProcessSettings

# A machine under heavy load needs several times the usual ten seconds.
START_SECONDS = 120.0
_INIT_SECONDS = 60.0
_STOP_SECONDS = 8.0
# A first broker writes 60 MB of classes when it ends, which takes 2 s of processor time.
_ARCHIVE_SECONDS = 25.0
_LAST_LINES = 20
# A hundred projects from scratch take two minutes.
_RECONCILE_SECONDS = 600.0

# Told what happens, for somebody who waits: the part, a sentence, the seconds since the command began.
Report = Callable[[str, str, float], None]


@dataclass(frozen=True)
class PartState:
    """One part as it is now."""

    name: str
    state: str
    """ready, starting, stopped, died"""
    detail: str
    pid: int | None
    started_at: datetime | None
    listeners: Mapping[str, int]
    memory_mb: int | None
    log: Path
    serves: str


class Stack:
    """The stack whose home is `home`. Constructing it starts and writes nothing."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.folder = self.home / "processes"
        self.logs = self.home / "logs"

    # What is known about it

    def ports(self) -> Ports:
        """Return the ports of the stack; raises `Unavailable` before its first `up`."""
        found = ports.load(self.home / "ports.json")
        if found is None:
            raise Unavailable(f"there is no stack in {self.home}: run `wardstream-server up` first, or name its folder with --home")
        return found

    def settings(self) -> dict[str, ProcessSettings]:
        """Return the settings of each of our processes, with those of settings.toml."""
        return parts.process_settings(self.home, self.ports(), parts.read_overrides(self.home / "settings.toml"))

    def parts(self) -> dict[str, Part]:
        """Return every part, whether it runs or not."""
        return parts.all_parts(self.home, self.ports(), self.settings())

    def records(self) -> dict[str, ProcessRecord]:
        """Return every process that was started for this stack and not stopped, dead ones included."""
        return {record.name: record for record in processes.recorded(self.folder)}

    def environment(self) -> dict[str, str]:
        """Return where programs of this machine find the stack."""
        found = self.ports()
        url = f"https://127.0.0.1:{found['door']}"
        return {
            "WARDSTREAM_URL": url,
            "WARDSTREAM_OUTSIDE_URL": f"https://127.0.0.1:{found['outside']}",
            "WARDSTREAM_CA": str(self.home / "pki" / "root.pem"),
            "WARDSTREAM_API_KEY_FILE": str(self.home / "admin.key"),
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{found['kafka-client']}",
            "SCHEMA_REGISTRY_URL": f"{url}/registry",
            "KAFKA_REST_URL": f"{url}/api/v1",
        }

    def reconcile(self, *, dry_run: bool) -> dict[str, Any]:
        """Let control make brokers and online store equal to its database, or say what it would change."""
        try:
            return probe.ask(
                self.ports()["control"],
                probe.launcher_tls(self.home),
                "/internal/v1/reconcile",
                {"dry_run": dry_run},
                seconds=_RECONCILE_SECONDS,
            )
        except FileNotFoundError as error:
            raise Unavailable(f"the stack in {self.home} was never started: run `wardstream-server up` first") from error
        except Unavailable as error:
            raise Unavailable(f"control cannot be asked, {error.message}: `wardstream-server status` says more") from error

    def login_link(self) -> str | None:
        """Return the address that opens the console's first page once, or None when there is none to give any more."""
        try:
            found = (self.home / "login-link").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        if not found or "://" in found:
            return found or None
        return f"{self.environment()['WARDSTREAM_URL']}/console/login?link={found}"

    def status(self) -> list[PartState]:
        """Return the state of every part, each asked at this moment."""
        everything, records = self.parts(), self.records()
        with ThreadPoolExecutor(len(everything)) as pool:
            states = list(pool.map(lambda part: self._state(part, records.get(part.name)), everything.values()))
        listeners: dict[str, int] = {}
        children = [record for name, record in records.items() if name not in everything]
        return states + [
            PartState(
                child.name,
                "running" if child.alive else "died",
                "" if child.alive else "ended by itself",
                child.pid if child.alive else None,
                datetime.fromtimestamp(child.started_at, UTC),
                listeners,
                _memory_mb(child.pid) if child.alive else None,
                Path(child.log),
                "started by stream-worker",
            )
            for child in children
        ]

    def _state(self, part: Part, record: ProcessRecord | None) -> PartState:
        pid, started_at, memory = None, None, None
        if record is None:
            state, detail = "stopped", ""
        elif not record.alive:
            state, detail = "died", f"ended by itself; its log: {record.log}"
        else:
            pid, started_at, memory = record.pid, datetime.fromtimestamp(record.started_at, UTC), _memory_mb(record.pid)
            waiting = part.ready()
            state, detail = ("ready", "") if waiting is None else ("starting", waiting)
        found = self.ports()
        listeners = {listener: found[listener] for listener in part.listeners}
        return PartState(part.name, state, detail, pid, started_at, listeners, memory, self.log_of(part.name), part.serves)

    def log_of(self, name: str) -> Path:
        """Return where the part `name` writes what it does."""
        return self.logs / f"{name}.log"

    # Starting

    def up(self, report: Report, *, only: Sequence[str] = (), repick: bool = False, seconds: float = START_SECONDS) -> float:
        """Start what does not run yet and return, with the seconds it took, when every part answers.

        Harmless when repeated. What a killed run left is completed or replaced. A second `up` of the same home waits
        for the first. Raises `Unavailable` with the end of the log of a part that does not come up; the other parts
        stay, for a look at them and for the next `up`.
        """
        began = time.monotonic()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusively(report, began):
            self._settle_ports(repick=repick)
            everything = self.parts()
            wanted = {name: everything[name] for name in _chosen(only)}
            self._forget_the_dead()
            missing = [part for name, part in wanted.items() if name not in self.records()]
            if missing:
                self._check_ports(missing)
                self._make_folders()
                self._start(missing, report, began)
            self._write_run_file()
            self._await(wanted.values(), report, began, seconds)
            return time.monotonic() - began

    @contextmanager
    def _exclusively(self, report: Report, began: float) -> Iterator[None]:
        """Hold the stack against another launcher."""
        with (self.home / ".lock").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                report("launcher", "waits for another `wardstream-server` that works on this stack", time.monotonic() - began)
                flock(lock, LOCK_EX)
            yield

    def _settle_ports(self, *, repick: bool) -> None:
        path = self.home / "ports.json"
        if repick:
            if running := [record.name for record in self.records().values() if record.alive]:
                raise Conflict(f"{', '.join(running)} still runs on the old ports: run `wardstream-server down` before `up --repick`")
        elif ports.load(path) is not None:
            return
        ports.keep(path, ports.pick())

    def _forget_the_dead(self) -> None:
        """Drop records of processes that ended, and stop processes whose record a killed launcher could not write."""
        for record in self.records().values():
            if not record.alive:
                processes.stop(record, folder=self.folder)
        self._stop_strays()

    def _stop_strays(self) -> None:
        """End what this stack started and has no record of, with what those started."""
        known = {record.pid for record in self.records().values() if record.alive}
        deadline = time.monotonic() + _STOP_SECONDS
        while strays := [pid for pid in _marked(self.home) if known.isdisjoint(_lineage(pid))]:
            late = time.monotonic() > deadline
            for pid in strays:
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.1)

    def _check_ports(self, missing: Iterable[Part]) -> None:
        for part in missing:
            for listener, port in ports.taken(self.ports(), part.listeners).items():
                raise Conflict(
                    f"port {port} of {listener} is taken by another program: stop that program, "
                    "or run `wardstream-server down` and `wardstream-server up --repick`"
                )

    def _make_folders(self) -> None:
        for name in ("pki", "kafka", "redis", "database", "warehouse", "streams", "executions", "logs", "processes"):
            (self.home / name).mkdir(mode=0o700, exist_ok=True)

    def _start(self, missing: Sequence[Part], report: Report, began: float) -> None:
        names = [part.name for part in missing]
        # Left by a broker that was killed while it wrote it.
        kafka.new_class_archive(self.home).unlink(missing_ok=True)
        kafka.write_files(self.home, self.ports())
        redis.write_files(self.home, self.ports())
        # What others wait for needs nothing of `init` but certificates: where they are good, it need not wait for them.
        early = [part for part in missing if part.name in ("kafka", "redis") and kafka.is_formatted(self.home) and self._has_certificates()]
        self._launch(early)
        with ThreadPoolExecutor(1) as pool:
            # The broker's data folder needs no certificate, so it is prepared while certificates are made.
            formatted = pool.submit(self._format) if "kafka" in names and not kafka.is_formatted(self.home) else None
            # Control rewrites what init writes; while it runs there is nothing to make, so both never write at once.
            control = self.records().get("control")
            if control is None or not control.alive:
                self._init()
                report("init", "certificates, keys and the tenancy database are there", time.monotonic() - began)
            if formatted is not None:
                formatted.result()
        self._launch([part for part in missing if part not in early])

    def _launch(self, some: Sequence[Part]) -> None:
        for part in sorted(some, key=lambda part: _START_ORDER.index(part.name)):
            processes.start(
                part.name,
                part.command,
                folder=self.folder,
                log=self.log_of(part.name),
                environment=part.environment,
                cwd=self.home,
            )

    def _has_certificates(self) -> bool:
        """Return whether broker and online store have all that `init` makes for them, not soon to be made anew."""
        platform = self.home / "pki" / "platform"
        if not (self.home / "redis" / "launcher.password").exists() or not (self.home / "redis" / "users.acl").exists():
            return False
        for file in (platform / "ws-broker-1.pem", platform / "ws-redis.crt", platform / "ws-launcher.crt"):
            try:
                certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
            except (FileNotFoundError, ValueError):
                return False
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begin <= datetime.now(UTC) < begin + (end - begin) / 2:
                return False
        return True

    def _format(self) -> None:
        self._run("kafka-format", kafka.format_command(self.home, parts.JARS, parts.find_java()), parts.base_environment(self.home))

    def _init(self) -> None:
        environment = parts.process_environment(self.home, self.settings()["control"])
        self._run("init", parts.init_command(), environment)

    def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end; raises `Unavailable` with the end of its log when it fails."""
        log = self.log_of(name)
        with log.open("ab") as output:
            try:
                code = subprocess.run(
                    list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(environment),
                    cwd=self.home, timeout=_INIT_SECONDS, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Unavailable(f"{name} did not end within {_INIT_SECONDS:g} s; the end of {log}:\n{last_lines(log)}") from error
        if code:
            raise Unavailable(f"{name} ended with code {code}; the end of {log}:\n{last_lines(log)}")

    def _write_run_file(self) -> None:
        """Write who runs where, for everybody else to read."""
        found = self.ports()
        everything = self.parts()
        running = [
            {
                "name": record.name,
                "pid": record.pid,
                "host": "127.0.0.1",
                "ports": {listener: found[listener] for listener in everything[record.name].listeners} if record.name in everything else {},
                "log": record.log,
                "started_at": datetime.fromtimestamp(record.started_at, UTC).isoformat(timespec="milliseconds"),
            }
            for record in self.records().values()
            if record.alive
        ]
        content = {"home": str(self.home), "ports": dict(found), "environment": self.environment(), "processes": running}
        processes.write_private(self.home / "run.json", json.dumps(content, indent=1) + "\n")

    def _await(self, wanted: Iterable[Part], report: Report, began: float, seconds: float) -> None:
        """Return when all of `wanted` are ready, telling of each as it becomes so; the first failure ends the wait."""
        with ThreadPoolExecutor(len(NAMES)) as pool:
            deadline = time.monotonic() + seconds
            given_up: list[bool] = []
            waiting = {pool.submit(self._await_part, part, deadline, given_up): part for part in wanted}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        part = waiting.pop(future)
                        future.result()
                        report(part.name, "ready", time.monotonic() - began)
            finally:
                given_up.append(True)

    def _await_part(self, part: Part, deadline: float, given_up: Sequence[bool]) -> None:
        record = self.records().get(part.name)
        waiting: str | None = "is not there"
        while not given_up:
            if record is None or not record.alive:
                code = processes.reap(record) if record else None
                ended = f"ended with code {code}" if code is not None else "ended"
                raise Unavailable(f"{part.name} {ended} instead of starting; the end of {self.log_of(part.name)}:\n{self._last(part)}")
            waiting = part.ready()
            if waiting is None:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{part.name} is not ready: {waiting}; the end of {self.log_of(part.name)}:\n{self._last(part)}")
            # Often enough to lose nothing of the start; each question costs the part a handshake.
            time.sleep(0.2)

    def _last(self, part: Part) -> str:
        return last_lines(self.log_of(part.name))

    # Stopping

    def down(self, report: Report) -> None:
        """Stop everything that was started for this stack; afterwards no process of it runs and no port is held.

        Doors and workers go first, then what they use. Harmless when nothing runs.
        """
        began = time.monotonic()
        if not self.home.exists():
            return
        with self._exclusively(report, began):
            records = self.records()
            children = [name for name in records if name not in NAMES]
            for together in (("gateway", "program-worker", "stream-worker"), children, ("query",), ("control",), ("redis", "kafka")):
                self._stop([records[name] for name in together if name in records], report, began)
            # What a worker started while it was being stopped.
            self._stop(list(self.records().values()), report, began)
            self._stop_strays()
            (self.home / "run.json").unlink(missing_ok=True)

    def _stop(self, records: Sequence[ProcessRecord], report: Report, began: float) -> None:
        if not records:
            return

        def stop(record: ProcessRecord) -> None:
            ran = record.alive
            archives = record.name == "kafka" and "-XX:ArchiveClassesAtExit" in _command_line(record.pid)
            gentle = processes.stop(record, folder=self.folder, seconds=_ARCHIVE_SECONDS if archives else _STOP_SECONDS)
            if archives and gentle:
                kafka.keep_class_archive(self.home, parts.JARS, parts.find_java())
            if ran:
                report(record.name, "stopped" if gentle else "killed: it did not stop by itself", time.monotonic() - began)

        with ThreadPoolExecutor(len(records)) as pool:
            list(pool.map(stop, records))


# The broker takes longest, so it begins first; all others wait for it while their own modules load.
_START_ORDER = ("kafka", "redis", "control", "query", "gateway", "stream-worker", "program-worker")


def _chosen(only: Sequence[str]) -> list[str]:
    if unknown := [name for name in only if name not in NAMES]:
        raise Invalid(f"there is no part named {unknown[0]!a}: parts are {', '.join(NAMES)}")
    return [name for name in NAMES if not only or name in only]


def last_lines(path: Path, count: int = _LAST_LINES) -> str:
    """Return the last lines of the log at `path`."""
    # 64 kB holds twenty long lines; a log may be gigabytes.
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log yet)"
    return "\n".join(lines[-count:]) or "(the log is empty)"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _memory_mb(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def _marked(home: Path) -> list[int]:
    """Return every living process that has the stack's mark in its environment, the launcher itself left out."""
    mark = f"{MARK}={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _lineage(pid: int) -> set[int]:
    """Return `pid`, its parent, that one's parent and so on: a part's child belongs to the part."""
    found: set[int] = set()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
