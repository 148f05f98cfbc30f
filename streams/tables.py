"""Tables of the streams database. Changing them means a new revision in `migrations/`."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Index, Integer, MetaData, String, Table, Text

from tenancy.tables import UtcDateTime

# Named constraints, so that a later migration can alter them.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

processors = Table(
    "processors",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(24), primary_key=True),
    # `ProcessorSpec.to_json`: read whole, never searched.
    Column("spec", JSON, nullable=False),
    # What it is to do: running | paused | removed. A removed one stays, for the number of its state version.
    Column("wanted", String(10), nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # What it does, as last seen.
    Column("state", String(12), nullable=False),
    Column("reason", Text),
    Column("restarts", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("name", String(100), nullable=False),
    Column("principal", String(64), nullable=False),
    Column("started_by", String(64), nullable=False),
    Column("label", String(40), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("cpu_seconds", Integer, nullable=False),
    # Signed by control for this execution, good for an hour; only platform processes can use it.
    Column("grant", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(100)),
    Column("lease_until", UtcDateTime),
    Column("stop_requested", Boolean, nullable=False),
    Column("exit_code", Integer),
    Column("reason", Text),
    Column("files", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
)
Index("ix_executions_project", executions.c.project, executions.c.created_at)
Index("ix_executions_state", executions.c.state)
