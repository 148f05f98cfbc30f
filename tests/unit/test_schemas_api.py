"""The registry's surface: shapes, codes and content types that stock clients rely on, and who sees what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from schemas.api import registry
from schemas.registry import RegistryService
from schemas.store import Entry, SchemaState
from tenancy.model import Dataset, DatasetKind, DatasetPermission, Principal, PrincipalKind, Role, administrator
from wardstream.errors import Unauthenticated, Unavailable
from wardstream.names import DatasetName, MemberName, ProjectName

V1 = "application/vnd.schemaregistry.v1+json"
ECG = ProjectName("icu"), DatasetName("ecg")
ONE = '{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}'
TWO = '{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":["null","string"],"default":null}]}'
WRONG = '{"type":"record","name":"R","fields":[{"name":"b","type":"string"}]}'


class MemoryLog:
    """The records in memory; `restarted` is a log that reads them anew."""

    def __init__(self, records: Sequence[Entry] = ()) -> None:
        self.records = list(records)
        self.state = SchemaState()
        for record in self.records:
            self.state.apply(record.key, record.value)
        self.away = False

    def ready(self) -> str | None:
        return None

    @contextmanager
    def reading(self) -> Iterator[SchemaState]:
        if self.away:
            raise Unavailable("the schema registry has not read its topic yet")
        yield self.state

    @contextmanager
    def writing(self) -> Iterator[None]:
        yield

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.records.append(entry)
            self.state.apply(entry.key, entry.value)


def member(role: Role, project: str = "icu", *, reads: Sequence[str] = (), writes: Sequence[str] = ()) -> Principal:
    return Principal(
        PrincipalKind.MEMBER,
        ProjectName(project),
        MemberName("m"),
        role,
        reads=frozenset(map(DatasetName, reads)),
        writes=frozenset(map(DatasetName, writes)),
    )


PEOPLE = {
    "owner": member(Role.DATA_OWNER),
    "scientist": member(Role.DATA_SCIENTIST),
    "observer": member(Role.OBSERVER),
    "device": member(Role.DEVICE, writes=["ecg"]),
    "service": member(Role.SERVICE, reads=["ecg"], writes=["beats"]),
    "stranger": member(Role.DATA_OWNER, "virology"),
    "administrator": administrator(),
}


class Verifier:
    """Grants are the names of people."""

    def verify(self, token: str) -> Principal:
        if token not in PEOPLE:
            raise Unauthenticated("the grant is not one of this platform's")
        return PEOPLE[token]


class Datasets:
    """What control would say of datasets."""

    def __init__(self) -> None:
        self.permission = DatasetPermission.EDITABLE_BY_OWNERS

    def dataset(self, _: object, project: ProjectName, name: DatasetName) -> Dataset | None:
        return Dataset(project, name, DatasetKind.TOPIC, self.permission, 1, {}, "")


class Door:
    """A registry and its callers."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.datasets = Datasets()
        self.client = self._client()

    def _client(self) -> TestClient:
        app = FastAPI()
        app.include_router(registry)
        app.state.registry = RegistryService(self.log)
        app.state.verifier = Verifier()
        app.state.subject_datasets = self.datasets
        return TestClient(app)

    def restart(self) -> None:
        self.log = MemoryLog(self.log.records)
        self.client = self._client()

    def __call__(self, method: str, path: str, body: Any = None, *, who: str = "owner", **headers: str) -> Any:
        sent = {"Authorization": f"Bearer {who}", "Content-Type": V1, **{key.replace("_", "-"): value for key, value in headers.items()}}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return self.client.request(method, f"/registry{path}", content=content, headers=sent)

    def register(self, schema: str = ONE, subject: str = "icu.ecg-value", who: str = "owner") -> int:
        answer = self("POST", f"/subjects/{subject}/versions", {"schema": schema}, who=who)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])


@pytest.fixture
def door() -> Door:
    return Door()


def code(answer: Any) -> tuple[int, int]:
    assert answer.headers["content-type"] == V1
    assert set(answer.json()) == {"error_code", "message"}
    return answer.status_code, answer.json()["error_code"]


