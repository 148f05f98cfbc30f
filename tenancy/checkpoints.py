"""Control's part of the audit: signed checkpoints over all chains, the broker's decisions, the rights chain's copy.

A checkpoint names every chain's head and the checkpoint before it, and is signed with Ed25519 (RFC 8032). It lies beside the
chains and in the topic `_ws-audit`, whose principal can only append. What was cut off a chain after a checkpoint is found by it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tenancy.access import AccessEvent, AccessJournal, found_in
from tenancy.audit import AuditEntry
from tenancy.authorizer_log import BrokerDecision, Place, counted, decision_of, lines_since
from tenancy.repository import Repository
from wardstream.chain import ChainHead, newest_lines, read_lines
from wardstream.client.transport import Transport
from wardstream.clock import Clock
from wardstream.errors import WardstreamError

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 10.0
_PAGE = 1000
# Lines of one minute are counted when the next one has been going on for so long: the broker may write a little late.
_GRACE = timedelta(seconds=2)


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement of where every chain was."""

    number: int
    line: bytes

    @property
    def heads(self) -> Mapping[str, ChainHead]:
        """Where each chain was, by name."""
        return {name: ChainHead(number, seal) for name, (number, seal) in orjson.loads(self.line)["heads"].items()}


class Chains:
    """Every process' chain: control's own, and those that are asked for over the platform's ports."""

    def __init__(self, own: AccessJournal, peers: Mapping[str, Transport]) -> None:
        self._own = own
        self._peers = dict(peers)

    @property
    def names(self) -> list[str]:
        """The names of all chains."""
        return sorted([self._own.process, *self._peers])

    def heads(self) -> dict[str, ChainHead]:
        """Return the heads of the chains that answer."""
        found = {self._own.process: self._own.head}
        for name, transport in self._peers.items():
            try:
                answer = transport.json("GET", "/internal/v1/audit/head", timeout_seconds=2)
            except WardstreamError as error:
                logger.warning("a chain's head is not known at this moment", extra={"chain": name, "reason": error.message})
                continue
            found[name] = ChainHead(int(answer["number"]), str(answer["seal"]))
        return found

    def lines(self, name: str, *, after: int = 0) -> Iterator[bytes]:
        """Yield a chain's lines; raises `Unavailable` while its process is away."""
        if name == self._own.process:
            yield from read_lines(self._own.folder, after=after)
            return
        with self._peers[name].stream("GET", "/internal/v1/audit/lines", params={"after": after}, timeout_seconds=600) as answer:
            left = b""
            for part in answer.iter_bytes():
                whole = (left + part).splitlines(keepends=True)
                left = whole.pop() if whole and not whole[-1].endswith(b"\n") else b""
                yield from whole

    def search(self, name: str, filters: Mapping[str, str | int | bool | None]) -> list[dict[str, Any]]:
        """Return a chain's entries that fit, the newest first; none while its process is away."""
        if name == self._own.process:
            return found_in(self._own.folder, filters)
        try:
            found: list[dict[str, Any]] = self._peers[name].json("GET", "/internal/v1/audit/search", params=filters, timeout_seconds=30)
        except WardstreamError as error:
            logger.warning("a chain cannot be searched at this moment", extra={"chain": name, "reason": error.message})
            return []
        return found


