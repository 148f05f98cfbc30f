"""Who changed something past control, out of the authorizer's log."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compose.kafka import log4j2_properties
from tenancy.differences import Difference
from tenancy.drift import DriftLog, alteration_of, repairs
from tenancy.own_calls import OwnCalls

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)


def line(principal: str, operation: str, request: str, *, at: datetime = NOW, decision: str = "Allowed") -> bytes:
    message = (
        f"Principal = User:{principal} is {decision} operation = {operation} from host = 10.0.0.7 on resource = "
        f"Cluster:LITERAL:kafka-cluster for request = {request} with resourceRefCount = 1 based on rule SuperUser"
    )
    return json.dumps({"time": at.isoformat(timespec="milliseconds"), "message": message}).encode() + b"\n"


def test_a_change_is_read_with_who_where_when_and_what() -> None:
    found = alteration_of(line("ws-broker-1", "ALTER", "CreateAcls"))
    assert found is not None
    assert (found.kind, str(found)) == ("right", "ws-broker-1 from 10.0.0.7 at 2026-11-25T08:00:00+00:00 (CreateAcls)")


@pytest.mark.parametrize(
    "other",
    [
        line("ws-broker-1", "ALTER", "CreateAcls", decision="Denied"),
        line("ws-broker-1", "DESCRIBE", "DescribeAcls"),
        line("icu__anna", "READ", "Fetch"),
        b"{}\n",
        b'{"message": "is Allowed ", "time": "never"}\n',
        b"what is Allowed no JSON\n",
    ],
)
def test_other_lines_are_no_change(other: bytes) -> None:
    assert alteration_of(other) is None


def test_controls_own_changes_are_left_out_and_others_under_its_name_are_not(tmp_path: Path) -> None:
    moments = iter([NOW, NOW + timedelta(seconds=10), NOW + timedelta(seconds=11)])
    own = OwnCalls(lambda: next(moments))
    with own():
        pass
    log = tmp_path / "kafka-authorizer.log"
    # Before its start one cannot tell; then its own; then somebody else's.
    lines = [line("ws-control", "ALTER", "CreateAcls", at=NOW + timedelta(seconds=second)) for second in (-5, 10.5, 20)]
    log.write_bytes(b"".join([*lines, line("ws-broker-1", "ALTER", "DeleteAcls", at=NOW - timedelta(seconds=5))]))
    place, found = DriftLog(log, own).since(None)
    assert [(each.principal, each.at - NOW) for each in found] == [
        ("ws-control", timedelta(seconds=20)),
        ("ws-broker-1", timedelta(seconds=-5)),
    ]
    assert DriftLog(log, own).since(place) == (place, [])


def test_an_entry_says_what_was_put_right_and_who_had_altered_that_kind_of_thing() -> None:
    by = [
        alteration_of(line("ws-broker-1", "ALTER", "CreateAcls")),
        alteration_of(line("ws-broker-1", "ALTER_CONFIGS", "AlterClientQuotas")),
    ]
    changes = [Difference("right", "delete", f"read on topic icu.{number} for User:eve") for number in range(60)]
    (entry,) = repairs(changes, [each for each in by if each is not None])
    assert (entry.action, entry.details["delete"], entry.details["create"]) == ("right.repair", 60, 0)
    assert entry.details["altered_by"] == ["ws-broker-1 from 10.0.0.7 at 2026-11-25T08:00:00+00:00 (CreateAcls)"]
    what = entry.details["what"]
    assert isinstance(what, list)
    assert len(what) == 50


def test_the_brokers_log_keeps_changes_of_the_platforms_own_and_leaves_out_its_reading(tmp_path: Path) -> None:

    (regex,) = re.findall(r"filter\.own\.regex=(.*)", log4j2_properties(tmp_path))
    left_out = re.compile(regex)
    for operation, kept in {"ALTER": True, "ALTER_CONFIGS": True, "CREATE": True, "DELETE": True, "DESCRIBE": False, "READ": False}.items():
        message = json.loads(line("ws-control", operation, "CreateAcls"))["message"]
        assert (left_out.fullmatch(message) is None) is kept
