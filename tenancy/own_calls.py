"""When control itself was changing something at the brokers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

# The broker writes its line while control waits for the answer; clocks of two hosts differ a little.
_MARGIN = timedelta(seconds=0.25)
# More of control's own calls than come between two looks at the log.
_CALLS_KEPT = 10_000


class OwnCalls:
    """When control itself was changing something at the broker, so that its lines in the log are told from others' under its name."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._since = now()
        self._calls: deque[tuple[datetime, datetime]] = deque(maxlen=_CALLS_KEPT)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Note that control changes something in this block."""
        begun = self._now()
        try:
            yield
        finally:
            self._calls.append((begun - _MARGIN, self._now() + _MARGIN))

    def at(self, moment: datetime) -> bool:
        """Return whether control was changing something at `moment`, or may have been, before it was started anew."""
        return moment < self._since or any(begun <= moment <= ended for begun, ended in tuple(self._calls))
