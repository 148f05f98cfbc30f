"""What must answer while everything else waits: health, errors, the first page, and inserts that wait without a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from gateway.console import pages
from gateway.produce import ProducerPool
from gateway.rows import RowWriter, _Placed
from tests.support.journals import journal
from wardstream.client.transport import Transport
from wardstream.clock import SystemClock
from wardstream.errors import Unavailable
from wardstream.names import parse_project
from wardstream.server import application


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://platform")


def test_health_readiness_and_errors_are_answered_while_every_shared_thread_is_held() -> None:
    app, release = application("test", ready={"broker": lambda: "is away"}), threading.Event()

    @app.get("/held")
    def held() -> None:
        release.wait(30)

    async def scenario() -> list[int]:
        async with _client(app) as client:
            waiting = [asyncio.create_task(client.get("/held")) for _ in range(60)]
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(10):
                    return [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/nowhere", "/metrics")]
            finally:
                release.set()
                await asyncio.gather(*waiting)

    assert asyncio.run(scenario()) == [200, 503, 404, 403]


class _Behind:
    """A process that answers how far a table is; `offsets` are what it says."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.asked = 0

    def acting(self, _: str) -> _Behind:
        return self

    def json(self, method: str, path: str, **_: object) -> Any:
        self.asked += 1
        return self.offsets


def test_a_hundred_inserts_that_wait_hold_no_thread() -> None:
    behind = _Behind()
    transport = cast(Transport, behind)
    writer = RowWriter(
        control=transport, query=transport, streams=transport, producers=cast(ProducerPool, None), journal=journal(), clock=SystemClock()
    )
    written = _Placed(transport, "grant", parse_project("icu-west"), "/offsets", [(0, 4), (1, 2)], ())

    async def scenario() -> list[bool]:
        waiting = [asyncio.create_task(writer._wait(written, 30)) for _ in range(100)]
        async with asyncio.timeout(10):
            while behind.asked < 200:
                await asyncio.sleep(0.01)
            await run_in_threadpool(lambda: None)
            behind.offsets = {"0": 5, "1": 3}
            return await asyncio.gather(*waiting)

    assert asyncio.run(scenario()) == [True] * 100


def test_an_insert_that_waits_is_told_when_the_time_is_over() -> None:
    transport = cast(Transport, _Behind())
    writer = RowWriter(
        control=transport, query=transport, streams=transport, producers=cast(ProducerPool, None), journal=journal(), clock=SystemClock()
    )

    assert asyncio.run(writer._wait(_Placed(transport, "grant", parse_project("icu-west"), "/offsets", [(0, 0)], ()), 0.2)) is False


class _NobodyKnown:
    """Callers while control is away."""

    async def caller(self, request: Request) -> None:
        raise Unavailable("the control process does not answer; try again in a moment")


def test_the_first_page_says_in_html_that_control_does_not_answer() -> None:
    app = application("test", ready={})
    app.include_router(pages.router)
    app.state.callers, app.state.upstreams = _NobodyKnown(), {}

    async def scenario() -> httpx.Response:
        async with _client(app) as client:
            return await client.get("/console/")

    answer = asyncio.run(scenario())
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert "the control process does not answer" in answer.text