def test_a_schema_is_registered_and_found_by_id_and_version(door: Door) -> None:
    number = door.register()
    assert door("GET", f"/schemas/ids/{number}").json() == {"schema": ONE}
    expected = {"subject": "icu.ecg-value", "version": 1, "id": number, "schema": ONE}
    assert door("GET", "/subjects/icu.ecg-value/versions/latest").json() == expected
    assert door("GET", "/subjects/icu.ecg-value/versions/1").json() == expected
    assert door("GET", "/subjects/icu.ecg-value/versions/-1/schema").text == ONE
    assert door("GET", f"/schemas/ids/{number}/schema").text == ONE
    assert door("GET", f"/schemas/ids/{number}/versions").json() == [{"subject": "icu.ecg-value", "version": 1}]
    assert door("GET", f"/schemas/ids/{number}/subjects").json() == ["icu.ecg-value"]
    assert door("POST", "/subjects/icu.ecg-value", {"schema": json.dumps(json.loads(ONE), indent=2)}).json() == expected


def test_an_equal_schema_keeps_its_id_also_under_another_subject_of_the_project(door: Door) -> None:
    number = door.register()
    assert door.register(json.dumps(json.loads(ONE), indent=2)) == number
    assert door.register(subject="icu.copy-value") == number
    assert door("GET", "/subjects/icu.ecg-value/versions").json() == [1]


def test_another_project_with_the_same_schema_learns_nothing(door: Door) -> None:
    number = door.register()
    other = door.register(subject="virology.ecg-value", who="stranger")
    assert other != number
    assert code(door("GET", f"/schemas/ids/{number}", who="stranger")) == (404, 40403)
    assert door("GET", f"/schemas/ids/{number}/subjects").json() == ["icu.ecg-value"]


def test_what_one_may_not_see_answers_as_what_does_not_exist(door: Door) -> None:
    door.register()
    for method, path, body in [
        ("GET", "/subjects/{}/versions", None),
        ("GET", "/subjects/{}/versions/1", None),
        ("GET", "/subjects/{}/versions/1/schema", None),
        ("POST", "/subjects/{}", {"schema": ONE}),
        ("DELETE", "/subjects/{}", None),
        ("DELETE", "/subjects/{}/versions/1", None),
        ("POST", "/compatibility/subjects/{}/versions/1", {"schema": ONE}),
        ("GET", "/config/{}", None),
        ("PUT", "/config/{}", {"compatibility": "NONE"}),
        ("GET", "/mode/{}", None),
    ]:
        for who in ("stranger", "administrator"):
            seen = door(method, path.format("icu.ecg-value"), body, who=who)
            unseen = door(method, path.format("icu.none-value"), body, who=who)
            assert code(seen) == code(unseen) == (404, 40401)
            assert seen.json()["message"] == unseen.json()["message"].replace("icu.none-value", "icu.ecg-value")
    assert door("GET", "/subjects", who="stranger").json() == []


def test_only_who_may_write_a_dataset_registers_new_schemas_for_it(door: Door) -> None:
    post = ("POST", "/subjects/icu.ecg-value/versions", {"schema": ONE})
    assert {
        who: door(*post, who=who).status_code for who in ("scientist", "observer", "device", "service", "stranger", "administrator")
    } == {
        "scientist": 403,
        "observer": 403,
        "device": 403,
        "service": 403,
        "stranger": 403,
        "administrator": 403,
    }
    door.datasets.permission = DatasetPermission.EDITABLE
    door.register(who="scientist")
    assert door.register(subject="icu.beats-value", who="service") > 0


def test_whoever_reads_a_subject_gets_the_id_of_a_schema_that_it_has(door: Door) -> None:
    number = door.register()
    assert [door.register(who=who) for who in ("device", "service", "observer", "scientist")] == [number] * 4


def test_a_device_sees_the_subjects_of_its_own_topics_alone(door: Door) -> None:
    door.register()
    door.register(TWO, "icu.labs-value")
    assert door("GET", "/subjects", who="device").json() == ["icu.ecg-value"]
    assert code(door("GET", "/subjects/icu.labs-value/versions", who="device")) == (404, 40401)


def test_an_incompatible_schema_is_refused_and_leaves_nothing(door: Door) -> None:
    door.register()
    answer = door("POST", "/subjects/icu.ecg-value/versions", {"schema": WRONG})
    assert code(answer) == (409, 409)
    assert "READER_FIELD_MISSING_DEFAULT_VALUE" in answer.json()["message"]
    assert door("GET", "/subjects/icu.ecg-value/versions").json() == [1]


def test_a_schema_whose_records_would_be_refused_is_not_registered(door: Door) -> None:
    large = json.dumps({"type": "record", "name": "R", "fields": [{"name": "f", "type": {"type": "fixed", "name": "F", "size": 1025}}]})
    answer = door("POST", "/subjects/icu.ecg-value/versions", {"schema": large})
    assert code(answer) == (422, 42209)
    assert "1024 bytes together: use bytes" in answer.json()["message"]


