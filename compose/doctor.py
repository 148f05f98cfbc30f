"""Looks whether this machine can run the stack, and whether what lies in its home is as it should be."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from compose import parts, ports
from compose.stack import Stack
from wardstream.confinement import Confinement, Limits, confined
from wardstream.errors import WardstreamError

_SECONDS = 10.0
# What an empty stack takes, and what the demo fills.
_DISK_GB, _MEMORY_GB = 5, 8


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """ok, warning, failed"""
    detail: str


def examine(stack: Stack) -> Iterator[Finding]:
    """Yield one finding after another; a look that itself fails is a finding too."""
    for name, look in _LOOKS.items():
        try:
            state, detail = look(stack)
        except (WardstreamError, OSError, ValueError, subprocess.SubprocessError) as error:
            state, detail = "failed", str(error)
        yield Finding(name, state, detail)


_Answer = tuple[str, str]


def _java(_: Stack) -> _Answer:
    java = parts.find_java()
    return "ok", f"{java}: {parts.java_version(java)}"


def _redis(_: Stack) -> _Answer:
    server = parts.find_redis()
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    version = answer.partition("v=")[2].partition(" ")[0]
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < 7:
        return "failed", f"{server} is version {version or 'unknown'}: 7 or newer is needed; there is no other online store to fall back on"
    return "ok", f"{server}: {version}"


def _jars(_: Stack) -> _Answer:
    listed: dict[str, str] = {}
    for line in (parts.REPOSITORY / "compose" / "jars.sha256").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        listed[name.removeprefix("./")] = digest
    found = {str(path.relative_to(parts.JARS)): path for path in parts.JARS.rglob("*.jar")}
    if set(listed) != set(found):
        different = sorted(set(listed) ^ set(found))
        return "failed", f"{len(different)} jars missing or not listed, the first is {different[0]}: run `make setup`"
    for name, path in found.items():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed[name]:
                return "failed", f"{name} is not the file whose SHA-256 is in compose/jars.sha256: remove it and run `make setup`"
    return "ok", f"{len(found)} jars, each with its SHA-256"


def _sandbox(_: Stack) -> _Answer:
    if shutil.which("bwrap") is None:
        return "failed", "bubblewrap is missing, programs and SQL are refused without it: apt-get install bubblewrap"
    # The same command line that programs start with; 65534 is nobody, who owns nothing here.
    confinement = Confinement(uid=65534 if os.geteuid() == 0 else None, limits=Limits(cpu_seconds=5))
    command = confined(["/usr/bin/cat", "/proc/net/dev"], confinement)
    answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return (
            "failed",
            f"bubblewrap does not start: {reason[0]} (does AppArmor or sysctl kernel.unprivileged_userns_clone forbid user namespaces?)",
        )
    interfaces = {line.partition(":")[0].strip() for line in answer.stdout.splitlines() if ":" in line}
    if interfaces - {"lo"}:
        return "failed", f"a confined program sees the network: {', '.join(sorted(interfaces))}"
    return "ok", "a confined program starts and sees no network"


def _ports(stack: Stack) -> _Answer:
    found = ports.load(stack.home / "ports.json")
    if found is None:
        return "ok", "picked at the first up"
    records = stack.records()
    idle = [part for part in stack.parts().values() if part.name not in records or not records[part.name].alive]
    for part in idle:
        for listener, port in ports.taken(found, part.listeners).items():
            return "failed", f"port {port} of {listener} is taken by another program: stop it, or run `wardstream-server up --repick`"
    return "ok", f"{min(found.values())} to {max(found.values())}, " + ("free" if len(idle) == len(parts.NAMES) else "ours or free")


def _disk(stack: Stack) -> _Answer:
    place = next(folder for folder in (stack.home, *stack.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    return ("ok" if free >= _DISK_GB else "warning"), f"{free:.1f} GB free at {place}, {_DISK_GB} GB are advised"


def _memory(_: Stack) -> _Answer:
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    values = {fields[0].rstrip(":"): int(fields[1]) / 1e6 for fields in lines}
    total, available = values["MemTotal"], values["MemAvailable"]
    return ("ok" if total >= _MEMORY_GB * 0.95 else "warning"), f"{total:.1f} GB, {available:.1f} GB available, {_MEMORY_GB} GB are advised"


def _clock(_: Stack) -> _Answer:
    """A clock before the newest file of this program is wrong, whatever the time zone."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    behind = newest - time.time()
    if behind > 60:
        return "failed", f"the clock is at least {behind:.0f} s behind: certificates would not be valid yet"
    return "ok", datetime.now(UTC).isoformat(timespec="seconds")


def _certificates(stack: Stack) -> _Answer:
    folder = stack.home / "pki" / "platform"
    if not folder.exists():
        return "ok", "made at the first up"
    ends = {path.stem: x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc for path in sorted(folder.glob("*.crt"))}
    if not ends:
        return "warning", "none in pki/platform: run `wardstream-server up`"
    name, end = min(ends.items(), key=lambda item: item[1])
    days = (end - datetime.now(UTC)).total_seconds() / 86400
    if days <= 0:
        return "failed", f"{name} ended on {end:%Y-%m-%d}: run `wardstream-server down` and `up`, which issues a new one"
    advice = ": run `wardstream-server down` and `up`, which issues new ones" if days < 10 else ""
    return ("warning" if days < 10 else "ok"), f"the first to end is {name} on {end:%Y-%m-%d}{advice}"


def _permissions(stack: Stack) -> _Answer:
    home = stack.home
    if not home.exists():
        return "ok", "nothing there yet"
    secret = [home / "admin.key", home / "login-link", home / "run.json"]
    for pattern in ("pki/authority/*", "pki/platform/*.key", "pki/platform/*.pem", "redis/*.acl", "redis/*.password", "database/*"):
        secret += home.glob(pattern)
    open_ones = [path for path in secret if path.is_file() and path.stat().st_mode & 0o077 and not _behind_a_door(path, home)]
    if open_ones:
        return "failed", f"others of this machine may read {len(open_ones)} secret files, the first is {open_ones[0]}: chmod 600"
    return "ok", "secrets are readable by their owner alone"


def _behind_a_door(path: Path, home: Path) -> bool:
    """Return whether a folder between the home and the file keeps others out: databases make files as the umask says."""
    folders = [folder for folder in path.parents if folder.is_relative_to(home)]
    return any(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def _walls(_: Stack) -> _Answer:
    user = "root" if os.geteuid() == 0 else "one user of this machine"
    return (
        "warning",
        f"all processes run as {user}: walls between the processes are not promised, walls between projects are",
    )


def _writable(stack: Stack) -> _Answer:
    place = next(folder for folder in (stack.home, *stack.home.parents) if folder.exists())
    with tempfile.NamedTemporaryFile(dir=place):
        return "ok", str(stack.home)


_LOOKS: dict[str, Callable[[Stack], _Answer]] = {
    "home": _writable,
    "java": _java,
    "jars": _jars,
    "redis": _redis,
    "sandbox": _sandbox,
    "ports": _ports,
    "disk": _disk,
    "memory": _memory,
    "clock": _clock,
    "certificates": _certificates,
    "permissions": _permissions,
    "walls": _walls,
}
