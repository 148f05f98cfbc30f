"""How much a project may have. Pure; every limit is checked before something is added."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tenancy.acls import MOST_ROWS_PER_PREFIX, acl_bindings_for
from tenancy.model import Dataset, Member, MemberState
from wardstream.errors import LimitExceeded


@dataclass(frozen=True)
class ProjectQuota:
    """Limits of one project."""

    members: int = 1000
    datasets: int = 1000
    partitions: int = 64
    """Of one dataset."""
    internal_topics: int = 32
    """Of one processor."""


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


def check_rows(members: Collection[Member], datasets: Collection[Dataset]) -> None:
    """Raise `LimitExceeded` where the project would have more rows under its prefix than a broker asks quickly."""
    rows = sum(len(acl_bindings_for(member, datasets)) for member in members)
    if rows > MOST_ROWS_PER_PREFIX:
        raise LimitExceeded(
            f"{rows} rights would be more than the {MOST_ROWS_PER_PREFIX} that a broker answers quickly: "
            "make fewer datasets editable, or name fewer datasets for devices and services"
        )
