"""Sharing datasets between projects without a copy: offer, accept or reject, withdraw, expire."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from tenancy.model import Dataset, DatasetKind, DatasetPermission, Principal, Share, ShareState, platform_principal
from tenancy.policy import Action
from tenancy.quotas import check
from tenancy.repository import Existence, Transaction
from tenancy.use_cases import UseCases, event_of
from wardstream.errors import Conflict, Invalid, NotFound
from wardstream.names import DatasetName, ProjectName

_LONGEST_PURPOSE = 500
_MOST_COLUMNS = 1000


@dataclass(frozen=True)
class ShareChanged:
    """A share as it is now; `settled` says whether every broker and process shows it."""

    share: Share
    settled: bool
    seconds: float = 0.0


class Sharing(UseCases):
    """The use cases of shares. Rights follow accepted shares alone, for whoever is a member of the receiving project at the time."""

    def shares(self, principal: Principal, project: ProjectName) -> list[Share]:
        """Return what the project gives and is offered, ended shares included, the oldest first."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.SHARE_LIST, project)
            return tenancy.shares.of_project(project)

    def shared_datasets(self, principal: Principal, project: ProjectName) -> list[tuple[Dataset, Share]]:
        """Return what other projects share with this one at this moment, with the share, by owner and name."""
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.SHARE_LIST, project)
            found: list[tuple[Dataset, Share]] = []
            for share in tenancy.shares.of_project(project):
                if share.receiver != project or share.state is not ShareState.ACCEPTED or _over(share, now):
                    continue
                stored = tenancy.dataset(share.project, share.dataset)
                if stored is not None and stored.state is Existence.THERE:
                    found.append((stored.dataset, share))
        return sorted(found, key=lambda one: (one[1].project, one[1].dataset))

    def offer(
        self,
        principal: Principal,
        project: ProjectName,
        dataset: DatasetName,
        *,
        receiver: ProjectName,
        mode: DatasetPermission,
        columns: Collection[str] | None = None,
        purpose: str,
        expires_at: datetime | None = None,
    ) -> Share:
        """Offer a dataset to another project; nothing is open before one of its owners accepts.

        Whether a project of that name exists is not told: an offer to none stays an offer. Repeating one returns it as it
        is. Raises `Denied` for a dataset that is shared with the caller's project: only its own project shares it.
        """
        now = self._clock.now()
        purpose = purpose.strip()
        if not 1 <= len(purpose) <= _LONGEST_PURPOSE:
            raise Invalid(f"say what for: a purpose has 1 to {_LONGEST_PURPOSE} characters, got {len(purpose)}")
        if expires_at is not None and expires_at <= now:
            raise Invalid(f"expires_at is {expires_at.isoformat()}, which is over: give a time to come")
        if columns is not None and not 1 <= len(columns) <= _MOST_COLUMNS:
            raise Invalid(f"name 1 to {_MOST_COLUMNS} columns, or leave columns out to share all of them; got {len(columns)}")
        if columns is not None and mode is not DatasetPermission.READ_ONLY:
            raise Invalid("a share by columns is read-only")
        with self._changing(principal, Action.SHARE_OFFER, f"{project}.{dataset}", project) as tenancy:
            stored = self._dataset(tenancy, principal, Action.SHARE_OFFER, project, dataset)
            self._project(tenancy, principal, Action.SHARE_OFFER, project)
            if receiver == project:
                raise Invalid(f"{project} is the dataset's own project: name the project to share it with")
            if columns is not None and stored.dataset.kind is not DatasetKind.FEATURE_GROUP:
                raise Invalid(f"{dataset} is a topic, which has no columns: share all of it, or a feature group")
            if mode is not DatasetPermission.READ_ONLY and stored.dataset.processors:
                writers = ", ".join(sorted(stored.dataset.processors))
                raise Conflict(f"{dataset} is the result of {writers}, which nobody else writes: share it read-only")
            wanted = Share(
                id=secrets.token_hex(8),
                project=project,
                dataset=dataset,
                receiver=receiver,
                mode=mode,
                columns=frozenset(columns) if columns is not None else None,
                purpose=purpose,
                state=ShareState.OFFERED,
                expires_at=expires_at,
                offered_by=principal.name,
                offered_at=now,
            )
            for before in tenancy.shares.of_dataset(project, dataset):
                if before.receiver != receiver or _over(before, now):
                    continue
                if (before.mode, before.columns, before.expires_at, before.purpose) == (mode, wanted.columns, expires_at, purpose):
                    return before
                raise Conflict(
                    f"{project}.{dataset} is {before.state} to {receiver} already, as share {before.id}: withdraw that one first"
                )
            tenancy.shares.add(wanted)
            tenancy.audit(event_of(principal, Action.SHARE_OFFER, project, f"{project}.{dataset}", **_told(wanted)), now)
            # Both sides keep what concerns them; the receiving one only if it is there.
            if tenancy.project(receiver) is not None:
                tenancy.audit(event_of(principal, Action.SHARE_OFFER, receiver, f"{project}.{dataset}", **_told(wanted)), now)
        return wanted

    def accept(self, principal: Principal, project: ProjectName, share_id: str) -> ShareChanged:
        """Put an offer in force, for an owner of the receiving project; repeating it changes nothing.

        Its members have the dataset when every broker shows it. Raises `Conflict` for an offer that is over, and where rows of a
        sandboxed project would come into an open one.
        """
        now = self._clock.now()
        with self._changing(principal, Action.SHARE_ACCEPT, f"share {share_id[:16]}", project) as tenancy:
            receiving = self._project(tenancy, principal, Action.SHARE_ACCEPT, project)
            share = self._received(tenancy, project, share_id)
            if share.state is ShareState.ACCEPTED and not _over(share, now):
                return ShareChanged(share, settled=True)
            self._require_offered(share, now)
            owning = tenancy.project(share.project)
            stored = tenancy.dataset(share.project, share.dataset)
            if owning is None or stored is None or stored.state is not Existence.THERE:
                raise Conflict(f"share {share.id} is over: {share.project}.{share.dataset} was deleted")
            if owning.sandboxed and not receiving.sandboxed:
                raise Conflict(
                    f"project {project} is open and {share.project} is sandboxed, so that its rows stay inside: "
                    "sandbox this project (`wardstream project alter --sandboxed`) before you accept"
                )
            check(project, "shares", tenancy.quotas.of(project), len(tenancy.shares.opened_to(project, now)))
            share = replace(share, state=ShareState.ACCEPTED, decided_by=principal.name, decided_at=now)
            tenancy.shares.put(share)
            self._check_rows(tenancy, share.project)
            void = self._void(tenancy, project)
            self._audit_both(tenancy, principal, Action.SHARE_ACCEPT, share, now)
        done = self._take_effect([void], [project])
        return ShareChanged(share, done.settled, done.seconds)

    def reject(self, principal: Principal, project: ProjectName, share_id: str) -> ShareChanged:
        """Refuse an offer, for an owner of the receiving project; one in force is withdrawn instead."""
        now = self._clock.now()
        with self._changing(principal, Action.SHARE_ACCEPT, f"share {share_id[:16]}", project) as tenancy:
            self._project(tenancy, principal, Action.SHARE_ACCEPT, project)
            share = self._received(tenancy, project, share_id)
            if share.state is ShareState.REJECTED:
                return ShareChanged(share, settled=True)
            self._require_offered(share, now)
            share = replace(share, state=ShareState.REJECTED, decided_by=principal.name, decided_at=now, ended_at=now)
            tenancy.shares.put(share)
            self._audit_both(tenancy, principal, "share.reject", share, now)
        return ShareChanged(share, settled=True)

    def withdraw(self, principal: Principal, project: ProjectName, share_id: str) -> ShareChanged:
        """End a share, for an owner of either side; its receivers lose the dataset on every surface, also on open connections.

        Requests that wait inside a broker end with the connection, which it closes after five idle seconds.
        """
        now = self._clock.now()
        with self._changing(principal, Action.SHARE_WITHDRAW, f"share {share_id[:16]}", project) as tenancy:
            self._project(tenancy, principal, Action.SHARE_WITHDRAW, project)
            share = tenancy.shares.share(share_id)
            if share is None or project not in (share.project, share.receiver):
                raise NotFound(f"share {share_id[:16]} of project {project} is not there")
            if share.state.over:
                return ShareChanged(share, settled=True)
            in_force = share.state is ShareState.ACCEPTED
            share = replace(share, state=ShareState.WITHDRAWN, ended_at=now)
            tenancy.shares.put(share)
            voids = [self._void(tenancy, share.receiver)] if in_force else []
            self._audit_both(tenancy, principal, Action.SHARE_WITHDRAW, share, now)
        done = self._take_effect(voids, [void.project for void in voids])
        return ShareChanged(share, done.settled, done.seconds)

    def expire(self) -> int:
        """End the shares whose time is over; returns how many."""
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            due = tenancy.shares.due(now)
            voids = []
            for share in due:
                tenancy.shares.put(replace(share, state=ShareState.EXPIRED, ended_at=now))
                if share.state is ShareState.ACCEPTED:
                    voids.append(self._void(tenancy, share.receiver))
                self._audit_both(tenancy, platform_principal("ws-control"), "share.expire", share, now)
        self._take_effect(voids, [void.project for void in voids])
        return len(due)

    def _received(self, tenancy: Transaction, project: ProjectName, share_id: str) -> Share:
        share = tenancy.shares.share(share_id)
        if share is None or share.receiver != project:
            raise NotFound(f"share {share_id[:16]} of project {project} is not there")
        return share

    def _require_offered(self, share: Share, now: datetime) -> None:
        if _over(share, now):
            raise Conflict(f"share {share.id} expired at {share.expires_at:%Y-%m-%d %H:%M} UTC: ask {share.project} for another offer")
        if share.state is not ShareState.OFFERED:
            raise Conflict(f"share {share.id} is {share.state}: only an offer is accepted or rejected")

    def _audit_both(self, tenancy: Transaction, principal: Principal, action: str, share: Share, now: datetime) -> None:
        for project in (share.project, share.receiver):
            tenancy.audit(event_of(principal, action, project, f"{share.project}.{share.dataset}", **_told(share)), now)


def _over(share: Share, now: datetime) -> bool:
    return share.expires_at is not None and share.expires_at <= now


def _told(share: Share) -> dict[str, str | list[str] | None]:
    return {
        "share": share.id,
        "with": share.receiver,
        "mode": share.mode,
        "columns": sorted(share.columns) if share.columns is not None else None,
        "purpose": share.purpose,
        "expires_at": share.expires_at.isoformat() if share.expires_at is not None else None,
    }
