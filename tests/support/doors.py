"""The gateway's doors as a stranger's HTTP client sees them: answers as they are, nothing turned into our errors."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.stack import RunningStack

# Every code that an error of the doors may have, with its status.
CODES = {
    "invalid": 422,
    "invalid-name": 422,
    "unauthenticated": 401,
    "denied": 403,
    "not-found": 404,
    "conflict": 409,
    "unsafe-change": 409,
    "limit-exceeded": 429,
    "unavailable": 503,
}


@contextmanager
def door(
    stack: RunningStack, listener: str = "door", *, key: str | None = None, certificate: tuple[Path, Path] | None = None
) -> Iterator[httpx.Client]:
    """Give an HTTP client of one listener, with an API key as bearer or with a client certificate."""
    context = ssl.create_default_context(cafile=str(stack.root))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=stack.url(listener), verify=context, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def error(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error; fails where the answer is not of the one shape."""
    body = response.json()
    assert set(body) == {"code", "message"}, body
    assert body["message"]
    return response.status_code, body["code"]


def raw(stack: RunningStack, method: str, target: str, *headers: str) -> tuple[int, bytes]:
    """Return status and body for a request as it is written here, without a body: well-behaved clients mend what is wrong."""
    context = ssl.create_default_context(cafile=str(stack.root))
    lines = [f"{method} {target} HTTP/1.1", "Host: platform", "Connection: close", *headers, "", ""]
    with (
        socket.create_connection(("127.0.0.1", stack.ports["door"]), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall("\r\n".join(lines).encode())
        with connection.makefile("rb") as answer:
            status, _, body = answer.read().partition(b"\r\n\r\n")
    return int(status.split()[1]), body


def described(stack: RunningStack) -> dict[str, Any]:
    """Return the OpenAPI description."""
    with door(stack) as client:
        found: dict[str, Any] = json.loads(client.get("/api/openapi.json").raise_for_status().content)
    return found


def operations(stack: RunningStack) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path and description of every route."""
    paths = described(stack)["paths"]
    return [(method.upper(), path, operation) for path, found in paths.items() for method, operation in found.items()]
