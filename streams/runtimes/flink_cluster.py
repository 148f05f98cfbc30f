"""One Flink cluster: a job manager and a task manager as plain Java processes, their lines closed by mutual TLS.

Whoever reaches Flink's REST interface runs code in it. So every line asks for a certificate, and the only
one accepted is a pair made for this cluster at each start; it is no platform certificate, because code in the
task manager can read it. The wheel `apache-flink-libraries` is the whole distribution; its shell scripts are not used
(they take 17 s).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shutil
import socket
import ssl
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import httpx
import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardstream.errors import Invalid, NotFound, Unavailable
from wardstream.processes import ProcessRecord, reap, recorded, write_private
from wardstream.processes import start as start_process
from wardstream.processes import stop as stop_process

# Heap of the task manager holds window state; the sum of all parts is what the process may take.
_TASK_HEAP_MB = 384
_FRAMEWORK_HEAP_MB = 64
_SLOTS = 8

# Warnings and the life of jobs, to standard output; Flink's own file has a second copy of everything.
_LOGGING = """rootLogger.level = WARN
rootLogger.appenderRef.console.ref = Console
logger.jobs.name = org.apache.flink.runtime.executiongraph
logger.jobs.level = INFO
# Two sinks of one job share the name of a metric, which Flink says again at each checkpoint.
logger.metrics.name = org.apache.flink.runtime.metrics
logger.metrics.level = ERROR
logger.groups.name = org.apache.flink.metrics
logger.groups.level = ERROR
appender.console.type = Console
appender.console.name = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS} %-5p %c{1} %m%n
"""

# An exception of ours comes out of Flink's Python under the first name.
_SHOWN_CAUSES = ("pemja.core.PythonException: <class 'wardstream.errors.", "org.apache.kafka.")
_MOST_CAUSE = 300

JOB_MANAGER = "flink-jobmanager"
TASK_MANAGER = "flink-taskmanager"


@dataclass(frozen=True)
class JobState:
    """One job as the job manager sees it; `state` is Flink's word, such as RUNNING or RESTARTING."""

    id: str
    name: str
    state: str


