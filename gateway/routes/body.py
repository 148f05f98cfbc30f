"""JSON bodies that are read after the caller is known; the framework would read them before."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the description says of such a body; `gateway.description` adds the model."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"content": content, "required": True}}


async def read(request: Request, model: type[Model]) -> Model:
    """Return the JSON body as `model`, refused as the framework does."""
    content, kind = await request.body(), request.headers.get("content-type", "")
    if "json" not in kind:
        raise RequestValidationError([{"loc": ("body",), "msg": "JSON is wanted"}])
    try:
        return await run_in_threadpool(model.model_validate_json, content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error
