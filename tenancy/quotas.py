"""How much a project may have. Pure; every limit is checked before something is added."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace

from tenancy.acls import MOST_ROWS_PER_PREFIX, acl_bindings_for
from tenancy.model import Dataset, Member, MemberState, SharedIn
from wardstream.errors import Invalid, LimitExceeded
from wardstream.names import ProjectName

# Of one dataset.
MOST_PARTITIONS = 64
# Of one processor.
MOST_INTERNAL_TOPICS = 32

# No tool and no counter here goes beyond it.
_MOST = 2**53
_ADVICE = "an administrator can raise it (`wardstream project quota set`)"


@dataclass(frozen=True)
class ProjectQuota:
    """Limits of one project; None is no bound. A limit of n lets n be there and refuses what would be one more."""

    members: int | None = 1000
    topics: int | None = 1000
    """Datasets; each has a topic of records, and one of dead letters beside it."""
    partitions: int | None = 4000
    """Of all its datasets, dead letters left out."""
    shares: int | None = 100
    """That it receives: each grant of its people names them all."""
    bytes_online: int | None = 4 << 30
    bytes_offline: int | None = 200 << 30
    executions: int | None = 50
    """Programs that are queued or running at a time."""
    producer_byte_rate: int | None = None
    """Bytes a second that each of its principals may write, on each broker; the broker slows down who wants more."""
    consumer_byte_rate: int | None = None
    request_percentage: int | None = None
    """Of one thread of a broker's, for the requests of each of its principals."""
    controller_mutation_rate: int | None = None
    """Partitions a second that each of its principals may create or delete, where it may at all."""


DEFAULT = ProjectQuota()
LIMITS = tuple(field.name for field in fields(ProjectQuota))
# What the broker enforces, under the names that it has there.
CLIENT_QUOTAS = ("producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate")


def with_limits(quota: ProjectQuota, limits: Mapping[str, int | None]) -> ProjectQuota:
    """Return `quota` with `limits` in place; raises `Invalid` naming one that there is not or that cannot be."""
    for name, value in limits.items():
        if name not in LIMITS:
            raise Invalid(f"{name[:40]!a} is not a quota of a project: quotas are {', '.join(LIMITS)}")
        # The broker takes a rate of nothing for none at all.
        least = 1 if name in CLIENT_QUOTAS else 0
        if value is not None and not least <= value <= _MOST:
            raise Invalid(f"{name} must be a whole number from {least} to {_MOST}, or none for no bound; got {value}")
    return replace(quota, **limits)


def client_quotas(quota: ProjectQuota) -> dict[str, float]:
    """Return what each principal of the project has at the brokers."""
    values = {name: getattr(quota, name) for name in CLIENT_QUOTAS}
    return {name: float(value) for name, value in values.items() if value is not None}


def check(project: ProjectName, name: str, quota: ProjectQuota, used: int, more: int = 1) -> None:
    """Raise `LimitExceeded` where `more` beside what is `used` would exceed the quota `name`; says limit, use and who can raise it."""
    require_room(project, name, getattr(quota, name), used, more)


def require_room(project: ProjectName, name: str, limit: int | None, used: int, more: int = 1) -> None:
    """As `check`, for a limit that was told by control."""
    if limit is not None and more > 0 and used + more > limit:
        raise LimitExceeded(f"project {project} has {used} of {limit} {name.replace('_', ' ')}, {more} more would be too many: {_ADVICE}")


def check_members(project: ProjectName, members: Collection[Member], quota: ProjectQuota) -> None:
    """Raise `LimitExceeded` where one more member would be too many; removed ones do not count."""
    check(project, "members", quota, sum(member.state is MemberState.ACTIVE for member in members))


def check_datasets(project: ProjectName, datasets: Collection[Dataset], quota: ProjectQuota, *, topics: int, partitions: int) -> None:
    """Raise `LimitExceeded` where so many `topics` and `partitions` beside `datasets` would be too many."""
    check(project, "topics", quota, len(datasets), topics)
    check(project, "partitions", quota, sum(dataset.partitions for dataset in datasets), partitions)


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
