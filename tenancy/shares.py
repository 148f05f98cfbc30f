"""Shares and voids in the database: the part of one transaction that is about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, and_, delete, insert, or_, select, update

from tenancy import tables
from tenancy.model import DatasetPermission, Share, SharedIn, ShareState
from wardstream.names import DatasetName, MemberName, ProjectName


@dataclass(frozen=True)
class Void:
    """Grants of a project's people, or of one member, that are not to be taken any more: those signed until `before`.

    `before` is None until it is told for the first time, which is after the change that it stands for was kept.
    """

    id: str
    project: ProjectName
    member: MemberName | None
    decided_at: datetime
    before: datetime | None
    peers: frozenset[str]


class Shares:
    """The shares' part of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, share: Share) -> None:
        """Keep a new share."""
        self._connection.execute(insert(tables.shares).values(**_values(share)))

    def put(self, share: Share) -> None:
        """Keep what became of a share."""
        table = tables.shares
        self._connection.execute(update(table).where(table.c.id == share.id).values(**_values(share)))

    def share(self, share_id: str) -> Share | None:
        """Return the share, whatever became of it, or None."""
        row = self._connection.execute(select(tables.shares).where(tables.shares.c.id == share_id)).one_or_none()
        return None if row is None else _share(row)

    def of_project(self, project: ProjectName) -> list[Share]:
        """Return the shares that the project gives or is offered, the oldest first."""
        table = tables.shares
        query = select(table).where(or_(table.c.project == project, table.c.receiver == project))
        return [_share(row) for row in self._connection.execute(query.order_by(table.c.offered_at, table.c.id))]

    def of_dataset(self, project: ProjectName, dataset: DatasetName) -> list[Share]:
        """Return the shares of one dataset that something can still come of, the oldest first."""
        table = tables.shares
        query = select(table).where(table.c.project == project, table.c.dataset == dataset, table.c.state.in_(_STILL))
        return [_share(row) for row in self._connection.execute(query.order_by(table.c.offered_at, table.c.id))]

    def due(self, now: datetime) -> list[Share]:
        """Return the shares that something could still come of, and whose time is over."""
        table = tables.shares
        return [_share(row) for row in self._connection.execute(select(table).where(table.c.state.in_(_STILL), table.c.expires_at <= now))]

    def opened_to(self, receiver: ProjectName, now: datetime) -> frozenset[SharedIn]:
        """Return what is shared with the project at this moment."""
        return self.opened(now, receiver).get(receiver, frozenset())

    def opened(self, now: datetime, receiver: ProjectName | None = None) -> dict[ProjectName, frozenset[SharedIn]]:
        """Return what is shared at this moment, by receiving project: with one of them, or with all."""
        table, owners = tables.shares, tables.projects
        query = (
            select(table, owners.c.sandboxed)
            .join(owners, owners.c.name == table.c.project)
            .where(
                and_(table.c.state == ShareState.ACCEPTED.value, or_(table.c.expires_at.is_(None), table.c.expires_at > now)),
            )
        )
        if receiver is not None:
            query = query.where(table.c.receiver == receiver)
        found: dict[ProjectName, set[SharedIn]] = {}
        for row in self._connection.execute(query):
            share = _share(row)
            opened = SharedIn(share.project, share.dataset, share.mode, share.columns, bool(row.sandboxed), share.expires_at)
            found.setdefault(share.receiver, set()).add(opened)
        return {project: frozenset(each) for project, each in found.items()}

    # Voids

    def add_void(self, void: Void) -> None:
        """Keep that grants signed until now are void, and who is still to be told."""
        self._connection.execute(insert(tables.voids).values(**_void_values(void)))

    def put_void(self, void: Void) -> None:
        """Keep how far the telling has come."""
        table = tables.voids
        self._connection.execute(update(table).where(table.c.id == void.id).values(**_void_values(void)))

    def void(self, void_id: str) -> Void:
        """Return the void `void_id`, which must have been added; nobody else changes it in this transaction."""
        table = tables.voids
        return _void(self._connection.execute(select(table).where(table.c.id == void_id).with_for_update()).one())

    def voids(self, *, since: datetime | None = None) -> list[Void]:
        """Return what is still to be told, or, with `since`, what was decided after it."""
        table = tables.voids
        query = select(table).order_by(table.c.decided_at)
        if since is not None:
            return [_void(row) for row in self._connection.execute(query.where(table.c.decided_at >= since))]
        return [void for row in self._connection.execute(query) if (void := _void(row)).peers or void.before is None]

    def forget_voids(self, until: datetime) -> None:
        """Drop what was decided until then and every process knows: no grant is that old."""
        done = [void.id for void in self._old(until) if not void.peers and void.before is not None]
        if done:
            self._connection.execute(delete(tables.voids).where(tables.voids.c.id.in_(done)))

    def _old(self, until: datetime) -> Iterable[Void]:
        table = tables.voids
        return [_void(row) for row in self._connection.execute(select(table).where(table.c.decided_at < until))]


_STILL = (ShareState.OFFERED.value, ShareState.ACCEPTED.value)


def _values(share: Share) -> dict[str, object]:
    columns = sorted(share.columns) if share.columns is not None else None
    return {**vars(share), "mode": share.mode.value, "state": share.state.value, "columns": columns}


def _share(row: Row[tuple[object, ...]]) -> Share:
    return Share(
        id=row.id,
        project=ProjectName(row.project),
        dataset=DatasetName(row.dataset),
        receiver=ProjectName(row.receiver),
        mode=DatasetPermission(row.mode),
        columns=frozenset(row.columns) if row.columns is not None else None,
        purpose=row.purpose,
        state=ShareState(row.state),
        expires_at=row.expires_at,
        offered_by=row.offered_by,
        offered_at=row.offered_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        ended_at=row.ended_at,
    )


def _void_values(void: Void) -> dict[str, object]:
    return {**vars(void), "peers": sorted(void.peers)}


def _void(row: Row[tuple[object, ...]]) -> Void:
    member = MemberName(row.member) if row.member is not None else None
    return Void(row.id, ProjectName(row.project), member, row.decided_at, row.before, frozenset(row.peers))
