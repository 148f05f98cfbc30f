"""DuckDB over the files of offline tables, for our own statements; a member's SQL runs elsewhere, in a child process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa


@contextmanager
def engine(*, memory_mb: int = 1024, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a database in memory that holds at most `memory_mb` and then goes to disk, in UTC, and that loads nothing from outside."""
    with tempfile.TemporaryDirectory(prefix="wardstream-duckdb-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": spill,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
        }
        if threads:
            settings["threads"] = threads
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # It would go to the standard output of whatever runs this.
            connection.execute("SET enable_progress_bar = false")
            yield connection


def define_stored(connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path], schema: pa.Schema) -> None:
    """Make `files` readable in SQL as the view `name`; without files, a view of no rows with the same columns."""
    if files:
        connection.read_parquet([str(path) for path in files]).create_view(name)
    else:
        connection.register(name, schema.empty_table())


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str], before: str = "") -> str:
    """Return `names` as a list of SQL identifiers, each of the relation `before` where one is given."""
    return ", ".join(f"{before}.{quoted(name)}" if before else quoted(name) for name in names)
