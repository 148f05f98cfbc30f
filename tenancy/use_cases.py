"""What all use cases of tenancy share: they find, decide, and keep refusals too; what they changed is carried outside."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from tenancy.audit import AuditEvent, Detail, Outcome
from tenancy.credentials import Holder
from tenancy.grants import StaleGrant
from tenancy.model import Dataset, Member, MemberState, Principal, PrincipalKind, Project, ProjectState, ShareState
from tenancy.policy import Action, decide, require
from tenancy.quotas import check_rows
from tenancy.reconcile import Reconciler, Settlement
from tenancy.repository import Existence, Repository, Revocation, Step, StoredDataset, Transaction
from tenancy.revocation import Revoker
from tenancy.shares import Void
from wardstream.clock import Clock
from wardstream.errors import Conflict, Denied, NotFound, Unauthenticated, Unavailable, WardstreamError
from wardstream.names import DatasetName, MemberName, ProjectName

logger = logging.getLogger(__name__)


class UseCases:
    """Base of the services; the parts that they are made of."""

    def __init__(self, *, repository: Repository, reconciler: Reconciler, revoker: Revoker, clock: Clock) -> None:
        self._repository = repository
        self._reconciler = reconciler
        self._revoker = revoker
        self._clock = clock

    @contextmanager
    def _changing(self, principal: Principal, action: Action, subject: str, project: ProjectName | None) -> Iterator[Transaction]:
        """Yield a transaction for a change of rights; a refusal is undone, and kept as an entry of its own."""
        try:
            with self._repository.transaction() as tenancy:
                self._current(tenancy, principal)
                yield tenancy
        except (Denied, NotFound) as refusal:
            own = principal.project if project is not None and principal.kind is PrincipalKind.MEMBER else project
            event = AuditEvent(principal.name, own, action, subject[:200], Outcome.REFUSED, {"reason": refusal.message[:500]})
            with self._repository.transaction() as tenancy:
                tenancy.audit(event, self._clock.now())
            raise

    def _current(self, tenancy: Transaction, principal: Principal) -> None:
        """Refuse a grant whose bearer was removed a moment ago; asked in the transaction of what it wants to do."""
        if principal.project is None or principal.member is None:
            return
        member = tenancy.member(principal.project, principal.member)
        if member is None or member.state is not MemberState.ACTIVE or member.generation != principal.generation:
            raise Unauthenticated(f"{principal.name} is no longer a member of {principal.project}")
        # A key's scopes may leave out more than the role does.
        if member.role is not principal.role or not member.without <= principal.without:
            raise StaleGrant("rights have changed since this grant was signed: ask again")

    def _project(self, tenancy: Transaction, principal: Principal, action: Action, name: ProjectName) -> Project:
        require(decide(principal, action, project=name), f"project {name}")
        project = tenancy.project(name)
        if project is None:
            raise NotFound(f"project {name} is not there")
        if project.state is not ProjectState.ACTIVE and principal.kind is PrincipalKind.MEMBER:
            raise Conflict(f"project {name} is being closed")
        return project

    def _member(self, tenancy: Transaction, project: ProjectName, name: MemberName) -> Member:
        member = tenancy.member(project, name)
        if member is None or member.state is not MemberState.ACTIVE:
            raise NotFound(f"member {name} of project {project} is not there")
        return member

    def _dataset(
        self, tenancy: Transaction, principal: Principal, action: Action, project: ProjectName, name: DatasetName
    ) -> StoredDataset:
        thing = f"dataset {project}.{name}"
        # Whoever may not know the project gets the answer for a dataset, as for one that is not there.
        if not decide(principal, Action.DATASET_LIST, project=project).visible:
            raise NotFound(f"{thing} is not there")
        stored = tenancy.dataset(project, name)
        if stored is None or stored.state is Existence.DELETING:
            raise NotFound(f"{thing} is not there")
        require(decide(principal, action, stored.dataset), thing)
        return stored

    def _existing(self, tenancy: Transaction, project: ProjectName, names: Collection[DatasetName]) -> list[Dataset]:
        found = {stored.dataset.name: stored.dataset for stored in tenancy.datasets(project) if stored.state is Existence.THERE}
        for name in sorted(names):
            if name not in found:
                raise NotFound(f"dataset {project}.{name} is not there: create it first")
        return [found[name] for name in sorted(set(names))]

    def _settle(self, project: ProjectName) -> None:
        if not self._reconciler.settle(project).settled:
            raise Unavailable("it is decided, but not every broker shows it yet; it follows by itself, and repeating is safe")

    def _settle_if_possible(self, project: ProjectName) -> Settlement:
        try:
            return self._reconciler.settle(project)
        except WardstreamError as error:
            logger.warning("a change waits for broker or online store", extra={"project": project, "reason": error.message})
            return Settlement(settled=False, seconds=0.0)

    def _make_void(self, *voids: Void) -> bool:
        """Tell every process; returns whether all of them know. Who is away is told later."""
        told = [self._revoker.make_void(void) for void in voids]
        return all(told)

    def _carry_out(self, going: Iterable[Revocation]) -> bool:
        """Carry out every revocation, whatever becomes of another; returns whether all are at their end."""
        done = [self._revoker.carry_out(each) for each in going]
        return all(each.settled for each in done)

    def _settle_all(self, projects: Iterable[ProjectName]) -> bool:
        """Settle every project, whatever becomes of another; returns whether all brokers show all of it."""
        done = [self._settle_if_possible(project) for project in sorted(set(projects))]
        return all(each.settled for each in done)

    def _take_effect(self, voids: Collection[Void], projects: Iterable[ProjectName]) -> Settlement:
        """Tell processes and carry projects to the brokers at the same time, so that neither waits for the other's slow part."""
        start = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(self._make_void, *voids)
            settled = self._settle_all(projects)
        return Settlement(told.result() and settled, time.monotonic() - start)

    def _begin_revocation(self, tenancy: Transaction, member: Member, at: datetime) -> Revocation:
        """End this generation of a member: its credentials now, what it has at brokers and processes by the revocation's steps."""
        tenancy.credentials.revoke_all(Holder(member.project, member.name, member.generation), at)
        revocation = Revocation(
            principal=member.principal_name,
            project=member.project,
            member=member.name,
            generation=member.generation,
            step=Step.DECIDED,
            peers=self._revoker.peers,
            revoked_at=at,
        )
        tenancy.add_revocation(revocation)
        return revocation

    def _next_generation(self, tenancy: Transaction, member: Member, at: datetime) -> Revocation:
        """Give a member that stays another principal: whoever holds a key of the old one has nothing any more."""
        tenancy.put_member(replace(member, generation=member.generation + 1))
        return self._begin_revocation(tenancy, member, at)

    def _void(self, tenancy: Transaction, project: ProjectName, member: MemberName | None = None) -> Void:
        """Keep, with the change that it stands for, that grants signed before it are void; `make_void` follows the transaction."""
        void = Void(secrets.token_hex(8), project, member, self._clock.now(), None, self._revoker.peers)
        tenancy.shares.add_void(void)
        return void

    def _check_rows(self, tenancy: Transaction, project: ProjectName) -> None:
        """Refuse what would give the project, or one that shares with it, more rows than a broker answers quickly."""
        now = self._clock.now()
        for prefix in sorted({project, *(share.project for share in tenancy.shares.opened_to(project, now))}):
            receivers = {
                share.receiver: tenancy.shares.opened_to(share.receiver, now)
                for share in tenancy.shares.of_project(prefix)
                if share.project == prefix and share.state is ShareState.ACCEPTED
            }
            members = tenancy.members(prefix) + [member for receiver in receivers for member in tenancy.members(receiver)]
            check_rows(prefix, members, [stored.dataset for stored in tenancy.datasets(prefix)], receivers)


def event_of(principal: Principal, action: str, project: ProjectName | None, subject: str, **details: Detail) -> AuditEvent:
    """Return what `principal` did, for the audit."""
    more = {"person": principal.person} if principal.person is not None and "person" not in details else {}
    return AuditEvent(principal.name, project, action, subject, Outcome.ALLOWED, {**details, **more})