class FlinkCluster:
    """A session cluster in `home`, for jobs whose code the platform wrote.

    `start` is harmless when the cluster runs. Files under `home/checkpoints` outlive the cluster; everything else is
    made anew at each start. Ports are chosen free at each start: nobody but the supervisor speaks to the cluster.
    """

    def __init__(
        self, home: Path, *, java: Path, environment: Mapping[str, str], slots: int = _SLOTS, python: Path = Path(sys.executable)
    ) -> None:
        """`environment` is what every process gets, the mark by which the launcher finds strays among it."""
        self._home = home
        self._environment = environment
        self._java = java
        self._slots = slots
        self._python = python
        self._client: httpx.Client | None = None

    @property
    def checkpoints(self) -> Path:
        """Where jobs keep their checkpoints."""
        return self._home / "checkpoints"

    @property
    def records(self) -> Sequence[ProcessRecord]:
        """The cluster's processes that were started and not stopped, dead ones included."""
        return recorded(self._home / "processes")

    def alive(self) -> frozenset[str]:
        """Return which of the two processes are alive; says nothing about readiness."""
        return frozenset(record.name for record in self.records if record.alive)

    def start(self, *, seconds: float = 180.0) -> None:
        """Start what is not running and return when the slots are offered; raises `Unavailable` after `seconds`.

        A dead task manager is replaced and Flink restarts its jobs by itself. A dead job manager takes the whole cluster
        with it: the new one knows no jobs (`jobs` is empty) and they have to be submitted again.
        """
        if JOB_MANAGER not in self.alive():
            self.stop()
            self._configure()
            self._start_job_manager()
        if TASK_MANAGER not in self.alive():
            self._start_task_manager()
        self.wait_ready(seconds=seconds)

    def stop(self) -> None:
        """End both processes; checkpoints stay."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for record in self.records:
            stop_process(record, folder=self._home / "processes", seconds=5.0)

    def ready(self) -> bool:
        """Whether the job manager answers and a task manager offers its slots."""
        try:
            return int(str(self._get("/overview")["slots-total"])) >= self._slots
        except (Unavailable, NotFound):
            return False

    def wait_ready(self, *, seconds: float) -> None:
        """Return when `ready`; raises `Unavailable` after `seconds` or when a process has ended."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            for record in self.records:
                reap(record)
                if not record.alive:
                    raise Unavailable(f"{record.name} ended at its start; its log says why", log=record.log)
            if time.monotonic() > deadline:
                raise Unavailable(f"Flink was not ready within {seconds:g} s")
            time.sleep(0.1)

    def jobs(self) -> list[JobState]:
        """Return all jobs that the job manager knows, ended ones included."""
        found = self._get("/jobs/overview")["jobs"]
        assert isinstance(found, list)  # noqa: S101  # Flink's own answer
        return [JobState(job["jid"], job["name"], job["state"]) for job in found]

    def failure(self, job: str) -> str | None:
        """Return what made `job` restart the last time, in words that may be shown; None where nothing did."""
        history = self._get(f"/jobs/{job}/exceptions")["exceptionHistory"]
        assert isinstance(history, dict)  # noqa: S101  # Flink's own answer
        newest = max(history["entries"], key=lambda entry: int(entry["timestamp"]), default=None)
        return None if newest is None else root_cause(str(newest["stacktrace"]))

    def cancel(self, job: str) -> None:
        """Ask `job` to end without a savepoint; its checkpoints are kept. Harmless for one that has ended."""
        try:
            self._send("PATCH", f"/jobs/{job}?mode=cancel")
        except NotFound:
            return

    def submission(self) -> dict[str, str]:
        """Return the client configuration that a submitting process needs; it holds the cluster's password."""
        config = self._config()
        wanted = ("security.ssl.rest.", "security.ssl.protocol", "security.ssl.algorithms", "rest.address", "rest.port", "python.")
        return {"execution.target": "remote", **{key: value for key, value in config.items() if key.startswith(wanted)}}

    def client_environment(self) -> dict[str, str]:
        """Return the environment of a submitting process: our packages, this cluster's Java, nothing else of the caller's."""
        found = {
            **self._environment,
            "PATH": f"{self._java.parent}:/usr/bin:/bin" if self._java.is_absolute() else "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PYTHONSAFEPATH": "1",
            # A program of some seconds: the quick compiler halves its processor time.
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m",
        }
        if self._java.is_absolute():
            # PyFlink looks here first; the command may be a link into the installation.
            found["JAVA_HOME"] = str(self._java.resolve().parent.parent)
        return found

    def process_environment(self) -> dict[str, str]:
        """Return the environment of the two Java processes; raises `Invalid` where Flink is not installed."""
        flink = flink_folder()
        return {
            **self._environment,
            "FLINK_CONF_DIR": str(self._home / "conf"),
            "FLINK_PLUGINS_DIR": str(flink / "plugins"),
            "FLINK_LIB_DIR": str(flink / "lib"),
            "FLINK_OPT_DIR": str(flink / "opt"),
            "PATH": f"{self._python.parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            # The functions of jobs run in the task manager and are imported from here.
            "PYTHONPATH": _python_path(),
        }

    # -- how the processes are started

    def _configure(self) -> None:
        folder = self._home / "conf"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        shutil.rmtree(self._home / "tmp", ignore_errors=True)
        (self._home / "tmp").mkdir(mode=0o700)
        self.checkpoints.mkdir(mode=0o700, exist_ok=True)
        password = secrets.token_urlsafe(24)
        _write_pair(folder, password)
        rest, rpc = _free_ports(2)
        tls: dict[str, str] = {
            "security.ssl.protocol": "TLSv1.3",
            "security.ssl.algorithms": "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384",
        }
        for line in ("rest", "internal"):
            tls |= {
                f"security.ssl.{line}.enabled": "true",
                f"security.ssl.{line}.keystore": str(folder / "flink.p12"),
                f"security.ssl.{line}.keystore-password": password,
                f"security.ssl.{line}.key-password": password,
                f"security.ssl.{line}.keystore-type": "PKCS12",
                f"security.ssl.{line}.truststore": str(folder / "trust.p12"),
                f"security.ssl.{line}.truststore-password": password,
                f"security.ssl.{line}.truststore-type": "PKCS12",
            }
        config = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(rpc),
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.execution.failover-strategy": "region",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": str(self._slots),
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(rest),
            "blob.server.port": "0",
            "io.tmp.dirs": str(self._home / "tmp"),
            "web.submit.enable": "false",
            "heartbeat.interval": "2 s",
            "heartbeat.timeout": "8 s",
            "python.executable": str(self._python),
            "python.client.executable": str(self._python),
            "python.pythonpath": _python_path(),
            # Without end: a broker away, a revoked source and a renewed certificate all look like a failure of the job.
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "1 s",
            "restart-strategy.exponential-delay.max-backoff": "30 s",
            **tls,
            "security.ssl.rest.authentication-enabled": "true",
        }
        # JSON strings are YAML strings too, so no value can break out of its line.
        write_private(folder / "config.yaml", "".join(f"{key}: {orjson.dumps(value).decode()}\n" for key, value in config.items()))
        (folder / "log4j.properties").write_text(_LOGGING)
        write_private(folder / "config.json", orjson.dumps(config).decode())

    def _config(self) -> dict[str, str]:
        try:
            found = orjson.loads((self._home / "conf" / "config.json").read_bytes())
        except FileNotFoundError as error:
            raise Unavailable("Flink is not running") from error
        return {str(key): str(value) for key, value in found.items()}

    def _start_job_manager(self) -> None:
        # It coordinates and computes nothing: the quick compiler halves what its start costs.
        heap = ["-Xmx384m", "-XX:MaxMetaspaceSize=256m", "-XX:TieredStopAtLevel=1"]
        self._start(JOB_MANAGER, heap, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", [])

    def _start_task_manager(self) -> None:
        heap = [f"-Xmx{_TASK_HEAP_MB + _FRAMEWORK_HEAP_MB}m", "-XX:MaxMetaspaceSize=256m", "-XX:MaxDirectMemorySize=128m"]
        # Started without Flink's scripts, a task manager wants every part of its memory spelled out.
        memory = {
            "taskmanager.cpu.cores": f"{self._slots}.0",
            "taskmanager.memory.task.heap.size": f"{_TASK_HEAP_MB}m",
            "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_HEAP_MB}m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.network.min": "64m",
            "taskmanager.memory.network.max": "64m",
            "taskmanager.memory.managed.size": "64m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "96m",
            "taskmanager.memory.jvm-overhead.max": "96m",
        }
        options = [part for key, value in memory.items() for part in ("-D", f"{key}={value}")]
        self._start(TASK_MANAGER, heap, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", options)

    def _start(self, name: str, heap: Sequence[str], main: str, options: Sequence[str]) -> None:
        flink = flink_folder()
        opens = re.findall(r"--add-(?:exports|opens)=\S+", (flink / "conf" / "config.yaml").read_text())
        plain = next(iter((flink / "opt").glob("flink-python-*.jar")))
        log = self._home / "logs" / f"{name}.log"
        command: list[str | Path] = [
            self._java,
            *heap,
            "-XX:+UseSerialGC",
            f"-Dlog4j.configurationFile=file:{self._home / 'conf' / 'log4j.properties'}",
            *opens,
            "-cp",
            f"{flink / 'lib'}/*:{plain}",
            main,
            "--configDir",
            self._home / "conf",
            *options,
        ]
        start_process(name, command, folder=self._home / "processes", log=log, environment=self.process_environment())

    # -- its REST interface

    def _get(self, path: str) -> Mapping[str, object]:
        found = orjson.loads(self._send("GET", path).content)
        assert isinstance(found, dict)  # noqa: S101  # Flink's own answer
        return found

    def _send(self, method: str, path: str) -> httpx.Response:
        config = self._config()
        if self._client is None:
            context = ssl.create_default_context(cafile=str(self._home / "conf" / "flink.pem"))
            context.load_cert_chain(self._home / "conf" / "flink.pem")
            self._client = httpx.Client(verify=context, timeout=5.0, trust_env=False)
        try:
            response = self._client.request(method, f"https://127.0.0.1:{config['rest.port']}{path}")
        except (httpx.TransportError, ssl.SSLError, RuntimeError) as error:  # RuntimeError: closed by whoever starts the cluster anew
            raise Unavailable("Flink does not answer", reason=type(error).__name__) from error
        if response.status_code == 404:
            raise NotFound(f"Flink knows no {path.split('?')[0]}")
        if response.status_code >= 400:
            raise Unavailable(f"Flink answered {response.status_code}", answer=response.text[:500])
        return response


def root_cause(stacktrace: str) -> str:
    """Return the first line of the innermost exception in a Java stack trace.

    Only Kafka's messages and our own are kept: others may quote a record.
    """
    causes = [line.removeprefix("Caused by: ") for line in stacktrace.splitlines() if line.startswith("Caused by: ")]
    innermost = (causes or stacktrace.splitlines() or [""])[-1 if causes else 0].strip()
    return innermost[:_MOST_CAUSE] if innermost.startswith(_SHOWN_CAUSES) else innermost.partition(":")[0][:_MOST_CAUSE]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest completed checkpoint under `folder` (any job's), or None.

    Completed means that it holds `_metadata`: the newest folder itself is often one that a crash cut short.
    Compared by time, not by number, since the number starts again with each job.
    """
    complete = [path.parent for path in folder.glob("*/chk-*/_metadata")]
    return max(complete, key=lambda path: (path / "_metadata").stat().st_mtime_ns, default=None)


def flink_folder() -> Path:
    """Return the distribution inside the installed wheel; raises `Invalid` where the extra is not installed."""
    found = find_spec("pyflink")
    if found is None or found.origin is None:
        raise Invalid("Flink is not installed: install the extra 'flink' (make setup does)")
    return Path(found.origin).parent


def _python_path() -> str:
    """Where Python functions import from: the site packages, which Flink does not find by itself in a virtual environment, and our own packages."""
    return f"{sysconfig.get_paths()['purelib']}:{Path(__file__).resolve().parents[2]}"


def _free_ports(number: int) -> list[int]:
    held = [socket.socket() for _ in range(number)]
    ports = []
    for each in held:
        each.bind(("127.0.0.1", 0))
        ports.append(int(each.getsockname()[1]))
    for each in held:
        with closing(each):
            pass
    return ports


def _write_pair(folder: Path, password: str) -> None:
    """Write one self-signed pair as key store, trust store and PEM: the cluster trusts exactly itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "wardstream"), x509.NameAttribute(NameOID.COMMON_NAME, "flink")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password.encode())
    store = pkcs12.serialize_key_and_certificates(b"flink", key, certificate, None, encryption)
    # Java finds nothing in any other kind of PKCS 12 file.
    trust = pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(certificate, b"flink")], encryption)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, content in (
        ("flink.p12", store),
        ("trust.p12", trust),
        ("flink.pem", pem + certificate.public_bytes(serialization.Encoding.PEM)),
    ):
        path = folder / file
        path.touch(mode=0o600)
        path.write_bytes(content)
