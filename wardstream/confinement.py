"""The command line of a confined process: no network, nothing of the host but what is named, bounded resources.

Pure: it returns a command. bubblewrap makes the namespaces; as root it runs without a user namespace and
`setpriv` drops to the job's own user id before anything of the job runs, since the interpreter may lie in a
folder that only root can pass. As an ordinary user bubblewrap makes a user namespace instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Made by bubblewrap itself, or bound as a whole.
_THERE = {"/", "/usr", "/tmp", "/dev", "/dev/shm", "/proc"}  # noqa: S108


@dataclass(frozen=True)
class Limits:
    """Bounds of one confined process tree; memory is address space and counts per process."""

    memory_mb: int = 2048
    processes: int = 64
    cpu_seconds: int = 600
    file_mb: int = 1024
    open_files: int = 256
    tmp_mb: int = 256


@dataclass(frozen=True)
class Confinement:
    """What a confined process may see; all else of the host is absent."""

    uid: int | None = None  # the job's own user id; None when the platform itself does not run as root
    read_only: Sequence[tuple[Path, str]] = ()
    writable: Sequence[tuple[Path, str]] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/tmp"  # noqa: S108  # inside: a tmpfs of its own
    limits: Limits = field(default_factory=Limits)
    own_namespaces: bool = True  # whether the job may make user namespaces; False is for bubblewrap 0.8 and an ordinary user


def confined(command: Sequence[str], confinement: Confinement) -> list[str]:
    """Return `command` wrapped so that it runs under `confinement`; inherited file descriptors stay open."""
    limits = confinement.limits
    wrapped = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    if confinement.uid is None:
        wrapped += ["--unshare-all", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        if not confinement.own_namespaces:
            wrapped += ["--unshare-user", "--disable-userns"]
    else:
        wrapped += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    for name, value in {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONSAFEPATH": "1", **confinement.environment}.items():  # noqa: S108
        wrapped += ["--setenv", name, value]
    wrapped += [
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--symlink",
        "usr/bin",
        "/bin",
    ]
    wrapped += ["--proc", "/proc", "--dev", "/dev"]
    # Both bounded, since they are memory; open to all, since bubblewrap would make them for root alone.
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108
        wrapped += ["--perms", "1777", "--size", str(limits.tmp_mb << 20), "--tmpfs", folder]
    binds = [("--ro-bind", source, target) for source, target in confinement.read_only]
    binds += [("--bind", source, target) for source, target in confinement.writable]
    # What lies on the way to a bind would be passable for root alone.
    for folder in sorted({str(parent) for _, _, target in binds for parent in Path(target).parents} - _THERE):
        wrapped += ["--perms", "0755", "--dir", folder]
    for option, source, target in binds:
        wrapped += [option, str(source), target]
    # An ordinary user owns the root and /dev inside, which are memory without a bound.
    wrapped += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", confinement.folder, "--"]
    if confinement.uid is not None:
        uid = str(confinement.uid)
        wrapped += [
            "/usr/bin/setpriv",
            "--reuid",
            uid,
            "--regid",
            uid,
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ]
    wrapped += [
        "/usr/bin/prlimit",
        f"--as={limits.memory_mb << 20}",
        f"--nproc={limits.processes}",
        f"--cpu={limits.cpu_seconds}",
        f"--fsize={limits.file_mb << 20}",
        f"--nofile={limits.open_files}",
        "--core=0",
    ]
    return [*wrapped, *command]


def python_folders() -> list[tuple[Path, str]]:
    """Return the read-only binds that this interpreter needs to run inside: environment and base installation, at their own paths."""
    folders = {Path(sys.prefix), Path(sys.base_prefix)}
    return [(folder, str(folder)) for folder in sorted(folders) if not folder.is_relative_to("/usr")]


def package_folders(names: Iterable[str]) -> list[tuple[Path, str]]:
    """Return the read-only binds of those of our packages that lie outside the environment, as in a working tree."""
    root = Path(__file__).resolve().parent.parent
    if root.is_relative_to(sys.prefix):
        return []
    return [(root / name, str(root / name)) for name in names]
