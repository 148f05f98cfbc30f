"""Waiting for a condition, with a deadline; nothing in these tests waits for a time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within: float = 10.0, every: float = 0.05) -> T:
    """Return the first true value of `condition`.

    Asks again while it is false or raises an AssertionError or one of our errors; fails with the last of them after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
            if value:
                return value
            last: object = value
        except Exception as error:  # noqa: BLE001 - whatever is wrong now may be right in a moment; it is shown at the end
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; last: {last!r}") from (last if isinstance(last, Exception) else None)
        time.sleep(every)
