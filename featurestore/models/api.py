"""Models over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from featurestore.models.repository import Model, ModelFile
from featurestore.models.service import MOST_BYTES, ModelService
from tenancy.api import caller
from tenancy.model import Principal
from wardstream.errors import LimitExceeded

public = APIRouter(prefix="/v1", tags=["models"])


class NewModel(BaseModel):
    """A model to register."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="lower-case words joined by '_'")
    description: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    training_dataset: str | None = Field(default=None, description="id of the training set, from X-Wardstream-Snapshot")


class ModelFileShown(BaseModel):
    """A file of a model."""

    name: str
    size: int
    sha256: str


class ModelShown(BaseModel):
    """One version of a model."""

    name: str
    version: int
    description: str
    metrics: dict[str, Any]
    training_dataset: str | None
    created_by: str
    created_at: datetime
    files: list[ModelFileShown]


def _models(request: Request) -> ModelService:
    service: ModelService = request.app.state.models
    return service


async def _content(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise LimitExceeded(f"a file of a model is at most {MOST_BYTES >> 20} MiB")
    return bytes(body)


Caller = Annotated[Principal, Depends(caller)]
Models = Annotated[ModelService, Depends(_models)]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]


@public.get("/projects/{project}/models", name="models", summary="Models of a project", response_model=list[ModelShown])
def models(principal: Caller, service: Models, project: str) -> list[Model]:
    """Return every version, the newest last."""
    return service.models(principal, project)


@public.post(
    "/projects/{project}/models",
    name="register-model",
    summary="Register the next version of a model",
    status_code=201,
    response_model=ModelShown,
)
def register(principal: Caller, service: Models, project: str, body: NewModel) -> Model:
    """Return the new version."""
    return service.register(
        principal, project, body.name, metrics=body.metrics, description=body.description, training_dataset=body.training_dataset
    )


@public.get("/projects/{project}/models/{model}/{version}", name="model", summary="One version of a model", response_model=ModelShown)
def model_version(principal: Caller, service: Models, project: str, model: str, version: Version) -> Model:
    """Return the version with its files."""
    return service.model(principal, project, model, version)


@public.put(
    "/projects/{project}/models/{model}/{version}/files/{file}",
    name="put-model-file",
    summary="Store a file of a model",
    response_model=ModelFileShown,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def put_file(
    principal: Caller, service: Models, project: str, model: str, version: Version, file: str, content: Annotated[bytes, Depends(_content)]
) -> ModelFile:
    """Store the body under this name, whole or not at all."""
    return service.put_file(principal, project, model, version, file, content)


@public.get(
    "/projects/{project}/models/{model}/{version}/files/{file}",
    name="model-file",
    summary="A file of a model",
    response_class=FileResponse,
)
def get_file(principal: Caller, service: Models, project: str, model: str, version: Version, file: str) -> FileResponse:
    """Return the file's bytes."""
    return FileResponse(service.file(principal, project, model, version, file), media_type="application/octet-stream")
