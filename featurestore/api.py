"""The feature store over HTTP: decode, call the service once, encode.

The process sets `app.state.service` (a `FeatureStoreService`), `app.state.models` (a `ModelService`), `app.state.revoke`
and what `tenancy.api.caller` asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any

import orjson
import pyarrow as pa
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from featurestore.arrow_body import arrow_table
from featurestore.models.api import public as models_public
from featurestore.repository import StoredGroup, TrainingDataset
from featurestore.service import Caller, FeatureStoreService, OnlineRequest, OnlineRows, Progress, RowStream
from featurestore.training import training_spec
from tenancy.api import bearer, caller, require_peer
from tenancy.model import Principal
from wardstream.errors import Invalid, LimitExceeded

ARROW_STREAM = "application/vnd.apache.arrow.stream"
SNAPSHOT_HEADER = "X-Wardstream-Snapshot"
# 5 M labels of four columns are about 160 MB.
_MOST_SPINE_BYTES = 512 << 20

public = APIRouter(prefix="/v1", tags=["feature store"])
internal = APIRouter(prefix="/internal/v1")


class Shape(BaseModel):
    """Base of requests: what is not known is refused, so that a misspelt field is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class FeatureBody(Shape):
    """One feature."""

    name: str
    type: str = Field(description="string, int, bigint, float, double, boolean or timestamp")
    description: str = ""


class NewFeatureGroup(Shape):
    """A feature group to create."""

    name: str = Field(description="lower-case words joined by '_'")
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="left out: the next one")
    description: str = ""
    primary_key: list[str]
    event_time: str
    features: list[FeatureBody]
    online_enabled: bool = True
    ttl_seconds: int | None = Field(default=None, description="online rows older than this are not shown")
    partitions: int = 1


class FeatureGroupShown(BaseModel):
    """A feature group."""

    name: str
    version: int
    description: str
    primary_key: list[str]
    event_time: str
    features: list[FeatureBody]
    online_enabled: bool
    ttl_seconds: int | None
    partitions: int
    topic: str
    created_by: str
    created_at: datetime


class OwnedFeatureGroup(FeatureGroupShown):
    """A feature group with its project."""

    project: str


class ProgressShown(BaseModel):
    """How far a group's table is: records = rows + repeats + deletions + rejected."""

    rows: int
    repeats: int
    records: int
    rejected: int
    deletions: int
    offsets: dict[int, int] = Field(description="partition -> next offset; everything below is in the table")
    table_version: int
    newest_event_time: datetime | None


class OnlineGroup(Shape):
    """Features to read of one group."""

    name: str
    version: int = 1
    features: list[str] | None = Field(default=None, description="left out: all of them")


class OnlineReadBody(Shape):
    """An online read."""

    groups: list[OnlineGroup] = Field(min_length=1, max_length=50)
    entities: dict[str, list[str | int]] = Field(description="key column -> values, all lists of one length")


class OnlineGroupRows(BaseModel):
    """Newest values of one group, in the order of the entities; null where there is no row."""

    name: str
    version: int
    columns: dict[str, list[Any]] = Field(description="feature -> values; a timestamp is milliseconds since 1970-01-01 UTC")
    event_time: list[int | None] = Field(description="milliseconds since 1970-01-01 UTC")
    age_seconds: list[float | None]
    note: str | None = Field(description="where no entity has a row: why")


class OnlineReadAnswer(BaseModel):
    """Answer of an online read."""

    groups: list[OnlineGroupRows]


class SqlBody(Shape):
    """One SELECT."""

    sql: str
    max_rows: int | None = Field(default=None, description="more rows than this are an error, not a cut")


class SelectedBody(Shape):
    """Features of one group for training data."""

    group: str
    version: int
    features: list[str] | None = Field(default=None, description="left out: all but keys and event time")
    ttl_seconds: int | None = Field(default=None, description="values older than this at the label's time count as missing")
    known_at: str | None = Field(default=None, description="timestamp feature that says when a row became known")
    prefix: str = Field(default="", description="goes before the features' names")


class TrainingSpecBody(Shape):
    """What training data are made of."""

    label_time: str = Field(description="timestamp column of the spine")
    features: list[SelectedBody]


class TrainingDatasetShown(BaseModel):
    """What a training set was made of."""

    id: str
    label_time: str
    features: list[SelectedBody]
    snapshot: dict[str, int] = Field(description="table -> version that was read")
    labels: int
    created_by: str
    created_at: datetime


