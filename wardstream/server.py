"""Serving HTTP: TLS with client certificates, health and metrics, errors from one table.

Every process of ours is served by `serve`. The caller's certificate, where one was shown, lies in
`request.scope["extensions"]["tls"]["client_certificate"]` (DER); the handshake has verified it already.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import uvicorn
from anyio import CapacityLimiter, to_thread
from cryptography import x509
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wardstream.errors import Denied, Unauthenticated, WardstreamError, error_from
from wardstream.settings import ProcessSettings, TlsSettings
from wardstream.telemetry import begin_request

logger = logging.getLogger(__name__)

_REQUESTS = Counter("wardstream_requests_total", "Requests answered", ["route", "method", "status"])
_SECONDS = Histogram("wardstream_request_seconds", "Time to answer a request", ["route", "method"])

_CHECKS = 4

# Whoever runs the platform. Reasons and metrics name projects, which no other process has to know.
_OPERATORS = frozenset({"ws-launcher"})
_NOT_READY = "not ready; `wardstream-server status` says why"

# A check returns nothing when all is well, else what is missing, in words that may be shown.
ReadyCheck = Callable[[], str | None]


@dataclass(frozen=True)
class Listener:
    """One port of a process."""

    host: str
    port: int
    tls: ssl.SSLContext


def server_context(tls: TlsSettings, *, clients: Path | None) -> ssl.SSLContext:
    """Return a TLS 1.3 server context; with `clients`, a certificate issued by exactly that intermediate is required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    if clients is not None:
        context.load_verify_locations(cafile=clients)
        # Only the one intermediate is trusted, not the root: OpenSSL calls that a partial chain.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_certificate(request: Request) -> x509.Certificate | None:
    """Return the certificate that the caller showed in the handshake, or None on a port that asks for none."""
    der = request.scope.get("extensions", {}).get("tls", {}).get("client_certificate")
    return _certificate(der) if der else None


def peer_name(request: Request) -> str:
    """Return the common name of the caller's certificate; raises `Unauthenticated` without one."""
    certificate = client_certificate(request)
    if certificate is None:
        raise Unauthenticated("this address wants a client certificate")
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _operates(request: Request) -> bool:
    return client_certificate(request) is not None and peer_name(request) in _OPERATORS


def application(title: str, *, ready: Mapping[str, ReadyCheck]) -> FastAPI:
    """Return an app with /healthz, /readyz, /metrics, request metrics and the error handlers."""
    # A description of every route, the platform's own included, is nothing for whoever reaches the port.
    app = FastAPI(title=title, openapi_url=None, docs_url=None, redoc_url=None)
    install_errors(app)

    app.add_middleware(_Measured)

    # None of these needs a thread that a route may hold: that a process is busy is no reason to take it for dead.
    threads = CapacityLimiter(_CHECKS)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    def missing() -> dict[str, str]:
        return {name: reason for name, check in ready.items() if (reason := check())}

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> JSONResponse:
        # A check may ask another process.
        waiting = await to_thread.run_sync(missing, limiter=threads)
        if not _operates(request):
            waiting = dict.fromkeys(waiting, _NOT_READY)
        return JSONResponse({"ready": not waiting, "waiting": waiting}, status_code=503 if waiting else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if not _operates(request):
            raise Denied("metrics name projects and datasets: they are for the launcher's certificate")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def install_errors(app: FastAPI) -> None:
    """Answer every error as {"code", "message"}; what nobody foresaw is logged and answered without detail."""

    @app.exception_handler(WardstreamError)
    async def known(request: Request, error: WardstreamError) -> JSONResponse:
        if error.status >= 500:
            logger.warning(
                "request failed", extra={"route": request.url.path, "code": error.code, "reason": error.message, **error.details}
            )
        headers = {"Retry-After": "1"} if error.retryable else None
        if error.status == 401:
            # RFC 9110 section 15.5.2. Basic is understood too, and not named: a browser would ask for a password.
            headers = {"WWW-Authenticate": 'Bearer realm="wardstream"'}
        return JSONResponse({"code": error.code, "message": error.message}, status_code=error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # The values themselves are left out: they may be a patient's.
        faults = "; ".join(f"{'.'.join(str(p) for p in fault['loc'])}: {fault['msg']}" for fault in error.errors())
        kind = request.headers.get("content-type", "")
        if any(tuple(fault["loc"]) == ("body",) for fault in error.errors()) and "json" not in kind:
            faults = f"the body must be JSON, sent as Content-Type: application/json, got {ascii(kind[:60]) if kind else 'none'}"
        return JSONResponse({"code": "invalid", "message": faults}, status_code=422)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        answer = error_from(error.status_code, "invalid" if error.status_code == 405 else None, str(error.detail))
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no such address: {request.method} {request.url.path}"
        elif error.status_code == 405:
            message = f"{request.method} is not possible at {request.url.path}"
        return JSONResponse({"code": answer.code, "message": message}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        logger.error("unforeseen error", extra={"route": request.url.path}, exc_info=error)
        return JSONResponse(
            {"code": "internal", "message": "something went wrong here; the log of this process says what"}, status_code=500
        )


def platform_listener(settings: ProcessSettings) -> Listener:
    """Return the port of a process that only other platform processes may call."""
    return Listener(settings.host, settings.port, server_context(settings.tls, clients=settings.platform_ca_file))


def serve(app: FastAPI, listeners: Sequence[Listener], *, on_stop: Callable[[], None] = lambda: None) -> None:
    """Serve `app` on all listeners until SIGTERM or SIGINT; open requests get 3 s to end, then `on_stop` runs."""
    asyncio.run(_serve(app, listeners))
    on_stop()


async def _serve(app: FastAPI, listeners: Sequence[Listener]) -> None:
    servers = []
    for number, listener in enumerate(listeners):
        config = uvicorn.Config(
            app,
            host=listener.host,
            port=listener.port,
            http=_WithClientCertificate,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            lifespan="off" if number else "auto",
        )
        config.load()
        config.ssl = listener.tls
        servers.append(_Server(config))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve() for server in servers))


class _Measured:
    """Counts and times requests by route; plain ASGI, so that streamed answers stay streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        # At a door anybody may send the header; what it says would be in logs and in the audit.
        told = None
        if _from_a_process(scope):
            told = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
        request = begin_request(told).encode()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request)]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            _REQUESTS.labels(route, scope["method"], status).inc()
            _SECONDS.labels(route, scope["method"]).observe(time.perf_counter() - start)


def _from_a_process(scope: Scope) -> bool:
    """Return whether the caller showed a platform certificate; the handshake has verified it, and no member's name begins so."""
    der = scope.get("extensions", {}).get("tls", {}).get("client_certificate")
    if not der:
        return False
    return str(_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value).startswith("ws-")


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`: several servers share one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WithClientCertificate(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der:
            self.scope.setdefault("extensions", {})["tls"] = {"client_certificate": der}


@lru_cache(maxsize=4096)
def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)
