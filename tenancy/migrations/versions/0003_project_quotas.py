"""Quotas of projects.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; projects have the platform's defaults."""
    op.create_table(
        "project_quotas",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_project_quotas_project")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_project_quotas")),
    )
