"""How much a project may have. Pure; every limit is checked before something is added."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tenancy.acls import MOST_ROWS_PER_PREFIX, acl_bindings_for
from tenancy.model import Dataset, Member, MemberState, SharedIn
from wardstream.errors import LimitExceeded
from wardstream.names import ProjectName


@dataclass(frozen=True)
class ProjectQuota:
    """Limits of one project."""

    members: int = 1000
    datasets: int = 1000
    partitions: int = 64
    """Of one dataset."""
    internal_topics: int = 32
    """Of one processor."""
    shares: int = 100
    """That it receives: each grant of its people names them all."""


DEFAULT = ProjectQuota()


def check_members(members: Collection[Member], quota: ProjectQuota = DEFAULT) -> None:
    """Raise `LimitExceeded` where one more member would be too many; removed ones do not count."""
    active = sum(member.state is MemberState.ACTIVE for member in members)
    if active >= quota.members:
        raise LimitExceeded(f"a project has at most {quota.members} members: remove one first")


def check_datasets(datasets: Collection[Dataset], quota: ProjectQuota = DEFAULT) -> None:
    """Raise `LimitExceeded` where one more dataset would be too many."""
    if len(datasets) >= quota.datasets:
        raise LimitExceeded(f"a project has at most {quota.datasets} datasets: delete one first")


def check_rows(
    project: ProjectName,
    members: Collection[Member],
    datasets: Collection[Dataset],
    shared: Mapping[ProjectName, frozenset[SharedIn]] | None = None,
) -> None:
    """Raise `LimitExceeded` where more rows would lie under the project's prefix than a broker asks quickly.

    `members` are the project's and those of the projects that it shares with, which `shared` names with what they receive.
    """
    opened = shared or {}
    rows = sum(len(acl_bindings_for(member, datasets, opened.get(member.project, frozenset()))) for member in members)
    if rows > MOST_ROWS_PER_PREFIX:
        raise LimitExceeded(
            f"{rows} rights on {project} would be more than the {MOST_ROWS_PER_PREFIX} that a broker answers quickly: "
            "make fewer datasets editable, share fewer, or name fewer datasets for devices and services"
        )
