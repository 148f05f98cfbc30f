"""The real platform for tests, and short ways to people, devices and clients on it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from tenancy.authority.issuer import new_key
from tenancy.authority.store import private_pem
from wardstream.client.credentials import Credentials, api_key, enrol, signing_request
from wardstream.client.projects import Project
from wardstream.client.session import Connection, connect
from wardstream.client.transport import Transport
from wardstream.errors import WardstreamError
from wardstream.kafka import consumer, deliver, producer
from wardstream.settings import KafkaSettings, TlsSettings

Setting = str | int | float | bool

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LOGS_KEPT = REPOSITORY / "build" / "test-logs"


def run_launcher(home: Path, *arguments: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
    """Run `wardstream-server` on `home`, with nothing of our environment that could reach another stack."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARDSTREAM_")}
    command, *options = arguments
    return subprocess.run(
        [sys.executable, "-m", "compose.main", command, "--home", str(home), *options],
        env={**environment, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=REPOSITORY,
    )


def start(home: Path, *options: str) -> None:
    """Bring the stack in `home` up; fails the test with what the launcher said."""
    done = run_launcher(home, "up", *options)
    assert done.returncode == 0, f"the stack did not start:\n{done.stdout}{done.stderr}"


def stop(home: Path) -> None:
    """Bring the stack in `home` down."""
    done = run_launcher(home, "down")
    assert done.returncode == 0, f"the stack did not stop:\n{done.stdout}{done.stderr}"


@contextmanager
def temporary_home(name: str) -> Iterator[Path]:
    """Give a new home with a short path, stop what runs there afterwards and remove it; its logs are kept where a test failed.

    Short, because unix sockets of the sandbox lie in it and their paths end at 108 bytes.
    """
    home = Path(tempfile.mkdtemp(prefix=f"ws-{name}-"))
    try:
        yield home
    finally:
        try:
            stop(home)
        finally:
            shutil.rmtree(home, ignore_errors=True)


def keep_logs(home: Path, name: str) -> Path:
    """Copy the logs of the stack in `home` to where they stay, and return that folder."""
    kept = LOGS_KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(home / "logs", kept)
    return kept


def fresh(prefix: str) -> str:
    """Return a name that no other test has: all of them share one platform."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class RunningStack:
    """A running platform."""

    home: Path
    # Kept until the end of the run: a client that is dropped while its connections are open is a warning, and fails a test.
    opened: list[Transport] = field(default_factory=list, compare=False)
    projects: list["NewProject"] = field(default_factory=list, compare=False)

    def close(self) -> None:
        """Close every client that was made through this."""
        for transport in self.opened:
            transport.close()

    def tidy(self) -> None:
        """Remove what goes on running for the projects made so far: other tests share the machine with it."""
        while self.projects:
            owner = self.projects.pop().owner
            with suppress(WardstreamError, OSError):
                for processor in owner.project.processors.list():
                    owner.project.processors.remove(processor["name"])
                for group in owner.project.get_feature_store().get_feature_groups():
                    group.delete()

    def kept(self, transport: Transport) -> Transport:
        """Return `transport`, which is closed at the end."""
        self.opened.append(transport)
        return transport

    @cached_property
    def ports(self) -> Mapping[str, int]:
        found: dict[str, int] = json.loads((self.home / "ports.json").read_text())
        return found

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """What `wardstream-server env` prints."""
        found: dict[str, str] = json.loads(run_launcher(self.home, "env", "--output", "json").stdout)
        return found

    @property
    def root(self) -> Path:
        """The certificate that every client trusts."""
        return self.home / "pki" / "root.pem"

    def url(self, listener: str = "door") -> str:
        """Return the address of a listener: door, outside, inside, or one of our processes."""
        return f"https://127.0.0.1:{self.ports[listener]}"

    def bootstrap(self, listener: str = "client") -> str:
        """Return the broker's address: client, worker, internal."""
        return f"127.0.0.1:{self.ports[f'kafka-{listener}']}"

    @cached_property
    def admin(self) -> Connection:
        """The platform as its administrator sees it."""
        return self.connection((self.home / "admin.key").read_text().strip())

    def connection(self, key: str) -> Connection:
        """Return the platform as the holder of an API key sees it."""
        made = connect(self.url(), api_key=key, ca=self.root)
        self.kept(made.transport)
        return made

    def platform(self, process: str, name: str = "ws-launcher") -> Transport:
        """Return a client of one of our processes' private port with the certificate of the platform process `name`."""
        folder = self.home / "pki" / "platform"
        certificate = (folder / f"{name}.crt", folder / f"{name}.key")
        return self.kept(Transport(self.url(process), ca_file=self.root, certificate=certificate))

    def new_project(self, prefix: str = "p", *, sandboxed: bool = True) -> "NewProject":
        """Create a project with a name of its own and an enrolled owner called anna."""
        name = fresh(prefix)
        enrolment = self.admin.projects.create(name, owner="anna", sandboxed=sandboxed)
        made = NewProject(self, name, Person(self, name, "anna", enrolment.token))
        self.projects.append(made)
        return made


@dataclass
class Person:
    """Somebody, or something, that is a member of a project. Enrols when the first proof is needed."""

    stack: RunningStack
    project_name: str
    name: str
    token: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.stack.home / "test-people" / f"{self.project_name}__{self.name}"

    @property
    def principal(self) -> str:
        return f"{self.project_name}__{self.name}"

    @cached_property
    def api_key(self) -> str:
        """The member's API key; the enrolment token is used up by it."""
        file = self.folder / "api.key"
        api_key(self._anonymous(), self.token, file)
        return file.read_text().strip()

    @cached_property
    def certificate(self) -> Credentials:
        """The member's outside certificate. Uses the enrolment token, or a new one where an owner has an API key already."""
        token = self.project.new_token(self.name).token if "api_key" in vars(self) else self.token
        return enrol(self._anonymous(), token, self.folder)

    @cached_property
    def connection(self) -> Connection:
        """REST with the member's API key."""
        return self.stack.connection(self.api_key)

    @cached_property
    def project(self) -> Project:
        """The SDK's view of the member's project."""
        return self.connection.projects.get(self.project_name)

    @cached_property
    def acting(self) -> Credentials:
        """The inside certificate of an execution in the member's own name, as a program of theirs holds it.

        No door gives one to a person: it would lead past the sandbox. So the platform's own processes are asked here,
        with their certificates, for what they ask for when somebody runs a program.
        """
        key, folder = new_key(), self.folder / "acting"
        folder.mkdir(parents=True, exist_ok=True)
        granted = self.stack.platform("control", "ws-gateway").json(
            "POST", "/internal/v1/grants", json={"proof": {"api_key": self.api_key}, "door": "outside"}
        )
        execution = self.stack.platform("control", "ws-stream-worker").json(
            "POST",
            f"/v1/projects/{self.project_name}/execution-grants",
            json={"execution": fresh("test")},
            headers={"Authorization": f"Bearer {granted['grant']}"},
        )
        answer = self.stack.platform("control", "ws-program-worker").json(
            "POST", "/internal/v1/executions/certificate", json={"grant": execution["grant"], "csr": signing_request(key)}
        )
        credentials = Credentials(
            self.principal, folder / "certificate.pem", folder / "key.pem", self.stack.root, str(answer["expires_at"])
        )
        credentials.key_file.write_text(private_pem(key))
        credentials.certificate_file.write_text(answer["certificate"])
        return credentials

    def rest(self, door: str = "outside") -> Connection:
        """Return REST with a client certificate: the enrolled one at the outside door, a program's at the inside door."""
        found = self.certificate if door == "outside" else self.acting
        made = connect(self.stack.url(door), ca=self.stack.root, certificate=(found.certificate_file, found.key_file))
        self.stack.kept(made.transport)
        return made

    def kafka(self, listener: str = "client") -> KafkaSettings:
        """Return how this member reaches the broker: with the enrolled certificate on CLIENT, a program's on WORKER."""
        found = self.certificate if listener == "client" else self.acting
        return kafka_settings(self.stack.bootstrap(listener), found)

    def producer(self, listener: str = "client", **overrides: Setting) -> Producer:
        return producer(self.kafka(listener), **overrides)

    def produce(self, topic: str, values: Sequence[bytes], *, key: bytes | None = None, listener: str = "client") -> list[tuple[int, int]]:
        """Write `values` and return partition and offset of each, all acknowledged."""
        return deliver(self.producer(listener), [(topic, key, value, []) for value in values], seconds=20)

    def consumer(self, *topics: str, listener: str = "client", group: str | None = None, **overrides: Setting) -> Consumer:
        """Return a consumer that is subscribed to `topics`; whoever asks closes it."""
        client = consumer(self.kafka(listener), group=group or f"{self.project_name}.{self.name}.{secrets.token_hex(4)}", **overrides)
        if topics:
            client.subscribe(list(topics))
        return client

    def consume(self, topic: str, count: int, *, listener: str = "client", within: float = 20.0) -> list[Any]:
        """Return `count` messages of `topic` from its beginning; fails when there are fewer within the time."""
        client = self.consumer(topic, listener=listener)
        try:
            return read(client, count, within=within)
        finally:
            client.close()

    def _anonymous(self) -> Transport:
        return self.stack.kept(Transport(self.stack.url(), ca_file=self.stack.root))


@dataclass(frozen=True)
class NewProject:
    """A project that one test made for itself."""

    stack: RunningStack
    name: str
    owner: Person

    def add(self, name: str, role: str, *, reads: Sequence[str] = (), writes: Sequence[str] = ()) -> Person:
        """Add a member, whose rights hold when this returns."""
        return Person(self.stack, self.name, name, self.owner.project.add_member(name, role, reads=reads, writes=writes).token)

    def topic(self, dataset: str) -> str:
        return f"{self.name}.{dataset}"

    def create_topic(self, dataset: str, *, partitions: int = 1, permission: str = "editable-by-owners", **config: str) -> str:
        """Create a dataset with its topics and return the topic's name."""
        body = {
            "name": dataset,
            "kind": "topic",
            "partitions": partitions,
            "config": {key.replace("_", "."): value for key, value in config.items()},
            "permission": permission,
        }
        self.owner.connection.transport.json("POST", f"/api/v1/projects/{self.name}/datasets", json=body)
        return self.topic(dataset)


def kafka_settings(bootstrap: str, credentials: Credentials) -> KafkaSettings:
    """Return how the holder of `credentials` reaches the broker at `bootstrap`."""
    tls = TlsSettings(ca_file=credentials.ca_file, certificate_file=credentials.certificate_file, key_file=credentials.key_file)
    return KafkaSettings(bootstrap_servers=bootstrap, tls=tls)


def read(client: Consumer, count: int, *, within: float = 20.0) -> list[Any]:
    """Return the next `count` messages of a consumer; fails when there are fewer within the time, or one is an error."""
    found: list[Any] = []
    deadline = time.monotonic() + within
    while len(found) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(found)} of {count} records within {within:g} s"
        for message in client.consume(count - len(found), timeout=min(left, 0.5)):
            assert message.error() is None, message.error()
            found.append(message)
    return found
