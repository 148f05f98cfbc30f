"""When something that fell is started again: purely, from when it started and fell."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 15.0

# Whoever lives this long is well: the next failure is a first one.
WELL_SECONDS = 30.0

# Waits of 0.25 to 15 s add up to about a minute: longer than a broker takes to come back.
MOST_IN_A_ROW = 10


@dataclass(frozen=True)
class Restarts:
    """How often something was started again, and how many of those in a row ended soon."""

    total: int = 0
    in_a_row: int = 0
    away: int = 0
    """How many of those in a row say nothing about it: what it needs was away."""

    def after(self, lived_seconds: float, *, away: bool = False) -> Restarts:
        """Return the count after one more failure, of something that had lived so long; with `away` it was none of its own."""
        before = Restarts(self.total) if lived_seconds >= WELL_SECONDS else self
        return Restarts(self.total + 1, before.in_a_row + 1, before.away + away)

    def wait_seconds(self) -> float:
        """Return how long to wait before the next start: twice as long each time, up to a bound."""
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** max(0, self.in_a_row - 1))

    def given_up(self) -> bool:
        """Whether starting it again is of no use until somebody has looked."""
        return self.in_a_row - self.away >= MOST_IN_A_ROW

    def forgiven(self) -> Restarts:
        """Return the count after somebody asked to try again."""
        return replace(self, in_a_row=0, away=0)
