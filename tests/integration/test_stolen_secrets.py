"""What a thief has who takes everything that one of the platform's processes holds: nothing of any project.

Processes of one OS user could read each other's files (decision 10), so what is taken here is what each was started with: its
environment, and the files that it names. Routes are those of every router there is, so that a new one is tried by itself.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # made in C, not exported by name
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter
from fastapi.routing import APIRoute
from joserfc import jws
from joserfc.jwk import ECKey

import featurestore.main
import gateway.main
import streams.main
import streams.programs.worker
import tenancy.process
from tenancy.grants import GRANT_LIFETIME
from tests.support.stack import NewProject, Person, RunningStack, start
from wardstream.client.credentials import signing_request
from wardstream.errors import WardstreamError
from wardstream.kafka import deliver
from wardstream.processes import recorded

pytestmark = pytest.mark.stack

# Importing them is what brings every router into being.
_PROCESSES = (featurestore.main, gateway.main, streams.main, streams.programs.worker, tenancy.process)
_PORTS = ("control", "query", "stream-worker", "program-worker", "gateway", "door", "outside", "inside")
_LISTENERS = ("client", "worker", "internal", "controller")
# Of the process, and of no project. A challenge is a question: without a caller's key there is no answer to it. A session that is
# not there has ended.
_HARMLESS = {"/healthz", "/readyz", "/api/openapi.json", "/internal/v1/door-challenges", "/internal/v1/sessions/end"}


@dataclass(frozen=True)
class Loot:
    """What a process was started with."""

    process: str
    environment: Mapping[str, str]
    files: Mapping[Path, bytes] = field(repr=False)

    @property
    def certificate(self) -> tuple[Path, Path]:
        found = self.environment
        return Path(found["WARDSTREAM_TLS__CERTIFICATE_FILE"]), Path(found["WARDSTREAM_TLS__KEY_FILE"])

    @property
    def secrets(self) -> list[str]:
        """Every private text that could be a password or a token."""
        return [content.decode("utf-8", "replace").strip() for content in self.files.values()]


def take(stack: RunningStack, process: str) -> Loot:
    """Return what a running process has, as the launcher gave it."""
    record = next(each for each in recorded(stack.home / "processes") if each.name == process)
    pairs = (pair.partition("=") for pair in Path(f"/proc/{record.pid}/environ").read_text().split("\0") if pair)
    environment = {name: value for name, _, value in pairs}
    files = {Path(value): Path(value).read_bytes() for value in environment.values() if value.startswith("/") and Path(value).is_file()}
    return Loot(process, environment, files)


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    made = stack.new_project("loot")
    topic = made.create_topic("vitals", permission="editable")
    made.owner.produce(topic, [b"one", b"two"])
    return made


@pytest.fixture(scope="module")
def execution(project: NewProject, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An execution that has ended: what a worker between executions has had."""
    file = tmp_path_factory.mktemp("program") / "main.py"
    file.write_text("print(1)")
    programs = project.owner.project.programs
    return programs.wait(programs.run(file).id, timeout_seconds=90).id


@pytest.fixture(scope="module")
def looted(stack: RunningStack, project: NewProject, execution: str) -> Iterator[dict[str, Loot]]:
    """What three processes hold; the gateway is stopped then, and started again at the end."""
    found = {name: take(stack, name) for name in ("gateway", "query", "program-worker")}
    record = next(each for each in recorded(stack.home / "processes") if each.name == "gateway")
    os.kill(record.pid, signal.SIGKILL)
    try:
        yield found
    finally:
        start(stack.home)


def described(project: NewProject) -> object:
    """What control says of the project, asked past the gateway."""
    control = project.stack.platform("control", "ws-gateway")
    granted = control.json("POST", "/internal/v1/grants", json={"proof": {"api_key": project.owner.api_key}, "door": "outside"})
    headers = {"Authorization": f"Bearer {granted['grant']}"}
    return [control.json("GET", f"/v1/projects/{project.name}/{part}", headers=headers) for part in ("members", "datasets", "shares")]


def ends(project: NewProject) -> tuple[int, int]:
    """First and next offset of the project's topic."""
    client = project.owner.consumer()
    try:
        found: tuple[int, int] = client.get_watermark_offsets(TopicPartition(project.topic("vitals"), 0), timeout=10)
    finally:
        client.close()
    return found


THIEVES = ["gateway", "query", "program-worker"]


