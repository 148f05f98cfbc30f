"""The online store of each project, reached as the project's own reading user."""

from __future__ import annotations

import threading
import time

from featurestore.control import Control
from featurestore.online.redis import RedisOnlineStore, connect
from wardstream.names import ProjectName
from wardstream.settings import RedisSettings

# Passwords change with control's secret only; asking again this often lets a change through without a restart.
_KEEP_SECONDS = 300.0


class RedisStores:
    """Opens a project's store at its first read and keeps it for minutes. Thread-safe."""

    def __init__(self, settings: RedisSettings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._lock = threading.Lock()
        self._kept: dict[ProjectName, tuple[float, RedisOnlineStore]] = {}

    def of(self, project: ProjectName, grant: str) -> RedisOnlineStore:
        """Return the project's store for the bearer of `grant`, which control wants to see; raises `Unavailable` when control does not answer."""
        now = time.monotonic()
        with self._lock:
            until, store = self._kept.get(project, (0.0, None))
        if store is not None and now < until:
            return store
        credentials = self._control.store_credentials(grant, project)
        client = connect(self._settings, user=credentials.user, password=credentials.password)
        store = RedisOnlineStore(client, project, credentials.pseudonym_key)
        with self._lock:
            self._kept[project] = (now + _KEEP_SECONDS, store)
        return store
