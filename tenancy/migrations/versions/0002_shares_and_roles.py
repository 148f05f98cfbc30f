"""Shares, custom and restricted roles, authors and ends of projects, and grants that become void.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables and columns; a project's author becomes its first data owner."""
    # Added, not altered in a copy of the table: SQLite refuses to drop one that others refer to.
    op.add_column("projects", sa.Column("author", sa.String(length=24), nullable=True))
    op.add_column("projects", sa.Column("state", sa.String(length=10), nullable=False, server_default="active"))
    op.execute(
        "UPDATE projects SET author = (SELECT name FROM members WHERE members.project = projects.name AND members.role = 'data-owner'"
        " AND members.state = 'active' ORDER BY members.created_at, members.name LIMIT 1)"
    )
    op.add_column("members", sa.Column("custom_role", sa.String(length=24), nullable=True))
    op.add_column("members", sa.Column("person", sa.String(length=64), nullable=True))
    op.add_column("members", sa.Column("expires_at", sa.DateTime(), nullable=True))
    op.create_index("ix_members_person", "members", ["person"], unique=False)
    op.add_column("member_datasets", sa.Column("columns", sa.JSON(), nullable=True))
    op.create_table(
        "custom_roles",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("name", sa.String(length=24), nullable=False),
        sa.Column("base", sa.String(length=20), nullable=False),
        sa.Column("without", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_custom_roles_project")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_custom_roles")),
    )
    op.create_table(
        "shares",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("dataset", sa.String(length=100), nullable=False),
        sa.Column("receiver", sa.String(length=30), nullable=False),
        sa.Column("mode", sa.String(length=20), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("offered_by", sa.String(length=64), nullable=False),
        sa.Column("offered_at", sa.DateTime(), nullable=False),
        sa.Column("decided_by", sa.String(length=64), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shares")),
    )
    op.create_index("ix_shares_project", "shares", ["project", "dataset"], unique=False)
    op.create_index("ix_shares_receiver", "shares", ["receiver"], unique=False)
    op.create_table(
        "voids",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("member", sa.String(length=24), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.Column("before", sa.DateTime(), nullable=True),
        sa.Column("peers", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_voids")),
    )
