"""Quotas of projects in the database, as far as they are not the platform's defaults."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select

from tenancy import tables
from tenancy.quotas import DEFAULT, ProjectQuota, with_limits
from wardstream.names import ProjectName


class ProjectQuotas:
    """What an administrator set; good for the one transaction of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def of(self, project: ProjectName) -> ProjectQuota:
        """Return the project's quota."""
        return self.all(project).get(project, DEFAULT)

    def all(self, project: ProjectName | None = None) -> dict[ProjectName, ProjectQuota]:
        """Return the quotas of projects for which something was set."""
        table = tables.project_quotas
        query = select(table)
        if project is not None:
            query = query.where(table.c.project == project)
        found: dict[ProjectName, dict[str, int | None]] = {}
        for row in self._connection.execute(query):
            found.setdefault(ProjectName(row.project), {})[row.name] = row.value
        return {name: with_limits(DEFAULT, limits) for name, limits in found.items()}

    def put(self, project: ProjectName, limits: Mapping[str, int | None]) -> None:
        """Keep these limits of the project, None for no bound; the others stay."""
        table = tables.project_quotas
        for name, value in limits.items():
            self._connection.execute(delete(table).where(table.c.project == project, table.c.name == name))
            self._connection.execute(insert(table).values(project=project, name=name, value=value))
