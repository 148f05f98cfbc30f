"""The processes behind the gateway: requests are passed on as they came, with the caller's grant."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping

import httpx
import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from wardstream.client.transport import IDLE_SECONDS
from wardstream.errors import Invalid, NotFound, Unavailable, error_from
from wardstream.settings import TlsSettings
from wardstream.telemetry import request_id

# What a caller may say to, and hear from, a process behind the gateway; everything else stops here.
_REQUEST_HEADERS = ("content-type", "accept")
_ANSWER_HEADERS = ("content-type", "content-disposition", "cache-control", "retry-after", "x-wardstream-snapshot")


class Upstream:
    """One process behind the gateway; its address is reached with the gateway's platform certificate."""

    def __init__(self, name: str, url: str, tls: TlsSettings) -> None:
        context = ssl.create_default_context(cafile=str(tls.ca_file))
        context.load_cert_chain(tls.certificate_file, tls.key_file)
        self.name = name
        self._url = url.rstrip("/")
        # Reads may take as long as the longest query; the process behind sets its own limits and answers in time.
        timeout = httpx.Timeout(300.0, connect=3.0)
        limits = httpx.Limits(max_connections=200, keepalive_expiry=IDLE_SECONDS)
        self._client = httpx.AsyncClient(verify=context, timeout=timeout, trust_env=False, limits=limits)

    async def json(
        self, method: str, path: str, *, json: object = None, grant: str | None = None, headers: Mapping[str, str] | None = None
    ) -> object:
        """Return the answer's JSON value; errors are raised as ours."""
        sent = {**(headers or {}), **_bearer(grant), **_request()}
        if json is not None:
            sent["Content-Type"] = "application/json"
        try:
            response = await self._client.request(
                method, self._url + path, content=orjson.dumps(json) if json is not None else None, headers=sent
            )
        except httpx.TransportError as error:
            raise self._away() from error
        body = orjson.loads(response.content) if response.content else None
        if response.status_code >= 400:
            found = body if isinstance(body, dict) else {}
            raise error_from(response.status_code, found.get("code"), str(found.get("message", "")))
        return body

    async def forward(self, request: Request, grant: str | None, *, below: str = "", more: Mapping[str, str] | None = None) -> Response:
        """Pass the request and its answer on, both as streams, to the same path without `below` in front.

        The process behind reads the very path that was matched here: it goes on as it came, percent signs included, and one
        with `.` or `..` in it, which clients take out on the way, is no address at all.
        """
        if not {".", ".."}.isdisjoint(request.scope["path"].split("/")):
            raise NotFound("no such address: a path has no '.' and '..' in it")
        path = request.scope["raw_path"].decode("ascii").removeprefix(below)
        query = request.scope["query_string"].decode("ascii")
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers} | _bearer(grant) | _request()
        headers |= more or {}
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        if "content-length" in request.headers:
            headers["content-length"] = request.headers["content-length"]
        url = f"{self._url}{path}" + (f"?{query}" if query else "")
        try:
            sent = self._client.build_request(request.method, url, headers=headers, content=request.stream() if has_body else None)
        except httpx.InvalidURL as error:
            raise Invalid(
                "the address cannot be read: at most 60,000 characters, others than letters and digits percent-encoded"
            ) from error
        try:
            response = await self._client.send(sent, stream=True)
        except httpx.TransportError as error:
            raise self._away() from error
        answer = {name: response.headers[name] for name in _ANSWER_HEADERS if name in response.headers}
        return StreamingResponse(_body(response), response.status_code, answer, background=BackgroundTask(response.aclose))

    async def waiting(self) -> str | None:
        """Return what the process still waits for, or None when it is ready."""
        try:
            response = await self._client.get(f"{self._url}/readyz", timeout=3.0)
            found = orjson.loads(response.content)["waiting"]
        except (httpx.TransportError, orjson.JSONDecodeError, KeyError):
            return "no answer"
        return "; ".join(f"{name}: {reason}" for name, reason in found.items()) or None

    def _away(self) -> Unavailable:
        return Unavailable(f"the {self.name} process does not answer; try again in a moment")


async def _body(response: httpx.Response) -> AsyncIterator[bytes]:
    async for chunk in response.aiter_raw():
        yield chunk


def _request() -> dict[str, str]:
    """Return the header that lets the process behind speak of the same request."""
    found = request_id()
    return {"X-Request-Id": found} if found is not None else {}


def _bearer(grant: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {grant}"} if grant else {}