class RevocationBody(BaseModel):
    """A member whose access ended."""

    principal: str
    generation: int


def _caller(request: Request, principal: Annotated[Principal, Depends(caller)]) -> Caller:
    return Caller(principal, bearer(request))


def _service(request: Request) -> FeatureStoreService:
    service: FeatureStoreService = request.app.state.service
    return service


async def _spine(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_SPINE_BYTES:
            raise LimitExceeded(f"a spine is at most {_MOST_SPINE_BYTES >> 20} MiB: ask in parts")
    return bytes(body)


Asking = Annotated[Caller, Depends(_caller)]
Service = Annotated[FeatureStoreService, Depends(_service)]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]

_ARROW_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {ARROW_STREAM: {}}, "description": "an Arrow IPC stream"}}


@public.get(
    "/projects/{project}/feature-groups",
    name="feature-groups",
    summary="Feature groups of a project",
    response_model=list[FeatureGroupShown],
)
def feature_groups(asking: Asking, service: Service, project: str) -> list[dict[str, Any]]:
    """Return every version of every group that the caller may know of."""
    return [_shown(stored) for stored in service.groups(asking, project)]


@public.post(
    "/projects/{project}/feature-groups",
    name="create-feature-group",
    summary="Create a feature group, or return the equal one that exists",
    response_model=FeatureGroupShown,
)
def create_feature_group(asking: Asking, service: Service, project: str, body: NewFeatureGroup) -> dict[str, Any]:
    """Return the group when its topic, subject, online rows and table are there."""
    return _shown(service.create_group(asking, project, body.model_dump(exclude={"partitions"}), partitions=body.partitions))


@public.get(
    "/projects/{project}/feature-groups/{group}/{version}",
    name="feature-group",
    summary="One version of a feature group",
    response_model=FeatureGroupShown,
)
def feature_group(asking: Asking, service: Service, project: str, group: str, version: Version, for_insert: bool = False) -> dict[str, Any]:
    """Return the version; with `for_insert`, refuse where the project has no room for more rows."""
    found = service.group_for_insert if for_insert else service.group
    return _shown(found(asking, project, group, version))


@public.delete(
    "/projects/{project}/feature-groups/{group}/{version}",
    name="delete-feature-group",
    summary="Delete a version of a feature group with its data",
    status_code=204,
)
def delete_feature_group(asking: Asking, service: Service, project: str, group: str, version: Version) -> Response:
    """Remove topic, subject and table."""
    service.delete_group(asking, project, group, version)
    return Response(status_code=204)


@public.get(
    "/projects/{project}/feature-groups/{group}/{version}/progress",
    name="feature-group-progress",
    summary="How far a feature group's table is",
    response_model=ProgressShown,
)
def progress(asking: Asking, service: Service, project: str, group: str, version: Version) -> Progress:
    """Return counts and offsets of the newest table version."""
    return service.progress(asking, project, group, version)


@public.get(
    "/projects/{project}/feature-groups/{group}/{version}/rows",
    name="feature-group-rows",
    summary="Rows of a feature group",
    response_class=StreamingResponse,
    responses=_ARROW_ANSWER,
)
def rows(
    asking: Asking,
    service: Service,
    project: str,
    group: str,
    version: Version,
    limit: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> StreamingResponse:
    """Return the rows as Arrow; of rows with equal key and event time the one ingested last."""
    return _arrow(service.rows(asking, project, group, version, limit=limit))


@public.post(
    "/projects/{project}/online-reads",
    name="online-read",
    summary="Newest values of entities",
    response_class=Response,
    responses={200: {"model": OnlineReadAnswer}},
)
def online_read(asking: Asking, service: Service, project: str, body: OnlineReadBody) -> Response:
    """Return the newest values of each entity, group by group."""
    requests = [OnlineRequest(each.name, each.version, tuple(each.features) if each.features is not None else None) for each in body.groups]
    found = service.online_read(asking, project, requests, body.entities)
    # Encoded directly: validating thousands of values again would take longer than reading them.
    return Response(orjson.dumps({"groups": [_online_rows(each) for each in found]}), media_type="application/json")


@public.post(
    "/projects/{project}/sql",
    name="sql",
    summary="Answer one SELECT over the feature groups' tables",
    response_class=StreamingResponse,
    responses=_ARROW_ANSWER,
)
def sql(asking: Asking, service: Service, project: str, body: SqlBody) -> StreamingResponse:
    """Return the answer as Arrow; tables are named like the groups (newest version) or `<group>_<version>`."""
    answer = service.sql(asking, project, body.sql, max_rows=body.max_rows)
    return StreamingResponse(answer.chunks(), media_type=ARROW_STREAM, headers={"Content-Length": str(answer.size)})


@public.post(
    "/projects/{project}/training-data",
    name="training-data",
    summary="Features as they were known at each label's time",
    response_class=StreamingResponse,
    responses=_ARROW_ANSWER,
    openapi_extra={"requestBody": {"required": True, "content": {ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}}}}},
)
def training_data(
    asking: Asking,
    service: Service,
    project: str,
    spine: Annotated[bytes, Depends(_spine)],
    spec: Annotated[str, Query(description="JSON: label_time, features")],
) -> StreamingResponse:
    """Return the spine's rows in their order with the features; the header X-Wardstream-Snapshot names the table versions."""
    wanted = _spec(spec)
    found = service.training_data(
        asking, project, training_spec(wanted.label_time, [each.model_dump() for each in wanted.features]), arrow_table(spine)
    )
    snapshot = {"id": found.dataset.id, "tables": dict(found.dataset.snapshot)}
    return _arrow(found.rows, headers={SNAPSHOT_HEADER: orjson.dumps(snapshot).decode()})


