"""Reading, exporting and checking the audit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from wardstream.audit_export import ExportCheck, verify_export
from wardstream.client.transport import Transport
from wardstream.errors import Invalid

__all__ = ["Audit", "ExportCheck", "verify_export"]


class Audit:
    """The audit as its reader may see it: a project's to its owners, all to an administrator."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def search(
        self,
        *,
        project: str | None = None,
        principal: str | None = None,
        person: str | None = None,
        dataset: str | None = None,
        action: str | None = None,
        surface: str | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Return the newest entries that fit, oldest first, at most `limit` (up to 1000).

        The page before comes with the `place` of the first entry as `before`.
        """
        params = {
            "project": project,
            "by": principal,
            "person": person,
            "dataset": dataset,
            "action": action,
            "surface": surface,
            "outcome": outcome,
            "since": since.isoformat() if since is not None else None,
            "until": until.isoformat() if until is not None else None,
            "text": text,
            "before": before,
            "limit": limit,
        }
        found: list[dict[str, Any]] = self._transport.json("GET", "/api/v1/audit/entries", params=params)
        return found

    def verify(self) -> dict[str, Any]:
        """Let the platform check all its chains against themselves and its signed checkpoints."""
        found: dict[str, Any] = self._transport.json("GET", "/api/v1/audit/verify", timeout_seconds=600)
        return found

    def public_key(self) -> str:
        """Return the key that checkpoints are signed with; keep it where exports are checked."""
        return str(self._transport.json("GET", "/api/v1/audit/public-key")["public_key"])

    def export(self, file: Path, *, project: str | None = None, progress: Callable[[int], None] = lambda _: None) -> int:
        """Write an export to `file`, whole or not at all, and return its bytes; `progress` is told how many came each time."""
        temporary, size = file.with_name(f".{file.name}.part"), 0
        try:
            with (
                temporary.open("wb") as target,
                self._transport.stream("GET", "/api/v1/audit/export", params={"project": project}, timeout_seconds=600) as answer,
            ):
                for part in answer.iter_bytes():
                    target.write(part)
                    size += len(part)
                    progress(len(part))
            temporary.replace(file)
        except OSError as error:
            raise Invalid(f"{file} cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return size
