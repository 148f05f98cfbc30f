"""The few requests of Kafka's protocol that no client library here can send: rows of one named broker, and quotas.

Versions are chosen so that no field is flexible (KIP-482), which keeps each request to a few lines. Encoding and
decoding are pure; `exchange` is the one function that talks.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from wardstream.errors import Unavailable

DESCRIBE_ACLS = (29, 1)
CREATE_ACLS = (30, 1)
DELETE_ACLS = (31, 1)
DESCRIBE_CONFIGS = (32, 1)
DESCRIBE_CLIENT_QUOTAS = (48, 0)
ALTER_CLIENT_QUOTAS = (49, 0)

ANY = 1
_TOPIC = 2
# A value that was set on the topic itself, not one that it has from the cluster.
_SET_ON_TOPIC = 1
ALLOW = 3
_RESOURCES = {2: "topic", 3: "group", 4: "cluster", 5: "transactional id", 6: "delegation token", 7: "user"}
_OPERATIONS = dict(
    enumerate(
        (
            "all",
            "read",
            "write",
            "create",
            "delete",
            "alter",
            "describe",
            "cluster action",
            "describe configs",
            "alter configs",
            "idempotent write",
        ),
        start=2,
    )
)
_MATCH_EXACT, _MATCH_ANY = 0, 2
_UNKNOWN_TOPIC = 3
# More than 10,000 rows answer in about a megabyte; beyond this something other than Kafka is answering.
_LONGEST_ANSWER = 256 * 1024 * 1024


@dataclass(frozen=True, order=True)
class AclRow:
    """One row as the broker keeps it, whatever it may be; the numbers are the protocol's."""

    resource: int
    name: str
    pattern: int
    principal: str
    host: str
    operation: int
    permission: int

    def __str__(self) -> str:
        resource = _RESOURCES.get(self.resource, f"resource {self.resource}")
        operation = _OPERATIONS.get(self.operation, f"operation {self.operation}")
        pattern = {3: "", 4: " and all that begin so"}.get(self.pattern, f" (pattern {self.pattern})")
        host = "" if self.host == "*" else f" from {self.host}"
        return f"{'' if self.permission == ALLOW else 'no '}{operation} on {resource} {self.name}{pattern} for {self.principal}{host}"


def describe_acls_request(principal: str | None) -> bytes:
    """Return the body that asks for all rows, or for those of `principal` (with its `User:`)."""
    return _every_row_of(principal)


def describe_acls_answer(body: bytes) -> frozenset[AclRow]:
    """Return the rows of the answer; raises `Unavailable` with the broker's error."""
    reader = _Reader(body)
    reader.int32()  # throttle time
    reader.fail_on(reader.int16(), reader.text())
    rows: set[AclRow] = set()
    for _ in range(reader.int32()):
        resource, name, pattern = reader.int8(), reader.text() or "", reader.int8()
        for _ in range(reader.int32()):
            principal, host = reader.text() or "", reader.text() or ""
            rows.add(AclRow(resource, name, pattern, principal, host, reader.int8(), reader.int8()))
    return frozenset(rows)


def create_acls_request(rows: Sequence[AclRow]) -> bytes:
    """Return the body that adds `rows`."""
    return struct.pack(">i", len(rows)) + b"".join(map(_row, rows))


def create_acls_answer(body: bytes, rows: Sequence[AclRow]) -> dict[str, str]:
    """Return those of `rows`, which were asked for in this order, that were refused, each with the broker's reason."""
    reader = _Reader(body)
    reader.int32()
    answers = [(reader.int16(), reader.text()) for _ in range(reader.int32())]
    if len(answers) != len(rows):
        raise Unavailable("the broker answers for other rows than were asked for")
    return {str(row): message or f"error {error}" for row, (error, message) in zip(rows, answers, strict=True) if error}


def delete_acls_request(rows: Sequence[AclRow]) -> bytes:
    """Return the body that removes exactly `rows`."""
    return create_acls_request(rows)


def delete_all_acls_request(principal: str) -> bytes:
    """Return the body that removes whatever rows `principal` (with its `User:`) has."""
    return struct.pack(">i", 1) + _every_row_of(principal)


def delete_acls_answer(body: bytes, items: Sequence[object]) -> dict[str, str]:
    """Return those of `items` whose rows were not, or not all, removed, each with the broker's reason."""
    reader = _Reader(body)
    reader.int32()
    refused: dict[str, str] = {}
    count = reader.int32()
    if count != len(items):
        raise Unavailable("the broker answers for other rows than were asked for")
    for item in items:
        error, message = reader.int16(), reader.text()
        for _ in range(reader.int32()):
            of_row, why = reader.int16(), reader.text()
            reader.int8(), reader.text(), reader.int8(), reader.text(), reader.text(), reader.int8(), reader.int8()
            error, message = error or of_row, message or why
        if error:
            refused[str(item)] = message or f"error {error}"
    return refused


def describe_configs_request(topics: Collection[str]) -> bytes:
    """Return the body that asks for every setting of `topics`."""
    resources = b"".join(struct.pack(">b", _TOPIC) + _text(name) + struct.pack(">i", -1) for name in topics)
    return struct.pack(">i", len(topics)) + resources + struct.pack(">?", False)


