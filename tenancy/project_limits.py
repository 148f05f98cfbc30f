"""What a project may have and has: shown to its people, set by an administrator."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from tenancy.model import MemberState, Principal
from tenancy.policy import Action
from tenancy.quotas import LIMITS, ProjectQuota, with_limits
from tenancy.reconcile import Reconciler
from tenancy.repository import Repository, Transaction
from tenancy.revocation import Revoker
from tenancy.use_cases import UseCases, event_of
from wardstream.clock import Clock
from wardstream.names import ProjectName

# What control cannot count by itself: told by the processes that hold it.
REPORTED = ("bytes_online", "bytes_offline", "executions")


@dataclass(frozen=True)
class Limit:
    """One quota: `limit` None is no bound; `used` None is not known, or a rate."""

    name: str
    limit: int | None
    used: int | None


class ProjectLimits(UseCases):
    """Quotas of projects. What other processes use is told by them, and kept in memory only."""

    def __init__(self, *, repository: Repository, reconciler: Reconciler, revoker: Revoker, clock: Clock) -> None:
        super().__init__(repository=repository, reconciler=reconciler, revoker=revoker, clock=clock)
        self._reported: dict[tuple[ProjectName, str], int] = {}
        self._lock = threading.Lock()

    def limits(self, principal: Principal, project: ProjectName) -> list[Limit]:
        """Return every quota of the project with what is used of it."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.QUOTA_READ, project)
            return self._limits(tenancy, project)

    def set(self, principal: Principal, project: ProjectName, limits: Mapping[str, int | None]) -> list[Limit]:
        """Set these quotas, None for no bound; the others stay. What is there already stays, also above a new limit.

        Rates hold on every broker when this returns; raises `Unavailable` where they do not yet.
        """
        with self._changing(principal, Action.QUOTA_SET, f"project {project}", project) as tenancy:
            self._project(tenancy, principal, Action.QUOTA_SET, project)
            after: ProjectQuota = with_limits(tenancy.quotas.of(project), limits)
            tenancy.quotas.put(project, limits)
            told = {name: "none" if value is None else value for name, value in limits.items()}
            tenancy.audit(event_of(principal, Action.QUOTA_SET, project, project, **told), self._clock.now())
            found = self._limits(tenancy, project, after)
        self._settle(project)
        return found

    def report(self, used: Mapping[ProjectName, Mapping[str, int]]) -> dict[ProjectName, dict[str, int | None]]:
        """Note what a process counted, and return the limits of these projects."""
        with self._lock:
            for project, counts in used.items():
                for name, count in counts.items():
                    self._reported[project, name] = count
        with self._repository.transaction() as tenancy:
            quotas = {project: tenancy.quotas.of(project) for project in used}
        return {project: {name: getattr(quota, name) for name in REPORTED} for project, quota in quotas.items()}

    def _limits(self, tenancy: Transaction, project: ProjectName, quota: ProjectQuota | None = None) -> list[Limit]:
        quota = quota or tenancy.quotas.of(project)
        datasets = [stored.dataset for stored in tenancy.datasets(project)]
        used: dict[str, int | None] = {
            "members": sum(member.state is MemberState.ACTIVE for member in tenancy.members(project)),
            "topics": len(datasets),
            "partitions": sum(dataset.partitions for dataset in datasets),
            "shares": len(tenancy.shares.opened_to(project, self._clock.now())),
        }
        with self._lock:
            used |= {name: self._reported.get((project, name)) for name in REPORTED}
        return [Limit(name, getattr(quota, name), used.get(name)) for name in LIMITS]