@pytest.fixture(params=THIEVES)
def loot(request: pytest.FixtureRequest, looted: dict[str, Loot]) -> Loot:
    return looted[request.param]


def test_what_is_taken_is_a_certificate_with_its_key_and_no_other_secret(loot: Loot) -> None:
    private = [path.name for path, content in loot.files.items() if b"PRIVATE KEY" in content]
    assert private == [f"ws-{loot.process}.key"]
    if loot.process != "query":
        assert not [name for name in loot.environment if re.search("DATABASE|REDIS|PASSWORD|SECRET|WAREHOUSE", name)]


# Routes


def every_route() -> list[tuple[str, APIRoute]]:
    """Method and route of every router that any process has."""
    routers = [each for each in gc.get_objects() if isinstance(each, APIRouter)]
    found = {
        (method, route.path): route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    return [(method, route) for (method, _), route in sorted(found.items())]


class Asker:
    """Fills paths and bodies with what exists: names of the project, its owner's certificate, an execution."""

    def __init__(self, project: NewProject, execution: str) -> None:
        owner: Person = project.owner
        self.pem = owner.certificate.certificate_file.read_text()
        self.known: dict[str, Any] = {
            "project": project.name, "receiver": project.name, "member": owner.name, "dataset": "vitals", "execution": execution,
            "principal": owner.principal, "certificate": self.pem, "door": "outside", "role": "data-owner", "run_as": None,
            "name": "thief", "owner": "thief", "state": "running", "worker": "cpu-00000000", "version": 1, "generation": 1,
            "csr": signing_request(ec_key()), "nonce": "x", "signature": "eA==", "token": "x", "grant": "x", "confirm": project.name,
            "certificate_sha256": "0" * 64, "proof": {"certificate": self.pem}, "before": time.time() + 60, "member_name": "thief",
        }  # fmt: skip

    def path(self, path: str) -> str:
        return re.sub(r"\{(\w+)(:path)?\}", lambda match: str(self.known.get(match[1], 1)), path)

    def body(self, route: APIRoute) -> object:
        if route.body_field is None:
            return None
        annotation: Any = route.body_field.field_info.annotation
        schema: dict[str, Any] = annotation.model_json_schema() if hasattr(annotation, "model_json_schema") else {}
        return {name: self.known.get(name, _sample(found)) for name, found in schema.get("properties", {}).items() if name in schema["required"]} if schema.get("required") else {}  # fmt: skip


def _sample(schema: Mapping[str, Any]) -> object:
    return {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}.get(str(schema.get("type")))


def ec_key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def forged(loot: Loot, project: NewProject) -> str:
    """A grant in the owner's name, signed with the key that was stolen."""
    key = ECKey.import_key(loot.certificate[1].read_bytes())
    now = int(time.time())
    claims = {
        "iss": "ws-control", "sub": project.owner.principal, "jti": "0", "iat": now, "exp": now + int(GRANT_LIFETIME.total_seconds()),
        "kind": "member", "project": project.name, "member": project.owner.name, "role": "data-owner", "generation": 1, "door": "outside",
        "sandboxed": True, "reads": [], "writes": [], "platform": None, "execution": None,
    }  # fmt: skip
    return jws.serialize_compact({"alg": "ES256", "typ": "JWT"}, json.dumps(claims).encode(), key)


def test_no_route_of_any_process_gives_or_takes_anything(stack: RunningStack, project: NewProject, execution: str, loot: Loot) -> None:
    before, offsets = described(project), ends(project)
    asker, routes, opened, tried = Asker(project, execution), every_route(), [], 0
    context = ssl.create_default_context(cafile=str(stack.root))
    context.load_cert_chain(*loot.certificate)
    allowed = _HARMLESS | ({"/internal/v1/revocations"} if loot.process == "query" else set())
    for port in _PORTS:
        with httpx.Client(base_url=stack.url(port), verify=context, timeout=20, trust_env=False) as client:
            try:
                client.get("/healthz")
            except httpx.TransportError:
                continue
            for method, route in routes:
                bodies = [asker.body(route)]
                if route.path == "/internal/v1/grants":
                    bodies += [{"proof": proof} for proof in stolen_proofs(asker, loot)]
                for body in bodies:
                    for authorization in ({}, {"Authorization": f"Bearer {forged(loot, project)}"}):
                        answer = client.request(
                            method, asker.path(route.path), json=body, headers=authorization, params={"worker": "cpu-00000000", "offset": 0}
                        )
                        tried += 1
                        if project.name in answer.text and answer.status_code < 400:
                            opened.append((port, method, route.path, answer.status_code, "names the project"))
                        if answer.status_code < 400 and route.path not in allowed:
                            opened.append((port, method, route.path, answer.status_code, ""))
                        assert answer.status_code < 500, (port, method, route.path, answer.text)
    assert opened == []
    assert tried >= 300
    assert (described(project), ends(project)) == (before, offsets)


def stolen_proofs(asker: Asker, loot: Loot) -> Iterator[dict[str, object]]:
    """A public certificate as the proof in every way that there was or is, and everything that was taken as a key."""
    digest = {"certificate_sha256": "0" * 64}
    yield {"certificate": asker.pem}
    yield {"door_token": {"token": asker.pem, **digest}}
    for secret in loot.secrets:
        yield {"api_key": secret}
        yield {"session": secret}
        yield {"link": secret}
        yield {"door_token": {"token": secret[:4000], **digest}}


# Brokers


@pytest.mark.parametrize("loot", ["gateway", "query"], indirect=True)
def test_no_listener_of_the_broker_gives_or_takes_anything(stack: RunningStack, project: NewProject, loot: Loot) -> None:
    topic, offsets = project.topic("vitals"), ends(project)
    own = {"gateway": set(), "query": {"_schemas"}}[loot.process]
    for listener in _LISTENERS:
        base: dict[str, Any] = {
            "bootstrap.servers": stack.bootstrap(listener),
            "security.protocol": "ssl",
            "ssl.ca.location": str(stack.root),
            "ssl.certificate.location": str(loot.certificate[0]),
            "ssl.key.location": str(loot.certificate[1]),
            "socket.timeout.ms": 3000,
            "log_level": 0,
        }
        admin = AdminClient(base)
        try:
            seen = set(admin.list_topics(timeout=3).topics)
        except KafkaException:
            # The listener trusts another intermediate, or is the controllers': nothing else is answered there either.
            continue
        assert listener == "internal"
        assert seen == own
        assert succeeded(admin, base, topic, project) == []
    assert ends(project) == offsets


def succeeded(admin: AdminClient, base: Mapping[str, Any], topic: str, project: NewProject) -> list[str]:
    """Return what the broker let the thief do."""
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{project.owner.principal}",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    tries: dict[str, Callable[[], object]] = {
        "produce": partial(_produce, base, topic),
        "produce by transaction": partial(_transaction, base, topic, f"{project.name}.anna.tx"),
        "fetch": partial(_fetch, base, topic),
        "join a group": partial(_join, base, topic, f"{project.name}.anna.readers"),
        "create a topic": lambda: [each.result(5) for each in admin.create_topics([NewTopic(f"{project.name}.more", 1, 1)]).values()],
        "delete a topic": lambda: [each.result(5) for each in admin.delete_topics([topic]).values()],
        "add rights": lambda: [each.result(5) for each in admin.create_acls([binding]).values()],
        "list groups": lambda: _groups(admin, project),
    }
    found = []
    for name, attempt in tries.items():
        try:
            attempt()
        except (KafkaException, Refused, WardstreamError):
            continue
        found.append(name)
    return found


class Refused(Exception):
    """The broker let nothing happen."""


def _produce(base: Mapping[str, Any], topic: str) -> None:
    deliver(Producer({**base, "message.timeout.ms": 3000}), [(topic, None, b"stolen", [])], seconds=5)


def _transaction(base: Mapping[str, Any], topic: str, name: str) -> None:
    client = Producer({**base, "transactional.id": name, "message.timeout.ms": 3000, "transaction.timeout.ms": 3000})
    client.init_transactions(4)


def _fetch(base: Mapping[str, Any], topic: str) -> None:
    client = Consumer({**base, "group.id": "thief", "enable.auto.commit": False})
    try:
        client.assign([TopicPartition(topic, 0, 0)])
        if not [each for each in client.consume(1, 2) if each.error() is None]:
            raise Refused
    finally:
        client.close()


def _join(base: Mapping[str, Any], topic: str, group: str) -> None:
    client = Consumer({**base, "group.id": group, "enable.auto.commit": False})
    try:
        client.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    finally:
        client.close()


def _groups(admin: AdminClient, project: NewProject) -> None:
    found = admin.list_consumer_groups(request_timeout=3).result(4)
    if not [each for each in found.valid if each.group_id.startswith(f"{project.name}.")]:
        raise Refused
