"""What the program-worker does with one execution when something around it is away or goes wrong; its sandboxes are real ones."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from streams.control import Control, Identity
from streams.programs.worker import ProgramWorker, Running
from wardstream.client.transport import Transport
from wardstream.errors import Denied, Unavailable, WardstreamError
from wardstream.settings import KafkaSettings, ProgramWorkerSettings, TlsSettings


class Issuing(Control):
    """Control's one route that is asked here."""

    def __init__(self) -> None:
        self.error: WardstreamError | None = None

    def execution_identity(self, grant: str) -> Identity:
        if self.error is not None:
            raise self.error
        return Identity("certificate", "key", datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1))


class Hearing(Transport):
    """A stream-worker that notes what it is told, and does not hear the first `away_for` requests."""

    def __init__(self) -> None:
        self.log = b""
        self.files: dict[str, int] = {}
        self.ends: list[Mapping[str, Any]] = []
        self.away_for = 0

    def request(self, method: str, path: str, *, content: bytes | None = None, **options: Any) -> httpx.Response:
        self._is_there()
        if path.endswith("/logs"):
            self.log += content or b""
        else:
            self.files[path.rpartition("/")[2]] = len(content or b"")
        return httpx.Response(204)

    def json(self, method: str, path: str, **options: Any) -> Any:
        self._is_there()
        if options["json"]["state"] != "running":
            self.ends.append(options["json"])
        return {"stop": False}

    def _is_there(self) -> None:
        if self.away_for > 0:
            self.away_for -= 1
            raise Unavailable("the stream worker is away")


class House:
    def __init__(self, folder: Path) -> None:
        (folder / "ca.pem").write_text("root")
        tls = TlsSettings(ca_file=folder / "ca.pem", certificate_file=folder / "none", key_file=folder / "none")
        settings = ProgramWorkerSettings(
            name="ws-program-worker",
            port=19001,
            home=folder,
            tls=tls,
            platform_ca_file=folder / "none",
            control_url="https://127.0.0.1:19002",
            stream_worker_url="https://127.0.0.1:19003",
            kafka=KafkaSettings(bootstrap_servers="127.0.0.1:19094", tls=tls),
            worker_bootstrap_servers="127.0.0.1:19094",
            inside_url="https://127.0.0.1:19443",
            label="cpu",
            slots=1,
        )
        self.control, self.streams = Issuing(), Hearing()
        self.worker = ProgramWorker(settings, self.control, self.streams)
        self.folder = folder

    def run(self, script: str) -> None:
        """Run one execution as a slot does, to its end."""
        running = Running("one", "icu__mia", "icu__mia")
        assert self.worker._free.acquire(blocking=False)
        self.worker._running["one"] = running
        work = {
            "files": {"main.py": base64.b64encode(script.encode()).decode()},
            "name": "main.py",
            "arguments": [],
            "memory_mb": 1024,
            "cpu_seconds": 60,
            "label": "cpu",
            "grant": "grant",
            "project": "icu",
            "attempt": 1,
        }
        self.worker._execute(running, work)

    def slot_is_free(self) -> bool:
        return self.worker._running == {} and self.worker._free.acquire(blocking=False)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_last_words_are_said_until_the_stream_worker_hears_them(house: House) -> None:
    house.streams.away_for = 3
    house.run("print('last words')")
    assert house.streams.log == b"last words\n"
    assert [each["state"] for each in house.streams.ends] == ["succeeded"]
    assert house.slot_is_free()


def test_absence_of_control_is_no_failure_of_the_program(house: House) -> None:
    house.control.error = Unavailable("control is away")
    house.run("print('never')")
    assert house.streams.ends == []
    assert house.slot_is_free()


def test_refusal_of_control_is_a_failure_with_its_reason(house: House) -> None:
    house.control.error = Denied("the grant has expired")
    house.run("print('never')")
    assert [(each["state"], each["reason"]) for each in house.streams.ends] == [
        ("failed", "it could not be started: the grant has expired")
    ]


def test_file_that_is_too_large_is_named_and_the_others_are_kept(house: House) -> None:
    house.run("open('/out/small', 'w').write('x'); open('/out/large', 'w').truncate((256 << 20) + 1)")
    assert house.streams.files == {"small": 1}
    assert [(each["state"], each["reason"]) for each in house.streams.ends] == [
        ("succeeded", "not kept, since a file has at most 256 MiB: large")
    ]


def test_folders_without_end_cost_no_slot(house: House) -> None:
    house.run("import os, time\nos.chdir('/out')\nfor _ in range(1500):\n    os.mkdir('a')\n    os.chdir('a')\ntime.sleep(60)")
    assert [each["state"] for each in house.streams.ends] == ["failed"]
    assert house.slot_is_free()
    assert not (house.folder / "executions" / "execution-one").exists()
