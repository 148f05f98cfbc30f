"""Datasets shared between projects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wardstream.client.transport import Transport, path_part


@dataclass(frozen=True)
class Share:
    """A dataset that one project lets another use; only in state `accepted` does it open anything.

    `columns` is None for the whole dataset, and names columns where its table alone is shared.
    """

    id: str
    project: str
    dataset: str
    receiver: str
    mode: str
    columns: tuple[str, ...] | None
    purpose: str
    state: str
    expires_at: str | None
    offered_by: str
    decided_by: str | None


@dataclass(frozen=True)
class SharedDataset:
    """A dataset of another project that this one may use; `topic` is None for a share by columns, `table` is its name in SQL."""

    project: str
    name: str
    kind: str
    mode: str
    columns: tuple[str, ...] | None
    topic: str | None
    table: str | None
    purpose: str
    expires_at: str | None
    share: str


@dataclass(frozen=True)
class ShareChanged:
    """A share as it is now; `settled`: every broker and process shows it."""

    share: Share
    settled: bool
    seconds: float


SharedDatasets = list[SharedDataset]


class Shares:
    """What a project gives to others and has from them."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._path = f"/api/v1/projects/{path_part(project)}"

    def list(self) -> list[Share]:
        """Return all shares that the project gives or is offered, ended ones included, the oldest first."""
        return [_share(found) for found in self._transport.json("GET", f"{self._path}/shares")]

    def datasets(self) -> SharedDatasets:
        """Return the datasets that other projects share with this one at this moment."""
        return [
            SharedDataset(**{**found, "columns": _columns(found["columns"])})
            for found in self._transport.json("GET", f"{self._path}/shared-datasets")
        ]

    def offer(
        self,
        dataset: str,
        receiver: str,
        *,
        purpose: str,
        mode: str = "read-only",
        columns: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> Share:
        """Offer a dataset to another project (owners); nothing is open before an owner there accepts.

        `mode` is read-only, editable-by-owners or editable: who of the receiving project may write. With `columns` its table
        alone is shared, read-only. Whether the receiving project exists is not told. Repeating an offer returns it as it is.
        """
        body = {
            "dataset": dataset,
            "receiver": receiver,
            "mode": mode,
            "columns": list(columns) if columns is not None else None,
            "purpose": purpose,
            "expires_at": expires_at.isoformat() if expires_at is not None else None,
        }
        return _share(self._transport.json("POST", f"{self._path}/shares", json=body))

    def accept(self, share: str) -> ShareChanged:
        """Put an offer in force (owners of the receiving project): all its members have the dataset, those who come later too."""
        return _changed(self._transport.json("POST", f"{self._path}/shares/{path_part(share)}/accept"))

    def reject(self, share: str) -> ShareChanged:
        """Refuse an offer (owners of the receiving project)."""
        return _changed(self._transport.json("POST", f"{self._path}/shares/{path_part(share)}/reject"))

    def withdraw(self, share: str) -> ShareChanged:
        """End a share (owners of either side); open consumers of the receiving project are cut."""
        return _changed(self._transport.json("DELETE", f"{self._path}/shares/{path_part(share)}"))


def _columns(found: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(found) if found is not None else None


def _share(found: dict[str, Any]) -> Share:
    values = {name: found[name] for name in Share.__dataclass_fields__}
    return Share(**{**values, "columns": _columns(found["columns"])})


def _changed(found: dict[str, Any]) -> ShareChanged:
    return ShareChanged(_share(found["share"]), found["settled"], found["seconds"])