class Auditor:
    """What control does for the audit by itself, in a thread of its own."""

    def __init__(
        self,
        *,
        journal: AccessJournal,
        chains: Chains,
        repository: Repository,
        key: Ed25519PrivateKey,
        authorizer_log: Path,
        mirror: Callable[[bytes], None],
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._chains = chains
        self._repository = repository
        self._key = key
        self._log = authorizer_log
        self._mirror = mirror
        self._clock = clock
        self._file = journal.folder.parent / "checkpoints.log"
        self._newest = _last_checkpoint(self._file)
        self._mirrored, self._place = _cursors(journal.folder)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Copy, count and sign until stopped; what fails is logged and tried again."""
        while not self._stopped.is_set():
            for part in (self.copy_rights, self.count_decisions, self.checkpoint):
                try:
                    part()
                except WardstreamError as error:
                    logger.warning("the audit waits", extra={"reason": error.message, **error.details})
                except Exception:
                    # The thread must live: a fault here would end the checkpoints without a sign.
                    logger.exception("the audit waits")
            self._stopped.wait(_EVERY_SECONDS)

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()

    def copy_rights(self) -> None:
        """Let control's chain follow the chain of rights in the database, entry by entry."""
        while True:
            with self._repository.transaction() as tenancy:
                page = list(tenancy.audit_entries(after=self._mirrored, limit=_PAGE))
            if not page:
                return
            self._journal.record(*(_copied(entry) for entry in page))
            self._mirrored = page[-1].sequence

    def count_decisions(self) -> None:
        """Add what the broker decided in the minutes that are over."""
        ended = (self._clock.now() - _GRACE).isoformat()[:16]
        decisions: list[BrokerDecision] = []
        place = self._place
        for behind, line in lines_since(self._log, self._place):
            decision = decision_of(line)
            if decision is not None and decision.minute >= ended:
                break
            place = behind
            if decision is not None:
                decisions.append(decision)
        if place is None or place == self._place:
            return
        cursor = AccessEvent(
            "ws-control",
            "broker",
            "log.read",
            None,
            None,
            allowed=True,
            more={"cursor": {"inode": place.inode, "begins": place.begins, "offset": place.offset}},
        )
        # The cursor first: what a crash cuts off a write is then missing from the counts, and never counted twice.
        self._journal.record(cursor, *counted(decisions))
        self._place = place

    def checkpoint(self) -> Checkpoint | None:
        """Sign where all chains are, and return it; nothing where none has moved."""
        known = dict(self._newest.heads) if self._newest is not None else {}
        with self._repository.transaction() as tenancy:
            rights = tenancy.audit_head()
        # A chain whose process is away stays where it was: it must not be found shorter afterwards.
        heads = {**known, **self._chains.heads(), "rights": ChainHead(rights.sequence, rights.hash)}
        if heads == known:
            return None
        number = self._newest.number + 1 if self._newest is not None else 1
        before = hashlib.sha256(self._newest.line).hexdigest() if self._newest is not None else ""
        content = {
            "n": number,
            "at": self._clock.now().isoformat(timespec="milliseconds"),
            "heads": {name: [head.number, head.seal] for name, head in sorted(heads.items())},
            "previous": before,
        }
        signature = base64.b64encode(self._key.sign(orjson.dumps(content))).decode()
        made = Checkpoint(number, orjson.dumps({**content, "signature": signature}))
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, made.line + b"\n")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._newest = made
        self._mirror(made.line)
        return made

    def checkpoints(self) -> Iterator[bytes]:
        """Yield all checkpoints, the oldest first."""
        if self._file.exists():
            with self._file.open("rb") as file:
                yield from (line.rstrip(b"\n") for line in file if line.endswith(b"\n"))


def _copied(entry: AuditEntry) -> AccessEvent:
    details = orjson.loads(entry.details)
    more = {"rights": entry.sequence, "decided_at": entry.at, "hash": entry.hash, "subject": entry.subject, "details": details}
    reason = str(details.get("reason", "")) if isinstance(details, dict) else ""
    return AccessEvent(
        entry.principal, "rights", entry.action, entry.project, None, allowed=entry.outcome == "allowed", reason=reason, more=more
    )


def _last_checkpoint(file: Path) -> Checkpoint | None:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return None
    whole = raw.rfind(b"\n") + 1
    if whole != len(raw):
        os.truncate(file, whole)
    if not whole:
        return None
    line = raw[raw.rfind(b"\n", 0, whole - 1) + 1 : whole - 1]
    return Checkpoint(int(orjson.loads(line)["n"]), line)


def _cursors(folder: Path) -> tuple[int, Place | None]:
    """Return how far the rights chain was copied, and the broker's log was read, as the chain itself says."""
    mirrored: int | None = None
    place: Place | None = None
    for line in newest_lines(folder):
        if mirrored is None and b'"rights":' in line:
            mirrored = orjson.loads(line[:-66]).get("rights")
        if place is None and b'"cursor":' in line and (cursor := orjson.loads(line[:-66]).get("cursor")):
            place = Place(cursor["inode"], cursor["begins"], cursor["offset"])
        if mirrored is not None and place is not None:
            break
    return mirrored or 0, place