@public.get(
    "/projects/{project}/training-data",
    name="training-datasets",
    summary="What training sets were made of, the newest first",
    response_model=list[TrainingDatasetShown],
)
def training_datasets(asking: Asking, service: Service, project: str) -> list[TrainingDataset]:
    """Return specs and table versions; no rows."""
    return service.training_datasets(asking, project)


# As routes of their own, not as a router inside: the gateway reads each public route from this list.
public.routes.extend(models_public.routes)


@internal.get("/feature-groups", name="all-feature-groups", response_model=list[OwnedFeatureGroup])
def all_feature_groups(request: Request, service: Service) -> list[dict[str, Any]]:
    """Return the groups of every project, for the process that fills their tables."""
    require_peer(request, "ws-stream-worker")
    return [{**_shown(stored), "project": stored.group.project} for stored in service.all_groups()]


@internal.get("/projects/{project}/feature-groups/{group}/{version}/offsets", name="feature-group-offsets")
def offsets(request: Request, asking: Asking, service: Service, project: str, group: str, version: Version) -> Mapping[int, int]:
    """Return the next offset of each partition, for inserts that wait until the table has them."""
    require_peer(request, "ws-gateway")
    return service.offsets(asking, project, group, version)


@internal.post("/revocations", name="revocation", status_code=204)
def revocation(request: Request, body: RevocationBody) -> Response:
    """Refuse a member's grants from now on and end what runs for it."""
    require_peer(request, "ws-control")
    revoke: Callable[[str, int], None] = request.app.state.revoke
    revoke(body.principal, body.generation)
    return Response(status_code=204)


def _shown(stored: StoredGroup) -> dict[str, Any]:
    return {
        **stored.group.document(),
        "topic": stored.group.topic,
        "partitions": stored.partitions,
        "created_by": stored.created_by,
        "created_at": stored.created_at,
    }


def _online_rows(found: OnlineRows) -> Mapping[str, Any]:
    vectors = found.vectors
    return {
        "name": vectors.group.name,
        "version": vectors.group.version,
        "columns": {name: _values(vectors.values[name]) for name in vectors.values.column_names},
        "event_time": vectors.event_time.cast(pa.int64()).to_pylist(),
        "age_seconds": vectors.age_seconds.to_pylist(),
        "note": found.note,
    }


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values as JSON has them: a time as milliseconds since 1970."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _spec(text: str) -> TrainingSpecBody:
    try:
        return TrainingSpecBody.model_validate_json(text)
    except ValueError as error:
        raise Invalid('spec must be JSON such as {"label_time": "t", "features": [{"group": "g", "version": 1}]}') from error


def _arrow(found: RowStream, *, headers: Mapping[str, str] | None = None) -> StreamingResponse:
    return StreamingResponse(_stream(found), media_type=ARROW_STREAM, headers=dict(headers or {}))


def _stream(found: RowStream) -> Iterator[bytes]:
    """Yield an IPC stream, one part for each batch."""
    sink = _Sink()
    with closing(found), pa.ipc.new_stream(sink, found.schema) as writer:
        for batch in found:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


class _Sink:
    """A file that hands over what was written to it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        whole, self._parts = b"".join(self._parts), []
        return whole
