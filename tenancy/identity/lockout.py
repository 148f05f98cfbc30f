"""How long somebody waits after false logins. Pure but for the counts by source, which are kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import timedelta

_FREE = 5
_FIRST = timedelta(seconds=30)
_MOST = timedelta(hours=1)
_SOURCE_FREE, _SOURCE_SECONDS, _SOURCES = 30, 600.0, 10_000


def wait_after(failures: int) -> timedelta:
    """Return how long the account is locked after so many false logins in a row: not at all for the first, then ever longer."""
    if failures < _FREE:
        return timedelta(0)
    return min(_FIRST * (1 << min(failures - _FREE, 20)), _MOST)


class Sources:
    """False logins by where they came from, whoever they named: guessing one password for many names is held up too. Thread-safe."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def blocked(self, source: str, now: float) -> bool:
        """Return whether too many came from there within ten minutes."""
        with self._lock:
            count, since = self._failures.get(source, (0, now))
        return count >= _SOURCE_FREE and now - since < _SOURCE_SECONDS

    def failed(self, source: str, now: float) -> None:
        """Count a false login."""
        with self._lock:
            count, since = self._failures.pop(source, (0, now))
            if now - since >= _SOURCE_SECONDS:
                count, since = 0, now
            self._failures[source] = (count + 1, since)
            while len(self._failures) > _SOURCES:
                self._failures.popitem(last=False)
