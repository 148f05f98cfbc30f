"""From the command to a stack that answers: `wardstream-server up` once everything is set up."""

from __future__ import annotations

import time

from tests.benchmarks.report import Goal, record
from tests.support.stack import run_launcher, start, stop, temporary_home

_RUNS = 3


def main() -> None:
    """Time the first `up` of a new home (keys and databases made too), and later ones."""
    first, later = 0.0, []
    with temporary_home("bench") as home:
        begun = time.monotonic()
        start(home)
        first = time.monotonic() - begun
        for _ in range(_RUNS):
            stop(home)
            begun = time.monotonic()
            start(home)
            later.append(time.monotonic() - begun)
        assert run_launcher(home, "status").returncode == 0
    worst = max([first, *later])
    remark = f"worst of {_RUNS + 1}; first up of a new home {first:.1f} s, later ones {', '.join(f'{each:.1f}' for each in later)} s"
    record("stack_ready", ours=worst, unit="s", goal=Goal("< 15 s", most=15), remark=remark)


if __name__ == "__main__":
    main()
