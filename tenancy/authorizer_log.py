"""What the broker decided, out of its authorizer's log: counted by principal, resource, operation and minute. Pure but for reading."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from tenancy.access import AccessEvent
from wardstream.errors import InvalidName
from wardstream.names import split_principal, split_topic

# StandardAuthorizer's line; KIP-801.
LINE = re.compile(
    r"Principal = User:(?P<principal>\S+) is (?P<decision>Allowed|Denied) operation = (?P<operation>\S+) from host = (?P<host>\S+) "
    r"on resource = (?P<resource>[A-Za-z]+):(?P<pattern>[A-Z]+):(?P<name>.*) for request = (?P<request>\S+) "
)
_OURS = "ws-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_FIRST_LINE = 4096


@dataclass(frozen=True)
class BrokerDecision:
    """One line: a principal did, or was refused, an operation on a resource, in a minute (ISO 8601, UTC)."""

    minute: str
    principal: str
    operation: str
    resource: str
    name: str
    host: str
    allowed: bool


def decision_of(line: bytes) -> BrokerDecision | None:
    """Return what a line of the log says, or None for any other line."""
    try:
        found = orjson.loads(line)
        match = LINE.match(found["message"])
        minute = str(found["time"])[:16]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if match is None:
        return None
    return BrokerDecision(
        minute=minute,
        principal=match["principal"],
        operation=match["operation"],
        resource=match["resource"],
        name=match["name"],
        host=match["host"],
        allowed=match["decision"] == "Allowed",
    )


def counted(decisions: Iterable[BrokerDecision]) -> list[AccessEvent]:
    """Return one entry for each decision that came, with how often; the platform's own are left out unless they were refused."""
    found = Counter(each for each in decisions if not (each.allowed and each.principal.startswith(_OURS)))
    return [_event(decision, count) for decision, count in sorted(found.items(), key=lambda item: str(item[0]))]


def _event(decision: BrokerDecision, count: int) -> AccessEvent:
    dataset: str | None
    try:
        project, dataset = split_topic(decision.name)
    except InvalidName:
        dataset = None
        try:
            # A group or transactional id begins with the project too; what does not is refused to a member, whose it is then.
            project = split_principal(decision.principal)[0]
        except InvalidName:
            return _named(decision, None, None, count)
    return _named(decision, project, dataset if decision.resource == "Topic" else None, count)


def _named(decision: BrokerDecision, project: str | None, dataset: str | None, count: int) -> AccessEvent:
    return AccessEvent(
        principal=decision.principal,
        surface="broker",
        action=f"{decision.resource.lower()}.{decision.operation.lower()}",
        project=project,
        dataset=dataset,
        allowed=decision.allowed,
        # A group's or transaction's name is the client's to choose: outside of the grammar it may be anything, a patient's name too.
        more={
            "resource": decision.name if _NAME.fullmatch(decision.name) else None,
            "host": decision.host,
            "minute": decision.minute,
            "count": count,
        },
    )


@dataclass(frozen=True)
class Place:
    """How far the log was read: a file by its inode and how it begins, and the byte after the last line that counts."""

    inode: int
    begins: str
    offset: int


def lines_since(log: Path, place: Place | None) -> Iterator[tuple[Place, bytes]]:
    """Yield the log's whole lines after `place`, each with the place behind it, also from files that were rolled over meanwhile.

    Where the file of `place` is not there any more, everything that is left is read: lines may then be missing, none is counted twice.
    """
    files = [file for file in (*(log.with_name(f"{log.name}.{number}") for number in range(9, 0, -1)), log) if file.exists()]
    files.sort(key=lambda file: (file.stat().st_mtime_ns, file == log))
    opened = [(os.open(file, os.O_RDONLY), file) for file in files]
    try:
        # An inode is given out again: a file is known by how it begins too.
        known = [(os.fstat(descriptor).st_ino, _beginning(descriptor)) for descriptor, _ in opened]
        wanted = (place.inode, place.begins) if place is not None else None
        begin = known.index(wanted) if wanted in known else 0
        for (descriptor, _), (inode, begins) in zip(opened[begin:], known[begin:], strict=True):
            offset = place.offset if place is not None and (inode, begins) == wanted else 0
            with os.fdopen(os.dup(descriptor), "rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield Place(inode, begins, offset), line
    finally:
        for descriptor, _ in opened:
            os.close(descriptor)


def _beginning(descriptor: int) -> str:
    """Return what a file is known by: its first line, once it is whole."""
    first, newline, _ = os.pread(descriptor, _FIRST_LINE, 0).partition(b"\n")
    return sha256(first).hexdigest() if newline else ""
