"""A database of an earlier release is brought up to date with what is in it."""

from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text

import tenancy
from tenancy.model import ProjectState, Role
from tenancy.repository import Repository
from tenancy.tables import metadata
from wardstream.database import connect, migrate
from wardstream.names import DatasetName, MemberName, ProjectName

MIGRATIONS = Path(tenancy.__file__).parent / "migrations"
NOW = datetime(2026, 11, 24, tzinfo=UTC).replace(tzinfo=None).isoformat(sep=" ")


def test_a_database_of_the_first_release_keeps_its_projects_members_and_lists(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'old.sqlite'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO projects VALUES ('icu', 'beds', 1, :at)"), {"at": NOW})
        for name, role in (("zoe", "data-owner"), ("materialiser", "service"), ("anna", "data-owner")):
            connection.execute(
                text("INSERT INTO members VALUES ('icu', :name, :role, 2, 'active', :at)"), {"name": name, "role": role, "at": NOW}
            )
        connection.execute(
            text("INSERT INTO datasets VALUES ('icu', 'ecg', 'topic', 'editable', 1, '{}', 'icu__anna', :at, 'there', NULL)"), {"at": NOW}
        )
        connection.execute(text("INSERT INTO member_datasets VALUES ('icu', 'materialiser', 'ecg', 'read')"))
    migrate(engine, MIGRATIONS)
    with Repository(engine).transaction() as found:
        (project,) = found.projects()
        members = {member.name: member for member in found.members(ProjectName("icu"))}
    assert (project.author, project.state) == ("anna", ProjectState.ACTIVE)
    assert members[MemberName("materialiser")].reads == {DatasetName("ecg")}
    assert (members[MemberName("zoe")].role, members[MemberName("zoe")].generation) == (Role.DATA_OWNER, 2)
    engine.dispose()


def test_revisions_make_exactly_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'new.sqlite'}")
    migrate(engine, MIGRATIONS)
    with engine.begin() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []
