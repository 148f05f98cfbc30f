"""How many bytes a project's tables and online rows take, and whether there is room for more."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from featurestore.control import Control
from tenancy.quotas import require_room
from wardstream.errors import Unavailable
from wardstream.names import ProjectName

logger = logging.getLogger(__name__)

# Counting reads every name in a project's folder; whoever inserts meanwhile may exceed a quota by what they write in this time.
_KEPT_SECONDS = 2.0


class CountedStore(Protocol):
    """An online store that knows how much it holds."""

    def bytes_used(self) -> int:
        """Return the bytes of the project's rows, those of their keys included."""
        ...


class CountedStores(Protocol):
    """Where the newest rows of each project are."""

    def of(self, project: ProjectName, grant: str) -> CountedStore:
        """Return the project's store for the bearer of `grant`; raises `Unavailable`."""
        ...


@dataclass(frozen=True)
class _Known:
    until: float
    used: Mapping[str, int]
    limits: Mapping[str, int | None]


class Usage:
    """Counts on demand, tells control, and is told the limits. Thread-safe."""

    def __init__(self, *, control: Control, online: CountedStores, warehouse: Path) -> None:
        self._control = control
        self._online = online
        self._warehouse = warehouse
        self._lock = threading.Lock()
        self._known: dict[ProjectName, _Known] = {}

    def require_room(self, project: ProjectName, grant: str) -> None:
        """Return when the project has room for more rows; raises `LimitExceeded` saying limit, use and who can raise it.

        A limit counts from two seconds after it was set. While control or the online store do not answer, what was known last counts.
        """
        with self._lock:
            known = self._known.get(project)
        if known is None or known.until < time.monotonic():
            try:
                known = self._counted(project, grant)
            except Unavailable as error:
                logger.warning("usage of a project is not known", extra={"project": project, "reason": error.message})
        if known is not None:
            for name, used in known.used.items():
                require_room(project, name, known.limits.get(name), used)

    def _counted(self, project: ProjectName, grant: str) -> _Known:
        used = {"bytes_online": self._online.of(project, grant).bytes_used(), "bytes_offline": _bytes_in(self._warehouse / project)}
        known = _Known(time.monotonic() + _KEPT_SECONDS, used, self._control.report_usage(grant, project, used))
        with self._lock:
            self._known[project] = known
        return known


def _bytes_in(folder: Path) -> int:
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            # Compacted or deleted meanwhile.
            continue
    return total
