"""Who changed rights, quotas or topics at the broker past control, as the authorizer's log says. Pure but for reading the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tenancy.audit import AuditEvent, Detail, Outcome
from tenancy.authorizer_log import LINE, Place, lines_since
from tenancy.differences import Difference
from tenancy.own_calls import OwnCalls
from wardstream.errors import WardstreamError

logger = logging.getLogger(__name__)

# The broker's requests that change what a difference is about.
_REQUESTS = {
    "CreateAcls": "right",
    "DeleteAcls": "right",
    "AlterClientQuotas": "quota",
    "CreateTopics": "topic",
    "DeleteTopics": "topic",
    "CreatePartitions": "topic",
    "AlterConfigs": "topic",
    "IncrementalAlterConfigs": "topic",
}
_CONTROL = "ws-control"
# What an entry of the audit names; the rest is counted.
_MOST_NAMED = 50


@dataclass(frozen=True, order=True)
class Alteration:
    """One change that the broker allowed: who, from where, when, and what it was about (right, quota, topic)."""

    at: datetime
    principal: str
    host: str
    request: str
    kind: str

    def __str__(self) -> str:
        return f"{self.principal} from {self.host} at {self.at.isoformat(timespec='seconds')} ({self.request})"


def alteration_of(line: bytes) -> Alteration | None:
    """Return the change that a line of the log tells of, or None for any other line."""
    if b" is Allowed " not in line:
        return None
    try:
        found = json.loads(line)
        match = LINE.match(found["message"])
        at = datetime.fromisoformat(found["time"])
    except (ValueError, KeyError, TypeError):
        return None
    if match is None or match["decision"] != "Allowed" or match["request"] not in _REQUESTS or match["operation"].startswith("DESCRIBE"):
        return None
    return Alteration(at, match["principal"], match["host"], match["request"], _REQUESTS[match["request"]])


class DriftLog:
    """What was altered since the last look. The place in the log is the caller's to keep."""

    def __init__(self, log: Path, own: OwnCalls) -> None:
        self._log = log
        self._own = own

    def since(self, place: Place | None) -> tuple[Place | None, list[Alteration]]:
        """Return others' changes after `place`, and the place behind them."""
        found: list[Alteration] = []
        try:
            for behind, line in lines_since(self._log, place):
                place = behind
                alteration = alteration_of(line)
                if alteration is not None and not (alteration.principal == _CONTROL and self._own.at(alteration.at)):
                    found.append(alteration)
        except OSError as error:
            # What is not right is put right all the same.
            logger.warning("the authorizer's log cannot be read", extra={"reason": str(error)})
        return place, found


def repairs(
    changes: Iterable[Difference], alterations: Collection[Alteration], failures: Collection[WardstreamError] = ()
) -> list[AuditEvent]:
    """Return an entry for each kind of thing that was put right: what, by name, and who had altered it as far as the broker saw."""
    kinds: dict[str, list[Difference]] = {}
    for difference in changes:
        kinds.setdefault(difference.kind, []).append(difference)
    return [_repair(kind, found, [each for each in alterations if each.kind == kind], failures) for kind, found in sorted(kinds.items())]


def _repair(
    kind: str, found: Collection[Difference], alterations: Collection[Alteration], failures: Collection[WardstreamError]
) -> AuditEvent:
    named = [f"{each.change} {each.subject}{f': {each.detail}' if each.detail else ''}" for each in found]
    details: dict[str, Detail] = {change: sum(each.change == change for each in found) for change in ("create", "alter", "delete")}
    details["what"] = named[:_MOST_NAMED]
    details["altered_by"] = [str(each) for each in sorted(alterations)[-_MOST_NAMED:]]
    if failures:
        details["not_done"] = [each.message for each in failures]
    return AuditEvent(_CONTROL, None, f"{kind}.repair", "cluster", Outcome.ALLOWED, details)
