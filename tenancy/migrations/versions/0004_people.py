"""People's accounts, their factors, sessions and keys; groups of directories that projects let in.

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables and columns."""
    for column in (
        sa.Column("person", sa.String(length=64), nullable=True),
        sa.Column("opened_at", sa.DateTime(), nullable=True),
        sa.Column("seen_at", sa.DateTime(), nullable=True),
        sa.Column("source", sa.String(length=60), nullable=True),
    ):
        op.add_column("sessions", column)
    for added in (
        sa.Column("label", sa.String(length=60), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=True),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("person", sa.String(length=64), nullable=True),
    ):
        op.add_column("api_keys", added)
    op.create_table(
        "people",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("display", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("administrator", sa.Boolean(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=True),
        sa.Column("totp_sealed", sa.String(length=200), nullable=True),
        sa.Column("totp_step", sa.BigInteger(), nullable=True),
        sa.Column("external_id", sa.String(length=300), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_people")),
    )
    op.create_index("ix_people_external_id", "people", ["source", "external_id"], unique=False)
    op.create_table(
        "person_links",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("password_hash", sa.String(length=200), nullable=True),
        sa.Column("totp_sealed", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["people.name"], name=op.f("fk_person_links_person")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_links")),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["people.name"], name=op.f("fk_recovery_codes_person")),
        sa.PrimaryKeyConstraint("person", "code_hash", name=op.f("pk_recovery_codes")),
    )
    op.create_table(
        "passkeys",
        sa.Column("id", sa.String(length=400), nullable=False),
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("sign_count", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.String(length=60), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["people.name"], name=op.f("fk_passkeys_person")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passkeys")),
    )
    op.create_index("ix_passkeys_person", "passkeys", ["person"], unique=False)
    op.create_table(
        "group_mappings",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("group", sa.String(length=300), nullable=False),
        sa.Column("role", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_group_mappings_project")),
        sa.PrimaryKeyConstraint("project", "source", "group", name=op.f("pk_group_mappings")),
    )
    op.create_table(
        "mapped_members",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("member", sa.String(length=24), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.ForeignKeyConstraint(["project", "member"], ["members.project", "members.name"], name=op.f("fk_mapped_members_project")),
        sa.PrimaryKeyConstraint("project", "member", name=op.f("pk_mapped_members")),
    )
