"""The OpenAPI description of everything below /api: the gateway's own routes and those that it passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi

from gateway.routes import door_tokens, features, platform, topics

# Who holds an enrolment token, or logs in, has no other proof yet.
WITHOUT_GRANT = ("/v1/enrolments/", "/v1/login/")

# Here the certificate is the whole of what is shown yet.
DOOR_PROOF = ("/api/v1/door-challenges", "/api/v1/door-tokens")

OWN = (platform.router, door_tokens.router, topics.router, features.router)

_VERSION = "1"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})
_ERROR = "ErrorAnswer"
_ERROR_SCHEMA: dict[str, Any] = {
    "title": _ERROR,
    "description": "What went wrong, and what would be right. Codes: invalid, invalid-name (422), unauthenticated (401), denied (403), "
    "not-found (404, also for what the caller may not know of), conflict, unsafe-change (409), limit-exceeded (429), unavailable (503).",
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
}
_ERROR_ANSWER = {
    "description": "An error",
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR}"}}},
}
# FastAPI's own shape of errors, which no route of ours answers with.
_UNUSED = ("HTTPValidationError", "ValidationError")


def describe(behind: Sequence[APIRouter]) -> dict[str, Any]:
    """Return the description; `behind` are the public routers of the processes that requests are passed on to.

    Raises `ValueError` where two routers mean different things by one model's name.
    """
    whole: dict[str, Any] = get_openapi(
        title="Wardstream",
        version=_VERSION,
        description="Projects, topics, feature groups, processors and programs of a hospital's streams.",
        routes=[route for router in OWN for route in router.routes],
    )
    paths, schemas = whole["paths"], whole["components"]["schemas"]
    # Read by their routes themselves, after the caller is known, so that the framework does not see them.
    schemas.update({model.__name__: model.model_json_schema() for model in (*topics.BODIES, *door_tokens.BODIES)})
    for router in behind:
        part = get_openapi(title="", version=_VERSION, routes=router.routes)
        for path, operations in part.get("paths", {}).items():
            paths.setdefault(f"/api{path}", {}).update(operations)
        for name, schema in part.get("components", {}).get("schemas", {}).items():
            if schemas.setdefault(name, schema) != schema:
                raise ValueError(f"two routers describe a model {name}: rename one of them")
    for name in _UNUSED:
        schemas.pop(name, None)
    schemas[_ERROR] = _ERROR_SCHEMA
    for path, operations in paths.items():
        for method in _METHODS & operations.keys():
            responses = operations[method]["responses"]
            responses.pop("422", None)
            responses["default"] = _ERROR_ANSWER
            if path.removeprefix("/api").startswith(WITHOUT_GRANT):
                operations[method]["security"] = []
    whole["components"]["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "an API key"},
        "password": {"type": "http", "scheme": "basic", "description": "an API key as the password, with any user, for stock clients"},
        "certificate": {"type": "mutualTLS", "description": "on the doors for client certificates"},
        "doorToken": {"type": "http", "scheme": "bearer", "description": "there, beside the certificate: see POST /api/v1/door-tokens"},
    }
    whole["security"] = [{"apiKey": []}, {"password": []}, {"certificate": [], "doorToken": []}]
    for path in DOOR_PROOF:
        paths[path]["post"]["security"] = [{"certificate": []}]
    whole["paths"] = dict(sorted(paths.items()))
    return whole


def table(described: Mapping[str, Any]) -> str:
    """Return the routes as a Markdown table: method, path, summary."""
    lines = ["| method | path | what it does |", "|---|---|---|"]
    for path, operations in described["paths"].items():
        lines += [f"| {method.upper()} | `{path}` | {operation['summary']} |" for method, operation in sorted(operations.items())]
    return "\n".join(lines)
