"""Feature groups of tests, and what is said of their tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.support.stack import NewProject, RunningStack
from tests.support.waiting import eventually
from wardstream import processes
from wardstream.client.features import Feature, FeatureGroup
from wardstream.processes import ProcessRecord

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Table:
    """A feature group of one project: patient, time, a number and a word."""

    stack: RunningStack
    project: NewProject
    group: FeatureGroup

    def insert(self, rows: pa.Table, *, wait: bool = True) -> None:
        report = self.group.insert(rows, wait=wait)
        assert (report.accepted, report.rejected) == (rows.num_rows, ())

    def reconciliation(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.project.owner.project.reconciliation()
        return next(each for each in found if (each["group"], each["version"]) == (self.group.name, self.group.version))

    def settled(self, *, records: int, within: float = 30) -> dict[str, Any]:
        """Return the reconciliation once the table has all of so many records."""
        eventually(lambda: self.group.progress()["records"] >= records, within=within)
        return self.reconciliation()

    @property
    def folder(self) -> Path:
        """Where the project's materialiser has its files."""
        return self.stack.home / "streams" / "materialisers" / self.project.name

    def status(self) -> dict[str, Any]:
        """What the materialiser says of this group."""
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())["groups"][f"{self.group.name}_{self.group.version}"]
        return found

    def materialiser(self) -> ProcessRecord:
        """The process that fills the project's tables now."""
        wanted = f"materialiser-{self.project.name}"
        return eventually(
            lambda: next(each for each in processes.recorded(self.stack.home / "processes") if each.name == wanted and each.alive),
            within=20,
        )


def new_table(stack: RunningStack, *, partitions: int = 2, online_enabled: bool = True, name: str = "vitals") -> Table:
    """Return a new feature group in a project of its own."""
    project = stack.new_project("tables")
    group = project.owner.project.get_feature_store().create_feature_group(
        name,
        primary_key=["patient"],
        event_time="at",
        features=[Feature("patient", "string"), Feature("at", "timestamp"), Feature("heart_rate", "double"), Feature("ward", "string")],
        partitions=partitions,
        online_enabled=online_enabled,
    )
    return Table(stack, project, group)


def rows(patients: Sequence[int], minute: int, *, heart_rate: float = 70.0) -> pa.Table:
    """Return one row for each patient, all at one minute."""
    at = BEGIN + timedelta(minutes=minute)
    return pa.table(
        {
            "patient": [f"p{each}" for each in patients],
            "at": pa.array([at] * len(patients), pa.timestamp("ms", "UTC")),
            "heart_rate": [heart_rate + each for each in patients],
            "ward": ["a" if each % 2 else None for each in patients],
        }
    )
