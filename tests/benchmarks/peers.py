"""What the feature store's benchmarks share: a Redis of their own, and Feast in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis

ROOT = Path(__file__).resolve().parent.parent.parent
_FEAST = "feast[duckdb,redis]==0.67.0"


@contextmanager
def own_redis() -> Iterator[redis.Redis]:
    """Yield a client of a Redis on loopback, without persistence, with our functions; it ends with the block."""
    command = shutil.which("redis-server")
    if command is None:
        raise RuntimeError("redis-server is missing: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="wardstream-bench-") as folder:
        process = subprocess.Popen(
            [command, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = redis.Redis(port=port)
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            client.function_load((ROOT / "featurestore" / "online" / "functions.lua").read_text())
            yield client
        finally:
            process.terminate()
            process.wait(10)


def server_cpu_seconds(client: redis.Redis) -> float:
    """Return the CPU seconds that Redis has used."""
    found = cast(dict[str, float], client.info("cpu"))
    return found["used_cpu_user"] + found["used_cpu_sys"]


def feast(script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a program of this folder where Feast is installed, and return the JSON lines that it printed.

    The environment is made under build/feast-env by uv on first use; its packages would not fit ours.
    """
    python = ROOT / "build" / "feast-env" / "bin" / "python"
    marker = python.parent / "complete"
    if not marker.exists() or marker.read_text() != _FEAST:
        uv = ROOT / ".boot" / "bin" / "uv"
        if not uv.exists():
            raise RuntimeError("run `make setup` first: Feast's environment is made with its uv")
        print("installing Feast into build/feast-env (once, some minutes)", flush=True)
        subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, python.parent.parent], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", python, _FEAST], check=True)
        marker.write_text(_FEAST)
    environment = {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, Path(__file__).parent / script, *arguments], stdout=subprocess.PIPE, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{script} in build/feast-env ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