def test_compatibility_is_answered_with_reasons_on_request(door: Door) -> None:
    door.register()
    path = "/compatibility/subjects/icu.ecg-value/versions"
    assert door("POST", f"{path}/latest", {"schema": TWO}).json() == {"is_compatible": True}
    assert door("POST", f"{path}/1", {"schema": WRONG}).json() == {"is_compatible": False}
    assert len(door("POST", f"{path}?verbose=true", {"schema": WRONG}).json()["messages"]) == 1
    assert door("POST", "/compatibility/subjects/icu.new-value/versions/latest", {"schema": ONE}).json() == {"is_compatible": True}
    assert code(door("POST", f"{path}/9", {"schema": ONE})) == (404, 40402)


def test_levels_are_set_for_subjects_and_not_for_the_platform(door: Door) -> None:
    assert door("GET", "/config").json() == {"compatibilityLevel": "BACKWARD"}
    assert code(door("PUT", "/config", {"compatibility": "NONE"}))[0] == 403
    assert code(door("GET", "/config/icu.ecg-value")) == (404, 40408)
    assert door("GET", "/config/icu.ecg-value?defaultToGlobal=true").json() == {"compatibilityLevel": "BACKWARD"}
    assert door("PUT", "/config/icu.ecg-value", {"compatibility": "none"}).json() == {"compatibility": "NONE"}
    assert door("GET", "/config/icu.ecg-value").json() == {"compatibilityLevel": "NONE"}
    door.register()
    door.register(WRONG)
    assert code(door("PUT", "/config/icu.ecg-value", {"compatibility": "MOSTLY"})) == (422, 42203)
    assert code(door("PUT", "/config/icu.ecg-value", {"compatibility": "FULL"}, who="observer"))[0] == 403
    assert door("DELETE", "/config/icu.ecg-value").json() == {"compatibility": "NONE"}
    assert code(door("DELETE", "/config/icu.ecg-value")) == (404, 40408)


def test_deleting_is_soft_first_and_then_for_good(door: Door) -> None:
    number = door.register()
    door.register(TWO)
    assert code(door("DELETE", "/subjects/icu.ecg-value/versions/1?permanent=true")) == (404, 40407)
    assert door("DELETE", "/subjects/icu.ecg-value/versions/1").json() == 1
    assert code(door("DELETE", "/subjects/icu.ecg-value/versions/1")) == (404, 40406)
    assert door("GET", "/subjects/icu.ecg-value/versions").json() == [2]
    assert code(door("DELETE", "/subjects/icu.ecg-value?permanent=true")) == (404, 40405)
    assert door("DELETE", "/subjects/icu.ecg-value").json() == [2]
    assert code(door("DELETE", "/subjects/icu.ecg-value")) == (404, 40404)
    assert code(door("GET", "/subjects/icu.ecg-value/versions")) == (404, 40401)
    assert door("GET", "/subjects/icu.ecg-value/versions?deleted=true").json() == [1, 2]
    assert door("GET", f"/schemas/ids/{number}").json() == {"schema": ONE}
    assert door("GET", "/subjects?deletedOnly=true").json() == ["icu.ecg-value"]
    assert door("DELETE", "/subjects/icu.ecg-value?permanent=true").json() == [1, 2]
    assert code(door("GET", f"/schemas/ids/{number}")) == (404, 40403)
    assert door.register() > number + 1


def test_version_numbers_go_on_after_a_soft_delete(door: Door) -> None:
    number = door.register()
    door("DELETE", "/subjects/icu.ecg-value")
    assert door.register() == number
    assert door("GET", "/subjects/icu.ecg-value/versions").json() == [2]


