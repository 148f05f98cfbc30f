"""A process' chain for tests of its parts."""

import tempfile
from pathlib import Path

from tenancy.access import AccessJournal
from wardstream.clock import SystemClock


def journal(folder: Path | None = None) -> AccessJournal:
    """Return a chain of its own, in a new folder unless one is given."""
    return AccessJournal(folder or Path(tempfile.mkdtemp(prefix="ws-chain-")), "test", SystemClock())
