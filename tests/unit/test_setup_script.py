"""What set-up says of a machine that cannot have the platform: on a copy, with commands that only say their versions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with nothing but the script and what it looks at first, and `bin` before everything on the path."""
    for name in ("scripts/setup", "compose/jars.sha256", "requirements-boot.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, line in {
        "redis-server": "Redis server v=7.0.15 sha=0",
        "java": 'openjdk version "17.0.1"',
        "mvn": "Apache Maven",
        "bwrap": "",
        "setpriv": "",
        "prlimit": "",
    }.items():
        command(tmp_path, name, f"echo '{line}' >&2; echo '{line}'")
    return tmp_path


def command(copy: Path, name: str, lines: str) -> None:
    path = copy / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def set_up(copy: Path, **environment: str) -> str:
    """Run set-up, which must fail, and return what it says last."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG")}
    done = subprocess.run(
        [copy / "scripts" / "setup"],
        env={**kept, "PATH": f"{copy / 'bin'}:/usr/bin:/bin", "PYTHON": sys.executable, "WARDSTREAM_SETUP_APT": "no", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_package_that_is_too_old_is_named_with_the_version_needed(copy: Path) -> None:
    command(copy, "redis-server", "echo 'Redis server v=6.0.16 sha=0'")
    said = set_up(copy)
    assert "redis-server is version 6.0.16 here, and 7 or newer is needed" in said
    assert "apt-get" not in said


def test_package_that_stays_too_old_after_apt_is_not_asked_for_again(copy: Path) -> None:
    command(copy, "redis-server", "echo 'Redis server v=6.0.16 sha=0'")
    for name in ("apt-get", "dpkg"):
        command(copy, name, "exit 0")
    command(copy, "sudo", 'while [ "$1" = -n ]; do shift; done; exec "$@"')
    said = set_up(copy, WARDSTREAM_SETUP_APT="yes")
    assert "redis-server is version 6.0.16 here" in said
    assert "apt-get" not in said


def test_machine_without_namespaces_is_refused_at_every_run(copy: Path) -> None:
    command(copy, "bwrap", "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1")
    for _ in range(2):
        said = set_up(copy)
        assert said.startswith("Set-up stopped: bubblewrap may not make namespaces here")
        assert "user namespaces" in said or "AppArmor" in said
