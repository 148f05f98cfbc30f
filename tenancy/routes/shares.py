"""Shares between projects."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, Field

from tenancy.model import Dataset, DatasetKind, DatasetPermission, Share
from tenancy.routes.context import Body, Caller, Shares, public
from tenancy.sharing import ShareChanged as Changed
from wardstream.names import parse_any_dataset, parse_project, shared_table

# Values


class OfferShare(Body):
    """A dataset to be offered to another project; `columns` share its table alone, read-only."""

    dataset: str
    receiver: str
    mode: DatasetPermission = DatasetPermission.READ_ONLY
    columns: list[str] | None = Field(default=None, max_length=1000)
    purpose: str = Field(max_length=500)
    expires_at: AwareDatetime | None = None


class ShareState(BaseModel):
    """A share, whatever became of it."""

    id: str
    project: str
    dataset: str
    receiver: str
    mode: str
    columns: list[str] | None
    purpose: str
    state: str
    expires_at: datetime | None
    offered_by: str
    offered_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    ended_at: datetime | None


class ShareChanged(BaseModel):
    """A share as it is now, whether every broker and process shows it, and how long that took."""

    share: ShareState
    settled: bool
    seconds: float


class SharedDataset(BaseModel):
    """A dataset that another project shares with this one; a share by columns has no topic."""

    project: str
    name: str
    kind: str
    mode: str
    columns: list[str] | None
    topic: str | None
    table: str | None
    """Its name in SQL, where it is a feature group."""
    purpose: str
    expires_at: datetime | None
    share: str


# Routes


@public.get("/projects/{project}/shares", name="list-shares", summary="What a project gives and is offered")
def list_shares(project: str, principal: Caller, shares: Shares) -> list[ShareState]:
    """Ended ones are among them, with their state."""
    return [_share(share) for share in shares.shares(principal, parse_project(project))]


@public.get("/projects/{project}/shared-datasets", name="list-shared-datasets", summary="Datasets that other projects share with this one")
def list_shared_datasets(project: str, principal: Caller, shares: Shares) -> list[SharedDataset]:
    """Those of shares in force."""
    return [_shared(dataset, share) for dataset, share in shares.shared_datasets(principal, parse_project(project))]


@public.post("/projects/{project}/shares", name="offer-share", summary="Offer a dataset to another project", status_code=201)
def offer_share(project: str, body: OfferShare, principal: Caller, shares: Shares) -> ShareState:
    """Data owners only; nothing is open before an owner of the other project accepts."""
    made = shares.offer(
        principal,
        parse_project(project),
        parse_any_dataset(body.dataset),
        receiver=parse_project(body.receiver),
        mode=body.mode,
        columns=body.columns,
        purpose=body.purpose,
        expires_at=body.expires_at,
    )
    return _share(made)


@public.post("/projects/{project}/shares/{share}/accept", name="accept-share", summary="Put an offered share in force")
def accept_share(project: str, share: str, principal: Caller, shares: Shares) -> ShareChanged:
    """Data owners of the receiving project only."""
    return _changed(shares.accept(principal, parse_project(project), share))


@public.post("/projects/{project}/shares/{share}/reject", name="reject-share", summary="Refuse an offered share")
def reject_share(project: str, share: str, principal: Caller, shares: Shares) -> ShareChanged:
    """Data owners of the receiving project only."""
    return _changed(shares.reject(principal, parse_project(project), share))


@public.delete("/projects/{project}/shares/{share}", name="withdraw-share", summary="End a share")
def withdraw_share(project: str, share: str, principal: Caller, shares: Shares) -> ShareChanged:
    """Data owners of either side; open consumers of the receiving project are cut."""
    return _changed(shares.withdraw(principal, parse_project(project), share))


# Encoding


def _share(share: Share) -> ShareState:
    columns = sorted(share.columns) if share.columns is not None else None
    return ShareState(**{**vars(share), "columns": columns})


def _changed(done: Changed) -> ShareChanged:
    return ShareChanged(share=_share(done.share), settled=done.settled, seconds=done.seconds)


def _shared(dataset: Dataset, share: Share) -> SharedDataset:
    return SharedDataset(
        project=dataset.project,
        name=dataset.name,
        kind=dataset.kind,
        mode=share.mode,
        columns=sorted(share.columns) if share.columns is not None else None,
        topic=dataset.topic if share.columns is None else None,
        table=shared_table(dataset.project, dataset.name) if dataset.kind is DatasetKind.FEATURE_GROUP else None,
        purpose=share.purpose,
        expires_at=share.expires_at,
        share=share.id,
    )
