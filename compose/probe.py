"""Asks a part one real question, to know whether it serves. Every answer is None for ready, or what is missing, in words.

Written on the standard library: what waits for a start must not itself take a second to be imported.
"""

import json
import socket
import ssl
from functools import lru_cache
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from wardstream.errors import Unavailable, error_from
from wardstream.kafka import admin
from wardstream.settings import KafkaSettings, TlsSettings

_SECONDS = 2.0


def launcher_tls(home: Path) -> TlsSettings:
    """Return the certificate that the launcher shows to the parts."""
    platform = home / "pki" / "platform"
    return TlsSettings(
        ca_file=home / "pki" / "root.pem", certificate_file=platform / "ws-launcher.crt", key_file=platform / "ws-launcher.key"
    )


@lru_cache(maxsize=4)
def _context(tls: TlsSettings) -> ssl.SSLContext:
    """Return the context for a certificate; reading keys for each question would cost more than the question."""
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context


def process(port: int, tls: TlsSettings) -> str | None:
    """Ask one of our processes whether it is ready."""
    if (closed := _closed(port)) is not None:
        return closed
    connection = HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=_context(tls))
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as error:
        return _said(error)
    finally:
        connection.close()
    if answer.status == 200:
        return None
    try:
        waiting = json.loads(body)["waiting"]
        return "waits for " + "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"answers {answer.status}"


def ask(port: int, tls: TlsSettings, path: str, body: object, *, seconds: float) -> dict[str, Any]:
    """Return what one of our processes answers to a POST; raises its error, or `Unavailable` when there is no answer in time."""
    connection = HTTPSConnection("127.0.0.1", port, timeout=seconds, context=_context(tls))
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"it {_said(error)}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise error_from(answer.status, found.get("code"), str(found.get("message", f"it answers {answer.status}")))
    return found


def kafka(port: int, tls: TlsSettings) -> str | None:
    """Ask the broker which brokers there are."""
    if (closed := _closed(port)) is not None:
        return closed
    client = admin(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", tls=tls))
    try:
        brokers = client.list_topics(timeout=_SECONDS).brokers
    except KafkaException as error:
        return f"no metadata yet: {error.args[0].name()}"
    return None if brokers else "no broker has registered yet"


def redis(port: int, tls: TlsSettings, password_file: Path) -> str | None:
    """Ask the online store for a PONG, as the user that may do nothing else."""
    try:
        password = password_file.read_text(encoding="utf-8").strip()
        with (
            socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as plain,
            _context(tls).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(f"AUTH ws-launcher {password}\r\nPING\r\n".encode())
            answers = connection.makefile("rb")
            for wanted in (b"+OK", b"+PONG"):
                if not (line := answers.readline()).startswith(wanted):
                    return f"answers {line.decode(errors='replace').strip() or 'nothing'}"
    except OSError as error:
        return _said(error)
    return None


def _closed(port: int) -> str | None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_SECONDS).close()
    except OSError as error:
        return _said(error)
    return None


def _said(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "does not listen yet"
    return f"no answer: {error.__class__.__name__} {getattr(error, 'strerror', None) or error}".strip()
