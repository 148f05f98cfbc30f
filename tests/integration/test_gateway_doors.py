"""The doors: which proof opens which, and what is behind none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from featurestore import api as featurestore_api
from gateway.description import OWN
from streams import api as streams_api
from tenancy import api as tenancy_api
from tests.support.doors import described, door, error, operations, raw
from tests.support.stack import NewProject, RunningStack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    return stack.new_project("doors")


@pytest.fixture
def stranger(stack: RunningStack) -> Iterator[httpx.Client]:
    with door(stack) as client:
        yield client


# Proofs


def test_a_key_opens_the_door_as_bearer_and_as_password(stranger: httpx.Client, project: NewProject) -> None:
    as_bearer = stranger.get("/api/v1/whoami", headers={"Authorization": f"Bearer {project.owner.api_key}"})
    as_password = stranger.get("/api/v1/whoami", auth=("anybody", project.owner.api_key))

    assert as_bearer.json() == as_password.json()
    assert as_bearer.json() == {"principal": project.owner.principal, "project": project.name, "role": "data-owner", "door": "outside"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer " + "x" * 4000},
        {"Authorization": "Basic d3Jvbmc6d3Jvbmc="},
        {"Authorization": "Basic not-base64!"},
        {"Authorization": "Digest username=x"},
        {"Cookie": "wardstream_session=wrong"},
        {"Authorization": "Bearer wsk_000000000000_0000000000000000000000000000000000000000000"},
    ],
    ids=["nothing", "empty", "wrong", "long", "wrong-password", "no-base64", "digest", "session", "well-formed"],
)
@pytest.mark.parametrize("path", ["/api/v1/whoami", "/api/v1/projects", "/api/v1/status", "/api/v1/projects/icu-west/datasets"])
def test_without_a_good_key_every_route_answers_unauthenticated(stranger: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = stranger.get(path, headers=headers)

    assert error(answer) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_every_route_but_enrolment_and_login_wants_a_proof(stranger: httpx.Client, stack: RunningStack) -> None:
    opened = []
    for method, path, _ in operations(stack):
        answer = stranger.request(method, re.sub(r"\{\w+\}", "1", path), json={})
        if answer.status_code != 401:
            opened.append(path)

    enrolments = ["/api/v1/enrolments/api-key", "/api/v1/enrolments/certificate"]
    assert opened == [*enrolments, "/api/v1/login/password", "/api/v1/login/setup", "/api/v1/login/setup/finish"]


def test_the_registry_wants_a_proof_in_its_own_shape(stranger: httpx.Client) -> None:
    answer = stranger.get("/registry/subjects")

    assert answer.status_code == 401
    assert answer.json()["error_code"] == 401


# Certificates


def test_an_outside_certificate_opens_the_outside_door(project: NewProject) -> None:
    found = project.owner.rest("outside").whoami()

    assert (found.principal, found.door) == (project.owner.principal, "outside")


def test_an_inside_certificate_opens_the_inside_door(project: NewProject) -> None:
    found = project.owner.rest("inside").whoami()

    assert (found.principal, found.door) == (project.owner.principal, "inside")


@pytest.mark.parametrize("listener", ["outside", "inside", "gateway"])
def test_a_certificate_door_takes_only_its_own_intermediate(stack: RunningStack, project: NewProject, listener: str) -> None:
    outside, inside = project.owner.certificate, project.owner.acting
    platform = stack.home / "pki" / "platform"
    shown = {
        "none": None,
        "outside": (outside.certificate_file, outside.key_file),
        "inside": (inside.certificate_file, inside.key_file),
        "gateway": (platform / "ws-program-worker.crt", platform / "ws-program-worker.key"),
    }

    taken = []
    for name, certificate in shown.items():
        with door(stack, listener, certificate=certificate) as client:
            try:
                client.get("/healthz").raise_for_status()
            except httpx.TransportError:
                continue
            taken.append(name)

    assert taken == [listener]


def test_a_key_counts_for_nothing_at_a_certificate_door(stack: RunningStack, project: NewProject) -> None:
    shown = project.owner.certificate

    with door(stack, "outside", key=project.owner.api_key, certificate=(shown.certificate_file, shown.key_file)) as client:
        assert error(client.get("/api/v1/whoami")) == (401, "unauthenticated")


def test_a_certificate_alone_proves_nothing_and_its_token_counts_beside_it_alone(stack: RunningStack, project: NewProject) -> None:
    other = stack.new_project("doors").owner
    own, foreign = ((each.certificate_file, each.key_file) for each in (project.owner.certificate, other.certificate))
    token = project.owner.rest("outside").transport.door_token()

    with door(stack, "outside", certificate=own) as client:
        answer = client.get("/api/v1/whoami")
        assert error(answer) == (401, "unauthenticated")
        assert "door-challenges" in answer.json()["message"]
        assert client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"}).json()["principal"] == project.owner.principal
        assert client.get("/registry/subjects", auth=("anybody", token)).status_code == 200
    for listener, certificate in (("outside", foreign), ("door", None)):
        with door(stack, listener, key=token, certificate=certificate) as client:
            assert error(client.get("/api/v1/whoami")) == (401, "unauthenticated")


# What is not there


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/internal/v1/revocations",
        "/internal/v1/grants",
        "/%69nternal/v1/revocations",
        "/openapi.json",
        "/docs",
        "/api/v1/certificates/acting",
        "/api/v1/projects/icu-west/execution-grants",
        "/api/internal/v1/grants",
    ],
)
@pytest.mark.parametrize("listener", ["door", "outside"])
def test_what_belongs_to_the_platform_is_not_on_the_doors(stack: RunningStack, project: NewProject, listener: str, path: str) -> None:
    shown = project.owner.certificate
    with door(stack, listener, key=project.owner.api_key, certificate=(shown.certificate_file, shown.key_file)) as client:
        for method in ("GET", "POST"):
            assert error(client.request(method, path, json={})) == (404, "not-found")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/registry/../metrics", 404),
        ("GET", "/registry/%2e%2e/metrics", 404),
        ("GET", "/registry/../internal/v1/feature-groups", 404),
        ("POST", "/registry/%2E./v1/certificates/acting", 404),
        ("GET", "/api/v1/projects/..", 404),
        ("GET", "/api/v1/projects/%2e%2e/members", 404),
        ("DELETE", "/api/v1/projects/../members/..", 404),
        ("GET", "/api/v1/projects/a%3Fb", 422),
        ("GET", "/api/v1/projects/a%23b", 422),
        ("GET", "/api/v1/projects/a%252Fdatasets", 422),
        ("GET", "/api/v1/projects/a%00", 422),
        ("GET", "/api/v1/projects/%ff", 422),
        ("GET", "/api/v1/projects/a%0d%0aX-Extra:%201", 422),
        ("GET", "/api/v1/projects/a?project=%ff%00", 404),
        ("GET", "/api/v1/projects/" + "a" * 9000, 422),
    ],
)
def test_a_path_cannot_be_written_so_that_it_leads_elsewhere(
    stack: RunningStack, project: NewProject, method: str, target: str, status: int
) -> None:
    assert raw(stack, method, target, f"Authorization: Bearer {project.owner.api_key}", "Content-Length: 0")[0] == status


# The description


def test_the_description_names_every_public_route(stack: RunningStack) -> None:
    behind = (tenancy_api.public, featurestore_api.public, streams_api.public)
    expected = _routes(OWN) | {(method, f"/api{path}") for method, path in _routes(behind)}

    assert {(method, path) for method, path, _ in operations(stack)} == expected
    assert len(expected) >= 45


def test_every_route_has_a_short_summary_and_a_name_of_its_own(stack: RunningStack) -> None:
    found = operations(stack)

    assert [path for _, path, operation in found if not 3 <= len(operation.get("summary", "")) <= 80] == []
    assert len({operation["operationId"] for _, _, operation in found}) == len(found)


def test_the_description_is_whole(stack: RunningStack) -> None:
    whole = described(stack)

    assert whole["openapi"].startswith("3.1")
    for reference in _references(whole):
        place: object = whole
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(place, dict)
            assert part in place, reference
            place = place[part]
    for method, path, operation in operations(stack):
        declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path)), path
        assert (method in ("PUT", "PATCH")) <= ("requestBody" in operation), path
        assert any(status.startswith("2") for status in operation["responses"]), path
        assert "default" in operation["responses"], path
        assert "422" not in operation["responses"], path
    # Two paths that differ in a parameter's name alone are one address (OpenAPI 3.1, section 4.8.8).
    assert len({re.sub(r"\{\w+\}", "{}", path) for path in whole["paths"]}) == len(whole["paths"])


def _routes(routers: tuple[APIRouter, ...]) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
