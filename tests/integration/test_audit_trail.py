"""The audit on the real platform: every surface leaves its entry, and what is meddled with is found offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.stack import NewProject, RunningStack
from tests.support.waiting import eventually
from wardstream.client.audit import verify_export
from wardstream.client.features import Feature
from wardstream.errors import Denied, Invalid, NotFound

pytestmark = pytest.mark.stack

VALUE = 7231.5
BED = "bed-of-mrs-smith"


@pytest.fixture(scope="module")
def project(stack: RunningStack) -> NewProject:
    """A project in which each surface was used once, allowed and refused."""
    made = stack.new_project("audit")
    anna = made.owner
    store = anna.project.get_feature_store()
    features = [Feature("bed", "string"), Feature("at", "timestamp"), Feature("hr", "double")]
    group = store.get_or_create_feature_group("vitals", version=1, features=features, primary_key=["bed"], event_time="at")
    group.insert([{"bed": BED, "at": datetime.now(UTC), "hr": VALUE}], wait=True)
    group.read()
    group.get_feature_vectors({"bed": [BED]})
    store.sql(f"SELECT hr FROM vitals WHERE bed = '{BED}'")  # noqa: S608  # a constant of this test
    sam = made.add("sam", "data-scientist")
    for refused in (
        lambda: sam.project.get_feature_store().sql("SELECT 1"),
        lambda: made.add("x", "observer").project.add_member("y", "observer"),
    ):
        with pytest.raises(Denied):
            refused()
    with pytest.raises(NotFound):
        sam.connection.transport.json("GET", "/api/v1/projects/elsewhere/feature-groups")
    topic = made.create_topic("notes")
    anna.produce(topic, [b"one"])
    anna.consume(topic, 1)
    return made


def entries(project: NewProject, **filters: Any) -> list[dict[str, Any]]:
    return project.owner.connection.audit.search(project=project.name, limit=1000, **filters)


def test_every_surface_leaves_its_entry(project: NewProject) -> None:
    found = {(e["principal"].partition("__")[2], e["surface"], e["action"], e.get("dataset"), e["outcome"]) for e in entries(project)}
    for expected in (
        ("anna", "rest", "record.write", "vitals_1", "allowed"),
        ("anna", "rows", "row.read", "vitals_1", "allowed"),
        ("anna", "online", "online.read", "vitals_1", "allowed"),
        ("anna", "sql", "row.read", "vitals_1", "allowed"),
        ("sam", "sql", "row.read", None, "refused"),
        ("anna", "rights", "feature-group.create", None, "allowed"),
        ("x", "rights", "member.add", None, "refused"),
    ):
        assert expected in found, expected


def test_no_entry_holds_a_value_or_an_identifier(project: NewProject) -> None:
    for entry in project.stack.admin.audit.search(limit=1000):
        text = str(entry)
        assert str(VALUE) not in text
        assert BED not in text


def test_an_entry_tells_the_request_that_the_caller_was_told(project: NewProject) -> None:
    transport = project.owner.connection.transport
    answer = transport.request("GET", f"/api/v1/projects/{project.name}/feature-groups/vitals/1/rows")
    request = answer.headers["x-request-id"]
    assert [e["action"] for e in entries(project) if e.get("request") == request] == ["row.read"]


def test_a_certificate_is_named_by_its_serial(project: NewProject) -> None:
    project.owner.rest().projects.get(project.name).get_feature_store().sql("SELECT count(*) FROM vitals")
    serial = [e["serial"] for e in entries(project, surface="sql") if e.get("serial")]
    assert serial


def test_what_the_broker_decided_is_counted_by_the_minute(project: NewProject) -> None:
    """A minute must be over before it is counted."""

    def counted() -> set[tuple[str, str, bool]]:
        found = entries(project, surface="broker")
        return {(e["principal"], e["action"], e["outcome"] == "allowed") for e in found if e.get("dataset") == "notes" and e["count"] >= 1}

    wanted = {(project.owner.principal, "topic.write", True), (project.owner.principal, "topic.read", True)}
    eventually(lambda: wanted <= counted(), within=90, every=2)


def test_pages_follow_each_other_without_a_gap(project: NewProject) -> None:
    whole = entries(project, until=datetime.now(UTC))
    pages: list[dict[str, Any]] = []
    before: str | None = None
    while True:
        page = project.owner.connection.audit.search(
            project=project.name, limit=3, before=before, until=datetime.fromisoformat(whole[-1]["at"])
        )
        if not page:
            break
        pages, before = [*page, *pages], page[0]["place"]
    last = whole[-1]["at"]
    assert [entry["place"] for entry in pages] == [entry["place"] for entry in whole if entry["at"] < last]


def test_a_request_is_named_by_the_platform_alone(project: NewProject) -> None:
    transport = project.owner.connection.transport
    answer = transport.request("GET", f"/api/v1/projects/{project.name}", headers={"X-Request-Id": "Maria-Muster-19800101"})
    assert "Maria" not in answer.headers["x-request-id"]


def test_an_owner_sees_the_own_project_alone(project: NewProject) -> None:
    other = project.stack.new_project("other").owner
    with pytest.raises(NotFound):
        other.connection.audit.search(project=project.name)
    assert all(entry["project"] == other.project_name for entry in other.connection.audit.search())
    with pytest.raises(Denied):
        project.add("obs", "observer").connection.audit.search()


def test_the_platform_finds_its_chains_intact(project: NewProject) -> None:
    found = project.stack.admin.audit.verify()
    assert found["intact"]
    assert found["checkpoints"] >= 1
    assert {chain["chain"] for chain in found["chains"]} == {"control", "gateway", "query", "stream-worker"}
    assert found["away"] == []


def test_an_export_is_checked_offline_and_hides_other_projects(project: NewProject, tmp_path: Path) -> None:
    file = tmp_path / "audit.export"
    key = project.owner.connection.audit.public_key().encode()
    project.owner.connection.audit.export(file, project=project.name)
    found = verify_export(file, key)
    assert found.intact
    assert found.project == project.name
    lines = file.read_bytes().splitlines(keepends=True)
    for line in lines:
        if line.startswith(b'{"n":') and b'"heads":' not in line:
            assert orjson.loads(line[:-66])["project"] == project.name
    whole = tmp_path / "whole.export"
    project.stack.admin.audit.export(whole)
    assert verify_export(whole, key).intact
    # An entry less, an entry edited, a checkpoint less: each is found.
    own = next(number for number, line in enumerate(lines) if line.startswith(b'{"n":'))
    for meddled in (
        [*lines[:own], *lines[own + 1 :]],
        [*lines[:own], lines[own].replace(b"allowed", b"refused").replace(b"anna", b"olga"), *lines[own + 1 :]],
        [*lines[:-2], lines[-1]],
    ):
        file.write_bytes(b"".join(meddled))
        assert not verify_export(file, key).intact
    with pytest.raises(Invalid):
        verify_export(Path(__file__))


def test_checkpoints_are_in_a_topic_that_nobody_of_the_projects_reaches(project: NewProject) -> None:
    from tests.integration.test_tenancy_shares import refused  # noqa: PLC0415

    assert refused(project.owner, "_ws-audit", listener="client")
    log = project.stack.home / "kafka" / "data" / "_ws-audit-0"
    before = sum(file.stat().st_size for file in log.glob("*.log"))
    project.owner.project.get_feature_store().sql("SELECT count(*) FROM vitals")
    eventually(lambda: sum(file.stat().st_size for file in log.glob("*.log")) > before, within=30)
