"""Keeping a certificate good: renewed from half of its life on, with patience."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wardstream.client.credentials import life_of, renew
from wardstream.client.transport import Transport
from wardstream.errors import Unauthenticated, WardstreamError

_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0


def renew_at(begins: datetime, ends: datetime, share: float) -> datetime:
    """Return when to renew: at half of the life, later by `share` (0 to 1) of a tenth of it, so that not all devices come at once."""
    life = ends - begins
    return begins + life / 2 + life * (share / 10)


class RenewalAgent:
    """Renews the certificate in one folder until stopped. `say` is told what happens, never a secret."""

    def __init__(
        self,
        folder: Path,
        transport: Callable[[], Transport],
        *,
        say: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._transport = transport
        self._say = say
        self._now = now
        self._sleep = sleep
        self._share = random.random()  # noqa: S311  # spreads load, guards nothing

    def run(self, *, once: bool = False) -> None:
        """Renew whenever half of the life is over; with `once` at most now. Raises what makes trying again useless."""
        wait = _FIRST_WAIT
        while True:
            begins, ends = life_of(self._folder / "certificate.pem")
            due = renew_at(begins, ends, 0.0 if once else self._share)
            left = (due - self._now()).total_seconds()
            if left > 0:
                if once:
                    self._say(f"not due before {due:%Y-%m-%d %H:%M} UTC")
                    return
                self._sleep(min(left, timedelta(hours=1).total_seconds()))
                continue
            try:
                self._renew()
            except Unauthenticated:
                # Expired, or the membership has ended: only a new token helps.
                raise
            except WardstreamError as error:
                if once or not error.retryable:
                    raise
                self._say(
                    f"not renewed yet, the certificate ends at {ends:%Y-%m-%d %H:%M} UTC: {error.message}; trying again in {wait:.0f} s"
                )
                self._sleep(wait * (0.5 + self._share / 2))
                wait = min(wait * 2, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            if once:
                return

    def _renew(self) -> None:
        transport = self._transport()
        try:
            done = renew(transport, self._folder)
        finally:
            transport.close()
        self._say(f"renewed {done.principal} until {done.expires_at}")
