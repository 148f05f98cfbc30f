"""Topics: planned, applied, written to as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from gateway.authentication import Caller
from gateway.routes.body import described, read
from gateway.routes.features import WrittenAnswer, answer, writer
from gateway.routes.platform import caller
from gateway.rows import RowWriter
from topics.plan import AddPartitions, AlterConfig, AlterPermission, Change, CreateTopic, RegisterSchema
from topics.service import ControlHttp, SubjectsHttp, TopicService
from topics.specification import load
from wardstream.client.transport import Transport
from wardstream.names import parse_project

router = APIRouter(prefix="/api/v1", tags=["topics"])

_MOST_RECORDS = 10_000


class Specification(BaseModel):
    """A topics.yaml text."""

    specification: str = Field(max_length=1 << 20)


class RecordsRequest(BaseModel):
    """Records as JSON values, by the newest schema of the topic's values."""

    records: list[Any] = Field(max_length=_MOST_RECORDS)


@dataclass(frozen=True)
class TopicServices:
    """Makes the topic service that acts for one caller."""

    control: Transport
    query: Transport

    def of(self, found: Caller) -> TopicService:
        """Return the service in the caller's name."""
        return TopicService(control=ControlHttp(self.control, grant=found.grant), subjects=SubjectsHttp(self.query, grant=found.grant))


# Described by their names; `gateway.description` adds what they are.
BODIES: tuple[type[BaseModel], ...] = (Specification, RecordsRequest)

CallerNow = Annotated[Caller, Depends(caller)]


async def service(request: Request, found: CallerNow) -> TopicService:
    """Return the topic service of the caller."""
    services: TopicServices = request.app.state.topics
    return services.of(found)


Topics = Annotated[TopicService, Depends(service)]


@router.post("/projects/{project}/topics/plan", summary="What applying a topics.yaml would change", openapi_extra=described(Specification))
async def plan(project: str, request: Request, topics: Topics) -> list[dict[str, Any]]:
    """Return the changes; nothing is changed."""
    body = await read(request, Specification)
    return await run_in_threadpool(lambda: _all_shown(topics.plan(parse_project(project), load(body.specification))))


@router.post(
    "/projects/{project}/topics/apply", summary="Create and alter topics as a topics.yaml says", openapi_extra=described(Specification)
)
async def apply(project: str, request: Request, topics: Topics) -> list[dict[str, Any]]:
    """Return the changes made."""
    body = await read(request, Specification)
    return await run_in_threadpool(lambda: _all_shown(topics.apply(parse_project(project), load(body.specification))))


@router.post(
    "/projects/{project}/topics/{dataset}/records",
    summary="Write JSON records to a topic",
    response_model=WrittenAnswer,
    openapi_extra=described(RecordsRequest),
)
async def records(
    project: str, dataset: str, request: Request, found: CallerNow, rows: Annotated[RowWriter, Depends(writer)]
) -> WrittenAnswer:
    """Produce the records in the caller's name."""
    body = await read(request, RecordsRequest)
    return answer(await rows.records(found, project, dataset, body.records))


def _all_shown(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [_shown(change) for change in changes]


def _shown(change: Change) -> dict[str, Any]:
    """Return a change as people and programs read it; all changes have the same keys."""
    match change:
        case CreateTopic(spec):
            details = {"partitions": spec.partitions, "permission": spec.permission.value, **spec.config}
            return {"change": "create", "topic": spec.name, "details": details}
        case AddPartitions(topic, total):
            return {"change": "add partitions", "topic": topic, "details": {"partitions": total}}
        case AlterConfig(topic, config):
            return {"change": "alter settings", "topic": topic, "details": dict(config)}
        case AlterPermission(topic, permission):
            return {"change": "alter permission", "topic": topic, "details": {"permission": permission.value}}
        case RegisterSchema(topic, _):
            return {"change": "register schema", "topic": topic, "details": {}}
