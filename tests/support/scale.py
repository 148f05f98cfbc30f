"""A database full of projects, and what must be at the broker then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from tenancy.model import Dataset, DatasetKind, DatasetPermission, Member, MemberState, Project, Role
from tenancy.repository import Repository
from wardstream.names import DatasetName, MemberName, ProjectName

# Of ten members; the first is the author.
ROLES = (*[Role.DATA_OWNER] * 2, *[Role.DATA_SCIENTIST] * 6, *[Role.OBSERVER] * 2)


def new_member(project: ProjectName, name: str, role: Role) -> Member:
    """Return an active member that reads and writes nothing by name."""
    return Member(project, MemberName(name), role, 1, MemberState.ACTIVE, frozenset(), frozenset(), datetime.now(UTC))


def fill(repository: Repository, prefix: str, *, projects: int, members: int, datasets: int) -> list[ProjectName]:
    """Keep projects that nothing outside knows of yet; every second dataset is editable, the others by owners only."""
    made = [ProjectName(f"{prefix}-{number}") for number in range(projects)]
    with repository.transaction() as tenancy:
        for project in made:
            now = datetime.now(UTC)
            tenancy.add_project(Project(project, "", True, now, author=MemberName("m0")))
            for number in range(members):
                tenancy.put_member(new_member(project, f"m{number}", ROLES[number % len(ROLES)]))
            for number in range(datasets):
                permission = DatasetPermission.EDITABLE if number % 2 else DatasetPermission.EDITABLE_BY_OWNERS
                tenancy.add_dataset(
                    Dataset(project, DatasetName(f"d{number}"), DatasetKind.TOPIC, permission, 1, {}, "nobody", frozenset()), now
                )
    return made


def expected_rows(projects: list[ProjectName], *, members: int, datasets: int) -> Iterator[tuple[str, int]]:
    """Yield each principal with how many rows it has: four, less the transactions of those who never write, and one a writable topic."""
    for project in projects:
        for number in range(members):
            role = ROLES[number % len(ROLES)]
            writable = {Role.DATA_OWNER: datasets, Role.DATA_SCIENTIST: datasets // 2, Role.OBSERVER: 0}[role]
            yield f"User:{project}__m{number}", (3 if role is Role.OBSERVER else 4) + writable
