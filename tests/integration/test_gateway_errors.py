"""Errors at the door: one shape, the right code, never an accident; and nothing to be learnt of other people's projects."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.limits import limit_of
from tests.support.doors import CODES, door, error, operations, raw
from tests.support.stack import NewProject, RunningStack, fresh
from tests.support.tables import new_table

pytestmark = pytest.mark.stack

_ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


def _arrow(**columns: list[Any]) -> bytes:
    sink, table = io.BytesIO(), pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


_ROWS = _arrow(patient=["a"], at=[datetime(2026, 1, 1, tzinfo=UTC)], heart_rate=[1.0], ward=["x"])

# A body with which each writing route would do what it is for, in a project where the caller may.
_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/datasets"): {"json": {"name": "new"}},
    ("PATCH", "/datasets/{dataset}"): {"json": {"partitions": 2}},
    ("POST", "/feature-groups"): {
        "json": {
            "name": "new",
            "primary_key": ["k"],
            "event_time": "t",
            "features": [{"name": "k", "type": "string"}, {"name": "t", "type": "timestamp"}],
        }
    },
    ("POST", "/feature-groups/{group}/{version}/rows"): {"content": _ROWS, "headers": _ARROW},
    ("PATCH", ""): {"json": {"description": "new"}},
    ("PATCH", "/quota"): {"json": {"limits": {"topics": 10}}},
    ("POST", "/hand-over"): {"json": {"to": "anna"}},
    # Not the name: whoever may close a project shall not close the tests'.
    ("POST", "/close"): {"json": {"confirm": "no"}},
    ("PUT", "/roles/{role}"): {"json": {"base": "observer", "without": ["record.read"]}},
    ("POST", "/shares"): {"json": {"dataset": "notes", "receiver": "elsewhere", "purpose": "study"}},
    ("POST", "/shares/{share}/accept"): {},
    ("POST", "/shares/{share}/reject"): {},
    ("PATCH", "/members/{member}"): {"json": {"role": "observer"}},
    ("POST", "/members/{member}/lost-key"): {"json": {"reason": "lost"}},
    ("POST", "/members"): {"json": {"name": "new", "role": "observer"}},
    ("POST", "/members/{member}/enrolment-token"): {},
    ("POST", "/models"): {"json": {"name": "new"}},
    ("PUT", "/models/{model}/{version}/files/{file}"): {"content": b"bytes"},
    ("POST", "/online-reads"): {"json": {"groups": [{"name": "vitals"}], "entities": {"patient": ["a"]}}},
    ("POST", "/processors"): {"json": {"name": "new", "kind": "ecg_10s", "source": "notes", "result": "vitals_1"}},
    ("POST", "/processors/{processor}/pause"): {},
    ("POST", "/processors/{processor}/resume"): {},
    ("POST", "/programs"): {"json": {"name": "p.py", "files": {"p.py": "cGFzcw=="}}},
    ("PUT", "/services/{member}"): {"json": {"reads": ["notes"]}},
    ("POST", "/sql"): {"json": {"sql": "select 1 from vitals"}},
    ("POST", "/topics/apply"): {"json": {"specification": "topics:\n- name: new\n"}},
    ("POST", "/topics/plan"): {"json": {"specification": "topics:\n- name: new\n"}},
    ("POST", "/topics/{dataset}/records"): {"json": {"records": [{"a": 1}]}},
    ("POST", "/training-data"): {
        "params": {"spec": '{"label_time": "at", "features": [{"group": "vitals", "version": 1}]}'},
        "content": _arrow(patient=["a"], at=[datetime(2026, 1, 1, tzinfo=UTC)]),
        "headers": _ARROW,
    },
}
_VALUES = {
    "dataset": "notes",
    "group": "vitals",
    "version": "1",
    "member": "anna",
    "model": "risk",
    "file": "weights",
    "name": "out.txt",
    "processor": "beats",
    "role": "reader",
    "person": "nobody",
    "session": "0" * 12,
    "key": "0" * 12,
    "share": "0" * 16,
    "execution": "0" * 32,
}
_PREFIX = "/api/v1/projects/{project}"


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    made = stack.new_project("errors")
    made.create_topic("notes")
    return made


@pytest.fixture
def client(stack: RunningStack, project: NewProject) -> Iterator[httpx.Client]:
    with door(stack, key=project.owner.api_key) as found:
        yield found


# Other people's projects


@pytest.mark.parametrize("role", ["data-owner", "data-scientist", "observer"])
def test_a_foreign_project_answers_as_one_that_does_not_exist_on_every_route(stack: RunningStack, project: NewProject, role: str) -> None:
    foreign = new_table(stack).project
    foreign.create_topic("notes")
    unknown = fresh("tables")  # as long as the foreign one's name
    person = project.owner if role == "data-owner" else project.add(role, role)

    told: list[str] = []
    with door(stack, key=person.api_key) as caller:
        for method, path, _ in operations(stack):
            if not path.startswith(_PREFIX):
                continue
            place = path.removeprefix(_PREFIX)
            request = _BODIES.get((method, place), {})
            assert request or method in ("GET", "DELETE") or (method, place) in _BODIES, f"no request is known for {method} {place}"
            answers = []
            for name in (foreign.name, unknown):
                address = path.format(project=name, **_VALUES)
                answer = caller.request(method, address, **request)
                headers = {key: value for key, value in answer.headers.items() if key not in ("date", "x-request-id")}
                answers.append((answer.status_code, headers, answer.content.replace(name.encode(), b"?")))
            # 403 is a refusal of the role, whatever the project; it is the same for both.
            if answers[0] != answers[1] or answers[0][0] not in (404, 403):
                told.append(f"{method} {place}: {answers}")

    assert told == []


def test_an_owner_is_never_told_more_of_a_foreign_project_than_that_it_is_not_there(stack: RunningStack, project: NewProject) -> None:
    foreign = stack.new_project("foreign")

    with door(stack, key=project.owner.api_key) as caller:
        statuses = {
            (method, path): caller.request(
                method, path.format(project=foreign.name, **_VALUES), **_BODIES.get((method, path.removeprefix(_PREFIX)), {})
            ).status_code
            for method, path, _ in operations(stack)
            if path.startswith(_PREFIX)
        }

    assert {key: status for key, status in statuses.items() if status != 404} == {}


# The table of errors


def test_every_error_has_its_code_and_says_what_is_wrong(client: httpx.Client, project: NewProject) -> None:
    own = f"/api/v1/projects/{project.name}"
    cases: list[tuple[str, str, dict[str, Any], str, str]] = [
        ("GET", "/api/v1/projects/nobody", {}, "not-found", "nobody"),
        ("GET", "/api/v1/projects/Icu_West", {}, "invalid-name", "lower-case"),
        ("GET", f"{own}/feature-groups/vitals/1", {}, "not-found", "vitals"),
        ("GET", f"{own}/feature-groups/vitals/0", {}, "invalid", "greater than or equal to 1"),
        ("GET", f"{own}/feature-groups/Vitals/1", {}, "invalid-name", "Vitals"),
        ("GET", f"{own}/feature-groups/vitals/1/rows?limit=0", {}, "invalid", "limit"),
        ("POST", f"{own}/feature-groups/vitals/1/rows", {"content": _ROWS}, "not-found", "vitals"),
        ("POST", f"{own}/feature-groups/VITALS/1/rows", {"content": _ROWS}, "invalid-name", "VITALS"),
        ("POST", f"{own}/feature-groups/vitals/x/rows", {"content": _ROWS}, "invalid", "version"),
        ("POST", f"{own}/feature-groups/vitals/1/rows?timeout=0", {"content": _ROWS}, "invalid", "timeout"),
        ("PATCH", f"{own}/datasets/nothing", {"json": {"partitions": 2}}, "not-found", "nothing"),
        ("DELETE", f"{own}/datasets/Nothing", {}, "invalid-name", "Nothing"),
        ("POST", f"{own}/datasets", {"json": {"name": "ecg_10"}}, "invalid-name", "version"),
        ("POST", f"{own}/datasets", {"json": {"name": "ecg", "partitions": 0}}, "invalid", "from 1 to"),
        ("POST", f"{own}/datasets", {"json": {"name": "ecg", "colour": "red"}}, "invalid", "colour"),
        ("POST", f"{own}/datasets", {"json": {"name": "ecg", "config": {"retention": "1"}}}, "invalid", "retention"),
        ("PATCH", f"{own}/datasets/notes", {"json": {"permission": "everybody"}}, "invalid", "editable-by-owners"),
        ("POST", f"{own}/topics/nothing/records", {"json": {"records": [{}]}}, "not-found", "nothing"),
        ("POST", f"{own}/topics/notes/records", {"json": {"records": {}}}, "invalid", "array"),
        ("POST", f"{own}/topics/notes/records", {"json": {"records": [0] * 10_001}}, "invalid", "10000"),
        ("POST", f"{own}/topics/apply", {"json": {"specification": "topics: {"}}, "invalid", "YAML"),
        ("POST", f"{own}/topics/plan", {"json": {"specification": "topics:\n- name: X\n"}}, "invalid", "lower-case"),
        ("POST", f"{own}/members", {"json": {"name": "bob", "role": "king"}}, "invalid", "data-scientist"),
        ("POST", f"{own}/members", {"json": {"name": "Bob", "role": "observer"}}, "invalid-name", "Bob"),
        ("POST", f"{own}/members", {"json": {"name": "bed", "role": "device", "writes": ["nothing"]}}, "not-found", "nothing"),
        ("DELETE", f"{own}/members/nobody", {}, "not-found", "nobody"),
        ("POST", f"{own}/members/nobody/enrolment-token", {}, "not-found", "nobody"),
        ("POST", "/api/v1/projects", {"json": {"name": "new", "owner": "anna"}}, "denied", "administrator"),
        ("POST", f"{own}/sql", {"json": {"sql": "drop table vitals"}}, "invalid", "SELECT"),
        ("POST", f"{own}/processors", {"json": {"name": "a", "kind": "b", "source": "notes", "result": "notes"}}, "not-found", "ecg_10s"),
        ("GET", f"{own}/processors/nothing", {}, "not-found", "nothing"),
        ("GET", f"{own}/programs/nothing", {}, "not-found", "nothing"),
        ("POST", f"{own}/programs", {"json": {"name": "p.py", "files": {"p.py": "#"}}}, "invalid", "base64"),
        ("GET", f"{own}/processors/x/logs?tail=0", {}, "invalid", "tail"),
        ("GET", f"{own}/models/nothing/1", {}, "not-found", "nothing"),
        ("GET", "/api/v1/audit?limit=0", {}, "invalid", "limit"),
        ("POST", f"{own}/sql", {"content": b"{"}, "invalid", "JSON"),
        (
            "POST",
            f"{own}/sql",
            {"content": b'{"sql": "select 1"}', "headers": {"Content-Type": "text/plain"}},
            "invalid",
            "application/json",
        ),
        ("POST", f"{own}/topics/plan", {"content": b"topics: []", "headers": {"Content-Type": "text/yaml"}}, "invalid", "application/json"),
        ("POST", f"{own}/sql", {"json": []}, "invalid", "body"),
        ("POST", f"{own}/sql", {}, "invalid", "body"),
    ]

    wrong = []
    for method, address, request, code, words in cases:
        answer = client.request(method, address, **request)
        found = error(answer)
        if found != (CODES[code], code) or words not in answer.json()["message"]:
            wrong.append(f"{method} {address}: {found} {answer.json()['message']!r}, not {code} with {words!r}")

    assert wrong == []


def test_a_gateway_that_cannot_start_says_why_in_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-m", "gateway.main"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "WARDSTREAM_" in done.stderr


def test_a_method_that_is_not_there_is_named(client: httpx.Client) -> None:
    answer = client.put("/api/v1/whoami")

    assert error(answer) == (405, "invalid")
    assert "PUT is not possible" in answer.json()["message"]
    assert answer.headers["allow"] == "GET"


def test_no_request_makes_an_accident(client: httpx.Client, stack: RunningStack, project: NewProject) -> None:
    junk = ["x" * 300, "%00", "%F0%9F%92%94", "-1", "9" * 30, "a%20b", "{}", "'", "%2e"]
    bodies: list[bytes] = [b"", b"{}", b"null", b"[[]]", b'{"name": null}', b"\xff\xfe", b'{"a": 1e999}', b'"' + b"a" * 5000 + b'"']

    wrong_values: list[Any] = ["", "x" * 5000, -1, None, [], {"": ""}]
    accidents = []
    for method, path, operation in operations(stack):
        filled = path.replace("{project}", project.name)
        for number, value in enumerate(junk):
            address = re.sub(r"\{\w+\}", value, filled)
            body = bodies[number % len(bodies)]
            request: dict[str, Any] = {"content": body, "headers": {"Content-Type": "application/json"}} if method != "GET" else {}
            answer = client.request(method, address, **request)
            known = answer.status_code < 300 or (answer.status_code, answer.json().get("code")) in {(s, c) for c, s in CODES.items()}
            if not known:
                accidents.append(f"{method} {address} {body!r}: {answer.status_code} {answer.text[:200]}")
        # Fields of the right names with values of the wrong kind.
        schema = _schema_of(operation, stack)
        for wrong in wrong_values if schema else ():
            answer = client.request(method, path.format(project=project.name, **_VALUES), json=dict.fromkeys(schema, wrong))
            if answer.status_code >= 500:
                accidents.append(f"{method} {path} {schema} = {wrong!r}: {answer.text[:200]}")

    assert accidents == []


def _schema_of(operation: dict[str, Any], stack: RunningStack) -> list[str]:
    """Return the names of the fields of a JSON request."""
    found = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = found.get("$ref", "").rpartition("/")[2]
    if not name:
        return []
    from_all = _components(stack)
    return list(from_all[name].get("properties", {}))


def _components(stack: RunningStack) -> dict[str, Any]:
    with door(stack) as client:
        found: dict[str, Any] = client.get("/api/openapi.json").json()["components"]["schemas"]
    return found


# Enrolment


def _request(key: CertificateIssuerPrivateKeyTypes) -> str:
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return built.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "words"),
    [
        (_request(rsa.generate_private_key(65537, 2048)), "P-256"),
        (_request(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        ("not a request", "PEM"),
        ("", "PEM"),
    ],
    ids=["rsa", "p-384", "text", "empty"],
)
def test_a_signing_request_that_cannot_be_answered_leaves_the_token_for_a_better_one(
    client: httpx.Client, project: NewProject, csr: str, words: str
) -> None:
    token = project.owner.project.add_member(fresh("bed"), "device", writes=["notes"]).token

    refused = client.post("/api/v1/enrolments/certificate", json={"token": token, "csr": csr})
    taken = client.post("/api/v1/enrolments/certificate", json={"token": token, "csr": _request(ec.generate_private_key(ec.SECP256R1()))})

    assert error(refused) == (422, "invalid")
    assert words in refused.json()["message"]
    assert taken.status_code == 200


def test_a_token_works_once(client: httpx.Client, project: NewProject) -> None:
    token = project.owner.project.add_member(fresh("eve"), "observer").token

    first = client.post("/api/v1/enrolments/api-key", json={"token": token})
    second = client.post("/api/v1/enrolments/api-key", json={"token": token})
    wrong = client.post("/api/v1/enrolments/api-key", json={"token": "wst_wrong"})

    assert first.status_code == 200
    assert error(second) == error(wrong) == (401, "unauthenticated")
    assert "used already" in second.json()["message"]


def test_a_scientist_of_a_sandboxed_project_gets_no_certificate_and_is_told_what_to_do(client: httpx.Client, project: NewProject) -> None:
    token = project.owner.project.add_member(fresh("sven"), "data-scientist").token

    answer = client.post("/api/v1/enrolments/certificate", json={"token": token, "csr": _request(ec.generate_private_key(ec.SECP256R1()))})

    assert error(answer) == (403, "denied")
    assert "API key" in answer.json()["message"]


# Bodies


@pytest.mark.parametrize("place", ["plan", "apply", "notes/records"])
def test_nobody_has_a_body_read_before_it_is_known_who_sends_it(stack: RunningStack, project: NewProject, place: str) -> None:
    address = f"/api/v1/projects/{project.name}/topics/{place}"

    # Less is sent than announced: whoever reads the body first would wait for the rest.
    status, body = raw(stack, "POST", address, "Content-Type: application/json", f"Content-Length: {limit_of(address)}")

    assert status == 401
    assert b"unauthenticated" in body


@pytest.mark.parametrize("place", ["api-key", "certificate"])
def test_a_body_of_an_enrolment_is_small(stack: RunningStack, place: str) -> None:
    status, body = raw(stack, "POST", f"/api/v1/enrolments/{place}", "Content-Type: application/json", f"Content-Length: {(64 << 10) + 1}")

    assert status == 429
    assert b"64 KiB" in body


@pytest.mark.parametrize("place", ["sql", "topics/plan", "topics/notes/records", "feature-groups/vitals/1/rows", "training-data"])
def test_a_body_that_says_it_is_too_large_is_not_read(stack: RunningStack, project: NewProject, place: str) -> None:
    address = f"/api/v1/projects/{project.name}/{place}"

    status, body = raw(stack, "POST", address, f"Authorization: Bearer {project.owner.api_key}", f"Content-Length: {limit_of(address) + 1}")

    assert status == 429
    assert b"limit-exceeded" in body
    assert b"MiB" in body


@pytest.mark.parametrize("place", ["sql", "topics/plan", "topics/notes/records"])
def test_a_body_that_turns_out_too_large_is_refused(client: httpx.Client, project: NewProject, place: str) -> None:
    address = f"/api/v1/projects/{project.name}/{place}"

    def parts() -> Iterator[bytes]:
        for _ in range((limit_of(address) >> 20) + 2):
            yield b" " * (1 << 20)

    try:
        answer = client.post(address, content=parts(), headers={"Content-Type": "application/json"})
    except httpx.TransportError:
        return  # refused while it was still being sent: the connection is closed
    assert error(answer) == (429, "limit-exceeded")
