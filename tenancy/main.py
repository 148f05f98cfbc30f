"""The control process: `python -m tenancy.main`; `python -m tenancy.main init` prepares a platform before anything runs."""

from __future__ import annotations

import sys

from tenancy.first_start import initialise
from wardstream.clock import SystemClock
from wardstream.errors import WardstreamError
from wardstream.settings import ControlSettings, load
from wardstream.telemetry import configure_logging


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM, or, with `init`, prepare and return. Both may be repeated."""
    if arguments not in ([], ["init"]):
        sys.stderr.write("usage: python -m tenancy.main [init]\n")
        return 2
    try:
        settings = load(ControlSettings)
        configure_logging("control", settings.log_level)
        clock = SystemClock()
        if arguments:
            initialise(settings, clock)
            return 0
        # Late: `init` goes before everything else at every start, and needs neither a server nor clients of one.
        from tenancy.process import run  # noqa: PLC0415

        run(settings, clock)
    except WardstreamError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