def test_a_restart_changes_no_answer(door: Door) -> None:
    door.register()
    door.register(TWO)
    door.register(WRONG, "icu.labs-value")
    door("PUT", "/config/icu.ecg-value", {"compatibility": "FULL"})
    door("DELETE", "/subjects/icu.labs-value")
    asked = [
        "/subjects?deleted=true",
        "/subjects/icu.ecg-value/versions/latest",
        "/config/icu.ecg-value",
        "/schemas/ids/3",
        "/schemas/ids/1/versions",
    ]
    before = [door("GET", path).text for path in asked]
    door.restart()
    assert [door("GET", path).text for path in asked] == before


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/subjects/icu.ecg-value/versions/0", None, (422, 42202)),
        ("GET", "/subjects/icu.ecg-value/versions/newest", None, (422, 42202)),
        ("GET", "/subjects/icu.ecg-value/versions/7", None, (404, 40402)),
        ("GET", "/subjects/icu.none-value/versions", None, (404, 40401)),
        ("GET", "/schemas/ids/99", None, (404, 40403)),
        ("GET", "/schemas/ids/x", None, (422, 422)),
        ("GET", "/schemas/ids/1?subject=icu.none-value", None, (404, 40403)),
        ("POST", "/subjects/icu.ecg-value", {"schema": TWO}, (404, 40403)),
        ("POST", "/subjects/icu.ecg-value/versions", {"schema": "{"}, (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", {"schema": 5}, (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", b"{", (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", b"\xff", (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", b"", (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", {"schema": ONE, "schemaType": "JSON"}, (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", {"schema": ONE, "references": [{"name": "n"}]}, (422, 42201)),
        ("POST", "/subjects/icu.ecg-value/versions", {"schema": json.dumps("x" * 70_000)}, (422, 42209)),
        ("POST", "/subjects/com.example.Record/versions", {"schema": ONE}, (403, 403)),
        ("POST", "/subjects/Record/versions", {"schema": ONE}, (422, 42208)),
        ("GET", "/associations/resources/x", None, (404, 404)),
        ("POST", "/v2/anything", {}, (404, 404)),
        ("PUT", "/mode", {"mode": "IMPORT"}, (404, 404)),
    ],
)
def test_what_is_wrong_has_a_code_and_the_registry_s_shape(
    door: Door, method: str, path: str, body: Any, expected: tuple[int, int]
) -> None:
    door.register()
    assert code(door(method, path, body)) == expected


def test_an_empty_subject_is_none(door: Door) -> None:
    number = door.register()
    assert door("GET", f"/schemas/ids/{number}?fetchMaxId=false&subject=").json() == {"schema": ONE}
    assert door("GET", f"/schemas/ids/{number}?fetchMaxId=true").json() == {"schema": ONE, "maxId": number}


def test_normalize_stores_the_one_form_of_equal_schemas(door: Door) -> None:
    text = '{"name":"R","namespace":"a","type":"record","fields":[{"type":{"type":"int"},"name":"x"}]}'
    answer = door("POST", "/subjects/icu.ecg-value/versions?normalize=true", {"schema": text}).json()
    assert answer["schema"] == '{"fields":[{"name":"x","type":"int"}],"name":"a.R","type":"record"}'
    assert door.register(text) == answer["id"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [(V1, 200), ("application/json; charset=utf-8", 200), ("application/octet-stream", 200), ("", 200), ("text/plain", 415)],
)
def test_content_types_in(door: Door, sent: str, status: int) -> None:
    answer = door("POST", "/subjects/icu.ecg-value/versions", {"schema": ONE}, Content_Type=sent)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", V1),
        ("*/*", V1),
        ("application/json", "application/json"),
        ("application/vnd.schemaregistry+json, application/json", "application/vnd.schemaregistry+json"),
        ("text/html, */*;q=0.1", V1),
    ],
)
def test_content_types_out(door: Door, accept: str, answered: str) -> None:
    assert door("GET", "/subjects", Accept=accept).headers["content-type"] == answered


def test_a_client_that_takes_none_of_our_types_is_told_so(door: Door) -> None:
    assert code(door("GET", "/subjects", Accept="text/html")) == (406, 406)


def test_without_a_grant_nothing_is_answered(door: Door) -> None:
    for path in ("", "/subjects", "/schemas/types", "/schemas/ids/1", "/config", "/mode", "/contexts"):
        assert code(door("GET", path, who="nobody")) == (401, 401)


def test_before_the_topic_was_read_the_registry_is_unavailable(door: Door) -> None:
    door.log.away = True
    answer = door("GET", "/subjects")
    assert code(answer) == (503, 503)
    assert answer.headers["retry-after"] == "1"


def test_small_questions_of_clients(door: Door) -> None:
    assert door("GET", "").json() == {}
    assert door("GET", "/schemas/types").json() == ["AVRO"]
    assert door("GET", "/mode").json() == {"mode": "READWRITE"}
    assert door("GET", "/contexts").json() == ["."]
    door.register()
    assert door("GET", "/mode/icu.ecg-value").json() == {"mode": "READWRITE"}
    assert door("GET", "/subjects/icu.ecg-value/versions/1/referencedby").json() == []
    assert door("GET", "/subjects?subjectPrefix=icu.").json() == ["icu.ecg-value"]
    assert door("GET", "/subjects?subjectPrefix=vir").json() == []