def describe_configs_answer(body: bytes) -> dict[str, dict[str, str]]:
    """Return topic -> what was set on it, defaults left out; a topic that is not there is left out too.

    Raises `Unavailable` with the broker's error.
    """
    reader = _Reader(body)
    reader.int32()
    found: dict[str, dict[str, str]] = {}
    for _ in range(reader.int32()):
        error, message = reader.int16(), reader.text()
        reader.int8()
        name = reader.text() or ""
        if error != _UNKNOWN_TOPIC:
            reader.fail_on(error, message)
            found[name] = {}
        for _ in range(reader.int32()):
            key, value = reader.text() or "", reader.text()
            reader.int8()  # whether it can be changed
            source = reader.int8()
            reader.int8()  # whether it is a secret
            for _ in range(reader.int32()):
                reader.text(), reader.text(), reader.int8()
            if source == _SET_ON_TOPIC and value is not None:
                found[name][key] = value
    return found


def alter_quotas_request(changes: Mapping[str, Mapping[str, float | None]]) -> bytes:
    """Return the body that sets quotas of users (without `User:`): user -> quota -> value, None to remove it."""
    entries = []
    for user, values in changes.items():
        entity = struct.pack(">i", 1) + _text("user") + _text(user)
        operations = [_text(key) + struct.pack(">d?", value or 0.0, value is None) for key, value in values.items()]
        entries.append(entity + struct.pack(">i", len(operations)) + b"".join(operations))
    return struct.pack(">i", len(entries)) + b"".join(entries) + struct.pack(">?", False)


def alter_quotas_answer(body: bytes) -> dict[str, str]:
    """Return the users whose quotas were refused, each with the broker's reason; all others' were altered."""
    reader = _Reader(body)
    reader.int32()
    refused: dict[str, str] = {}
    for _ in range(reader.int32()):
        error, message = reader.int16(), reader.text()
        names = [(reader.text(), reader.text()) for _ in range(reader.int32())]
        if error:
            refused[dict(names).get("user") or ""] = message or f"error {error}"
    return refused


def describe_quotas_request(user: str | None) -> bytes:
    """Return the body that asks for the quotas of one user, or of all users that have some."""
    match = struct.pack(">b", _MATCH_ANY if user is None else _MATCH_EXACT)
    return struct.pack(">i", 1) + _text("user") + match + _text(user) + struct.pack(">?", True)


def describe_quotas_answer(body: bytes) -> dict[str, dict[str, float]]:
    """Return user -> quota -> value; raises `Unavailable` with the broker's error."""
    reader = _Reader(body)
    reader.int32()
    reader.fail_on(reader.int16(), reader.text())
    found: dict[str, dict[str, float]] = {}
    for _ in range(max(0, reader.int32())):
        names = [(reader.text(), reader.text()) for _ in range(reader.int32())]
        values = {reader.text() or "": reader.float64() for _ in range(reader.int32())}
        user = dict(names).get("user")
        if user is not None:
            found[user] = values
    return found


def exchange(
    address: tuple[str, int], tls: ssl.SSLContext, request: tuple[int, int], bodies: Sequence[bytes], seconds: float
) -> list[bytes]:
    """Send `bodies` one after the other as requests of one kind to the broker at `address` and return the answers.

    Raises `Unavailable` when the broker does not answer all of them, each within `seconds`.
    """
    key, version = request
    host, port = address
    answers: list[bytes] = []
    try:
        with socket.create_connection(address, seconds) as plain, tls.wrap_socket(plain, server_hostname=host) as connection:
            for number, body in enumerate(bodies):
                message = struct.pack(">hhi", key, version, number) + _text("ws-control") + body
                connection.sendall(struct.pack(">i", len(message)) + message)
                (length,) = struct.unpack(">i", _exactly(connection, 4))
                if not 4 <= length <= _LONGEST_ANSWER:
                    raise Unavailable(f"what answers at {host}:{port} is no Kafka broker")
                answers.append(_exactly(connection, length)[4:])
    except OSError as error:
        raise Unavailable(f"the broker at {host}:{port} does not answer", reason=str(error)) from error
    return answers


def _row(row: AclRow) -> bytes:
    resource = struct.pack(">b", row.resource) + _text(row.name) + struct.pack(">b", row.pattern)
    return resource + _text(row.principal) + _text(row.host) + struct.pack(">bb", row.operation, row.permission)


def _every_row_of(principal: str | None) -> bytes:
    return struct.pack(">b", ANY) + _text(None) + struct.pack(">b", ANY) + _text(principal) + _text(None) + struct.pack(">bb", ANY, ANY)


def _exactly(connection: ssl.SSLSocket, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _text(value: str | None) -> bytes:
    if value is None:
        return struct.pack(">h", -1)
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


class _Reader:
    """Reads the protocol's basic types from one answer; a short answer is `Unavailable`."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def int8(self) -> int:
        return int(self._number(">b"))

    def int16(self) -> int:
        return int(self._number(">h"))

    def int32(self) -> int:
        return int(self._number(">i"))

    def float64(self) -> float:
        return self._number(">d")

    def text(self) -> str | None:
        length = self.int16()
        return None if length < 0 else self._take(length).decode()

    def fail_on(self, error: int, message: str | None) -> None:
        if error:
            raise Unavailable(f"the broker refused a request of control (error {error})", reason=message or "")

    def _number(self, form: str) -> float:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        number: float = value
        return number

    def _take(self, length: int) -> bytes:
        part = self._body[self._at : self._at + length]
        if len(part) < length:
            raise Unavailable("the broker's answer ends too early")
        self._at += length
        return part
