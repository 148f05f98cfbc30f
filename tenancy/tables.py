"""Tables of the tenancy database. Changing them means a new revision in `migrations/`."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, ForeignKeyConstraint, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A time that is UTC-aware in Python and plain in the database, the same in SQLite and PostgreSQL."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is stored; a time without zone is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times in the tenancy database are UTC-aware")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored time as UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


# Named constraints, so that a later migration can alter them.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

projects = Table(
    "projects",
    metadata,
    Column("name", String(30), primary_key=True),
    Column("description", Text, nullable=False),
    Column("sandboxed", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("author", String(24)),
    Column("state", String(10), nullable=False, server_default="active"),
)

members = Table(
    "members",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(24), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("custom_role", String(24)),
    # The account that logs in to this membership.
    Column("person", String(64)),
    Column("expires_at", UtcDateTime),
    ForeignKeyConstraint(["project"], ["projects.name"]),
    Index("ix_members_person", "person"),
)

custom_roles = Table(
    "custom_roles",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(24), primary_key=True),
    Column("base", String(20), nullable=False),
    Column("without", JSON, nullable=False),
    ForeignKeyConstraint(["project"], ["projects.name"]),
)

datasets = Table(
    "datasets",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("permission", String(20), nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # "deleting" keeps the name from being given out again while rows or topics of it exist.
    Column("state", String(10), nullable=False),
    Column("topic_id", String(40)),
    ForeignKeyConstraint(["project"], ["projects.name"]),
)

# Which datasets a device, service or restricted member reads and writes.
member_datasets = Table(
    "member_datasets",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("member", String(24), primary_key=True),
    Column("dataset", String(100), primary_key=True),
    Column("mode", String(5), primary_key=True),
    # Of a restricted member: the columns that it reads; NULL is all.
    Column("columns", JSON(none_as_null=True)),
    ForeignKeyConstraint(["project", "member"], ["members.project", "members.name"]),
    ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.name"]),
)

internal_topics = Table(
    "internal_topics",
    metadata,
    Column("topic", String(249), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("member", String(24), nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("state", String(10), nullable=False),
    ForeignKeyConstraint(["project", "member"], ["members.project", "members.name"]),
)

# A key of 256 random bits: one SHA-256 at rest is enough, since there is nothing to guess.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    # Both empty: the administrator's.
    Column("project", String(30)),
    Column("member", String(24)),
    Column("generation", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("label", String(60)),
    # NULL: everything that its holder may do.
    Column("scopes", JSON(none_as_null=True)),
    Column("expires_at", UtcDateTime),
    Column("person", String(64)),
    Index("ix_api_keys_member", "project", "member"),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("project", String(30), nullable=False),
    Column("member", String(24), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Index("ix_enrolment_tokens_member", "project", "member"),
)

login_links = Table(
    "login_links",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("project", String(30)),
    Column("member", String(24)),
    Column("generation", Integer, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    # The account that logged in; empty for a session that an API key or the first link opened.
    Column("person", String(64)),
    Column("opened_at", UtcDateTime),
    Column("seen_at", UtcDateTime),
    Column("source", String(60)),
    Index("ix_sessions_member", "project", "member"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("member", String(24), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("profile", String(20), nullable=False),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Index("ix_certificates_member", "project", "member"),
)

# The receiving project may not exist: who offers is not to learn which projects there are.
shares = Table(
    "shares",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("dataset", String(100), nullable=False),
    Column("receiver", String(30), nullable=False),
    Column("mode", String(20), nullable=False),
    Column("columns", JSON(none_as_null=True)),
    Column("purpose", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("expires_at", UtcDateTime),
    Column("offered_by", String(64), nullable=False),
    Column("offered_at", UtcDateTime, nullable=False),
    Column("decided_by", String(64)),
    Column("decided_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("ix_shares_project", "project", "dataset"),
    Index("ix_shares_receiver", "receiver"),
)

# Grants of a project's people, or of one member, that were signed before rights changed: not to be taken any more.
voids = Table(
    "voids",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("member", String(24)),
    Column("decided_at", UtcDateTime, nullable=False),
    # When it was first told: grants signed until then may still say what was true before.
    Column("before", UtcDateTime),
    # Processes that have not acknowledged it.
    Column("peers", JSON, nullable=False),
)

# How far the removal of a member has come; what is not at its end is resumed.
revocations = Table(
    "revocations",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("member", String(24), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("step", String(20), nullable=False),
    Column("peers", JSON, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["project", "member"], ["members.project", "members.name"]),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # Text, not a time: the hash is over exactly these characters.
    Column("at", String(40), nullable=False),
    Column("principal", String(64), nullable=False),
    Column("project", String(30)),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("outcome", String(10), nullable=False),
    Column("details", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_entries_project", "project", "sequence"),
)

# One row: number and hash of the newest entry. Writers take turns on it, and a cut-off tail differs from it.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

# Facts about the platform as a whole, such as that the marker row was made once.
platform_facts = Table(
    "platform_facts",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)

# Quotas. What an administrator set for a project in place of the platform's default; NULL is no bound.
project_quotas = Table(
    "project_quotas",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger),
    ForeignKeyConstraint(["project"], ["projects.name"]),
)

# People

people = Table(
    "people",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("display", String(100), nullable=False),
    Column("source", String(10), nullable=False),
    Column("administrator", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("password_hash", String(200)),
    # Encrypted with a key that follows from control's secret.
    Column("totp_sealed", String(200)),
    Column("totp_step", BigInteger),
    Column("external_id", String(300)),
    Column("failures", Integer, nullable=False),
    Column("locked_until", UtcDateTime),
    Index("ix_people_external_id", "source", "external_id"),
)

person_links = Table(
    "person_links",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("person", String(64), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("password_hash", String(200)),
    Column("totp_sealed", String(200)),
    ForeignKeyConstraint(["person"], ["people.name"]),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("person", String(64), primary_key=True),
    Column("code_hash", String(64), primary_key=True),
    ForeignKeyConstraint(["person"], ["people.name"]),
)

passkeys = Table(
    "passkeys",
    metadata,
    Column("id", String(400), primary_key=True),
    Column("person", String(64), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("label", String(60), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    ForeignKeyConstraint(["person"], ["people.name"]),
    Index("ix_passkeys_person", "person"),
)

# Which group of a directory or identity provider a project's owner lets in, and as what.
group_mappings = Table(
    "group_mappings",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("source", String(10), primary_key=True),
    Column("group", String(300), primary_key=True),
    Column("role", String(24), nullable=False),
    ForeignKeyConstraint(["project"], ["projects.name"]),
)

# Memberships that follow a group: they end when the person leaves it.
mapped_members = Table(
    "mapped_members",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("member", String(24), primary_key=True),
    Column("source", String(10), nullable=False),
    ForeignKeyConstraint(["project", "member"], ["members.project", "members.name"]),
)
