"""Tables of the catalogue. Changing them means a new revision in `migrations/`."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKeyConstraint, Index, Integer, MetaData, String, Table, Text

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

feature_groups = Table(
    "feature_groups",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    # What the group is made of, as `FeatureGroup.document` gives it: read whole, never searched.
    Column("document", JSON, nullable=False),
    Column("partitions", Integer, nullable=False),
    # creating | active | deleting | deleted. A deleted version stays: its name is not given out again.
    Column("state", String(10), nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

training_datasets = Table(
    "training_datasets",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(30), nullable=False),
    Column("label_time", String(200), nullable=False),
    Column("features", JSON, nullable=False),
    # Table name -> version of the Delta table that was read.
    Column("snapshot", JSON, nullable=False),
    Column("labels", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_training_datasets_project", "project", "created_at"),
)

models = Table(
    "models",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("description", Text, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("training_dataset", String(32), nullable=True),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

model_files = Table(
    "model_files",
    metadata,
    Column("project", String(30), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    # False until the file lies whole in its place.
    Column("complete", Boolean, nullable=False),
    ForeignKeyConstraint(["project", "model", "version"], ["models.project", "models.name", "models.version"]),
)
