"""The Confluent Schema Registry v1 surface under `/registry`: paths, content types, shapes and codes that stock clients rely on.

The process that mounts it sets `app.state.registry` (a `RegistryService`) and, to let permissions of datasets count at
registration, `app.state.subject_datasets` (a `SubjectDatasets`). The caller is whom the grant names.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Protocol, TypeVar

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import InvalidSchema
from schemas.model import AVRO, SchemaVersion, owner_of
from schemas.registry import RegistryService
from tenancy.api import caller
from tenancy.model import Dataset, Principal
from wardstream.errors import WardstreamError
from wardstream.names import DatasetName, ProjectName

V1 = "application/vnd.schemaregistry.v1+json"
_OUT = (V1, "application/vnd.schemaregistry+json", "application/json")
_IN = frozenset({*_OUT, "application/octet-stream"})

M = TypeVar("M", bound=BaseModel)


class SubjectDatasets(Protocol):
    """Where the datasets behind subjects are known."""

    def dataset(self, request: Request, project: ProjectName, name: DatasetName) -> Dataset | None:
        """Return the dataset as control knows it, or None."""
        ...


class _WrongContentType(WardstreamError):
    status = 415

    def __init__(self) -> None:
        super().__init__("HTTP 415 Unsupported Media Type")


class _NotAcceptable(WardstreamError):
    status = 406

    def __init__(self) -> None:
        super().__init__("HTTP 406 Not Acceptable")


class _RegistryRoute(APIRoute):
    """Answers every error in Confluent's shape, whatever the process around does with errors."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                _accepted(request)
                return await handle(request)
            except WardstreamError as error:
                return _error(getattr(error, "error_code", error.status), error.message, error.status)
            except RequestValidationError as error:
                # Only the places: the values may be anything.
                places = ", ".join(".".join(str(part) for part in fault["loc"]) for fault in error.errors())
                return _error(422, f"these parameters cannot be used: {places}", 422)

        return answer


registry = APIRouter(prefix="/registry", route_class=_RegistryRoute, tags=["schema registry"])


class SchemaBody(BaseModel):
    """A schema to register, look up or check."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    # Named apart from BaseModel's own `schema`.
    text: str = Field(alias="schema", description="the schema as text")
    schema_type: str | None = Field(default=None, alias="schemaType", description="AVRO, which is also the default")
    references: list[Any] | None = Field(default=None, description="not supported: must be empty")


class LevelBody(BaseModel):
    """A compatibility level."""

    model_config = ConfigDict(extra="ignore")

    compatibility: str = Field(description="NONE, BACKWARD, FORWARD, FULL, or one of them with _TRANSITIVE")


def _service(request: Request) -> RegistryService:
    service: RegistryService = request.app.state.registry
    return service


async def _body(request: Request) -> bytes:
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # An empty content type is what some clients send with an empty idea of it.
    if sent and sent not in _IN:
        raise _WrongContentType
    return await request.body()


Service = Annotated[RegistryService, Depends(_service)]
Caller = Annotated[Principal, Depends(caller)]
Body = Annotated[bytes, Depends(_body)]
Flag = Annotated[bool, Query()]


@registry.get("", name="registry-root", summary="Answer that there is a registry")
@registry.get("/", include_in_schema=False)
def root(request: Request, _: Caller) -> Response:
    """Return an empty object."""
    return _json(request, {})


@registry.get("/subjects", name="registry-subjects", summary="Subjects that the caller may know of")
def subjects(
    request: Request,
    service: Service,
    principal: Caller,
    prefix: Annotated[str, Query(alias="subjectPrefix")] = "",
    deleted: Flag = False,
    deleted_only: Annotated[bool, Query(alias="deletedOnly")] = False,
) -> Response:
    """Return the subjects' names."""
    # Clients of contexts send ":*:" for "all contexts".
    prefix = prefix.removeprefix(":*:")
    return _json(request, service.subjects(principal, prefix=prefix, deleted=deleted, deleted_only=deleted_only))


@registry.post("/subjects/{subject}", name="registry-lookup", summary="Look a schema up under a subject")
def lookup(request: Request, service: Service, principal: Caller, subject: str, body: Body, deleted: Flag = False) -> Response:
    """Return the version that equals the schema."""
    sent = _parsed(SchemaBody, body)
    found = service.lookup(principal, subject, sent.text, schema_type=sent.schema_type or AVRO, deleted=deleted)
    return _json(request, _shown(found))


@registry.delete("/subjects/{subject}", name="registry-delete-subject", summary="Delete a subject")
def delete_subject(request: Request, service: Service, principal: Caller, subject: str, permanent: Flag = False) -> Response:
    """Return the numbers of the versions deleted."""
    return _json(request, service.delete_subject(principal, subject, permanent=permanent, dataset=_dataset_of(request, principal, subject)))


@registry.get("/subjects/{subject}/versions", name="registry-versions", summary="Version numbers of a subject")
def versions(
    request: Request,
    service: Service,
    principal: Caller,
    subject: str,
    deleted: Flag = False,
    deleted_only: Annotated[bool, Query(alias="deletedOnly")] = False,
) -> Response:
    """Return the numbers, oldest first."""
    return _json(request, service.versions(principal, subject, deleted=deleted, deleted_only=deleted_only))


@registry.post("/subjects/{subject}/versions", name="registry-register", summary="Register a schema")
def register(request: Request, service: Service, principal: Caller, subject: str, body: Body, normalize: Flag = False) -> Response:
    """Return the schema's id; an equal schema keeps the id it has."""
    sent = _parsed(SchemaBody, body)
    made = service.register(
        principal,
        subject,
        sent.text,
        dataset=_dataset_of(request, principal, subject),
        schema_type=sent.schema_type or AVRO,
        references=sent.references,
        normalize=normalize,
    )
    return _json(request, {"id": made.id, "version": made.version, "schema": made.schema})


@registry.get("/subjects/{subject}/versions/{version}", name="registry-version", summary="One version of a subject")
def version(request: Request, service: Service, principal: Caller, subject: str, version: str, deleted: Flag = False) -> Response:
    """Return the version; `latest` and -1 name the newest that is not deleted."""
    return _json(request, _shown(service.version(principal, subject, version, deleted=deleted)))


@registry.get("/subjects/{subject}/versions/{version}/schema", name="registry-version-schema", summary="The schema of one version")
def version_schema(request: Request, service: Service, principal: Caller, subject: str, version: str, deleted: Flag = False) -> Response:
    """Return the schema itself."""
    return _raw(request, service.version(principal, subject, version, deleted=deleted).schema)


@registry.get("/subjects/{subject}/versions/{version}/referencedby", name="registry-referenced-by", summary="Schemas that refer to it")
def referenced_by(request: Request, service: Service, principal: Caller, subject: str, version: str) -> Response:
    """Return an empty list: references are not taken here."""
    service.version(principal, subject, version)
    return _json(request, [])


@registry.delete("/subjects/{subject}/versions/{version}", name="registry-delete-version", summary="Delete one version")
def delete_version(request: Request, service: Service, principal: Caller, subject: str, version: str, permanent: Flag = False) -> Response:
    """Return the number of the version deleted."""
    dataset = _dataset_of(request, principal, subject)
    return _json(request, service.delete_version(principal, subject, version, permanent=permanent, dataset=dataset))


@registry.get("/schemas/types", name="registry-types", summary="Kinds of schemas taken here")
def types(request: Request, _: Caller) -> Response:
    """Return the kinds' names."""
    return _json(request, [AVRO])


@registry.get("/schemas/ids/{schema_id}", name="registry-schema", summary="A schema by its id")
def by_id(
    request: Request,
    service: Service,
    principal: Caller,
    schema_id: int,
    subject: str = "",
    with_highest: Annotated[bool, Query(alias="fetchMaxId")] = False,
) -> Response:
    """Return the schema's text. An empty `subject`, which Flink sends, means none."""
    found = service.by_id(principal, schema_id, subject=subject or None)
    answer: dict[str, Any] = {"schema": found.schema}
    if found.schema_type != AVRO:
        answer["schemaType"] = found.schema_type
    if found.references is not None:
        answer["references"] = orjson.loads(found.references)
    if with_highest:
        answer["maxId"] = service.highest_id()
    return _json(request, answer)


@registry.get("/schemas/ids/{schema_id}/schema", name="registry-schema-text", summary="The schema itself by its id")
def text_by_id(request: Request, service: Service, principal: Caller, schema_id: int, subject: str = "") -> Response:
    """Return the schema itself."""
    return _raw(request, service.by_id(principal, schema_id, subject=subject or None).schema)


@registry.get("/schemas/ids/{schema_id}/subjects", name="registry-schema-subjects", summary="Subjects that use a schema")
def subjects_by_id(
    request: Request, service: Service, principal: Caller, schema_id: int, subject: str = "", deleted: Flag = False
) -> Response:
    """Return the subjects' names."""
    found = service.versions_with(principal, schema_id, deleted=deleted)
    return _json(request, sorted({v.subject for v in found if not subject or v.subject == subject}))


@registry.get("/schemas/ids/{schema_id}/versions", name="registry-schema-versions", summary="Subjects and versions that use a schema")
def versions_by_id(
    request: Request, service: Service, principal: Caller, schema_id: int, subject: str = "", deleted: Flag = False
) -> Response:
    """Return pairs of subject and version."""
    found = service.versions_with(principal, schema_id, deleted=deleted)
    return _json(request, [{"subject": v.subject, "version": v.version} for v in found if not subject or v.subject == subject])


@registry.post("/compatibility/subjects/{subject}/versions", name="registry-check", summary="Check a schema against a subject's versions")
def check(request: Request, service: Service, principal: Caller, subject: str, body: Body, verbose: Flag = False) -> Response:
    """Return whether the schema could be registered."""
    sent = _parsed(SchemaBody, body)
    return _verdict(request, service.check(principal, subject, sent.text, schema_type=sent.schema_type or AVRO), verbose)


@registry.post(
    "/compatibility/subjects/{subject}/versions/{version}", name="registry-check-version", summary="Check a schema against one version"
)
def check_version(
    request: Request, service: Service, principal: Caller, subject: str, version: str, body: Body, verbose: Flag = False
) -> Response:
    """Return whether the schema could follow that version at the subject's level."""
    sent = _parsed(SchemaBody, body)
    problems = service.check(principal, subject, sent.text, version=version, schema_type=sent.schema_type or AVRO)
    return _verdict(request, problems, verbose)


@registry.get("/config", name="registry-level", summary="The platform's compatibility level")
def level(request: Request, service: Service, principal: Caller) -> Response:
    """Return the level of subjects that have none of their own."""
    return _json(request, {"compatibilityLevel": service.level(principal, None)})


@registry.put("/config", name="registry-set-level", summary="Refused: the platform's level is the platform's")
def set_level(request: Request, service: Service, principal: Caller, body: Body) -> Response:
    """Refuse."""
    return _json(request, {"compatibility": service.set_level(principal, None, _parsed(LevelBody, body).compatibility)})


@registry.get("/config/{subject}", name="registry-subject-level", summary="Compatibility level of a subject")
def subject_level(
    request: Request,
    service: Service,
    principal: Caller,
    subject: str,
    default_to_global: Annotated[bool, Query(alias="defaultToGlobal")] = False,
) -> Response:
    """Return the subject's own level, or on request the one that applies."""
    return _json(request, {"compatibilityLevel": service.level(principal, subject, default_to_global=default_to_global)})


@registry.put("/config/{subject}", name="registry-set-subject-level", summary="Set the compatibility level of a subject")
def set_subject_level(request: Request, service: Service, principal: Caller, subject: str, body: Body) -> Response:
    """Return the level set."""
    sent = _parsed(LevelBody, body)
    dataset = _dataset_of(request, principal, subject)
    return _json(request, {"compatibility": service.set_level(principal, subject, sent.compatibility, dataset=dataset)})


@registry.delete("/config/{subject}", name="registry-remove-subject-level", summary="Remove the compatibility level of a subject")
def remove_subject_level(request: Request, service: Service, principal: Caller, subject: str) -> Response:
    """Return the level removed."""
    dataset = _dataset_of(request, principal, subject)
    return _json(request, {"compatibility": service.set_level(principal, subject, None, dataset=dataset)})


@registry.get("/mode", name="registry-mode", summary="What the registry accepts")
def mode(request: Request, service: Service, principal: Caller) -> Response:
    """Return the global mode."""
    return _json(request, {"mode": service.mode(principal, None)})


@registry.get("/mode/{subject}", name="registry-subject-mode", summary="What a subject accepts")
def subject_mode(request: Request, service: Service, principal: Caller, subject: str) -> Response:
    """Return the mode that applies to the subject."""
    return _json(request, {"mode": service.mode(principal, subject)})


@registry.get("/contexts", name="registry-contexts", summary="Contexts: the default one alone")
def contexts(request: Request, _: Caller) -> Response:
    """Return the default context."""
    return _json(request, ["."])


# Last: clients probe addresses of newer registries and fall back only on a 404 of this shape.
@registry.api_route("/{anything:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
def unknown(anything: str) -> Response:
    """Answer as a registry answers for an address that it does not have."""
    return _error(404, "HTTP 404 Not Found", 404)


def _dataset_of(request: Request, principal: Principal, subject: str) -> Dataset | None:
    source: SubjectDatasets | None = getattr(request.app.state, "subject_datasets", None)
    owner = owner_of(subject)
    if source is None or owner is None or owner.dataset is None or owner.project != principal.project:
        return None
    return source.dataset(request, owner.project, owner.dataset)


def _parsed(kind: type[M], body: bytes) -> M:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(str(part) for part in fault["loc"]) or "the body" for fault in error.errors()}))
        raise InvalidSchema(f"the body is a JSON object; missing or wrong: {fields}") from error


def _shown(found: SchemaVersion) -> dict[str, Any]:
    # Fields that are not set are left out: an extra one once broke Java clients.
    shown: dict[str, Any] = {"subject": found.subject, "version": found.version, "id": found.id}
    if found.schema_type != AVRO:
        shown["schemaType"] = found.schema_type
    if found.references is not None:
        shown["references"] = orjson.loads(found.references)
    return {**shown, "schema": found.schema}


def _verdict(request: Request, problems: list[str], verbose: bool) -> Response:
    answer: dict[str, Any] = {"is_compatible": not problems}
    if verbose:
        answer["messages"] = problems
    return _json(request, answer)


def _json(request: Request, value: object) -> Response:
    return Response(orjson.dumps(value), media_type=_accepted(request))


def _raw(request: Request, text: str) -> Response:
    return Response(text.encode(), media_type=_accepted(request))


def _accepted(request: Request) -> str:
    """Return the content type to answer with; raises the 406 of a registry where the client takes none of ours."""
    wanted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    for kind in wanted:
        if kind in _OUT:
            return kind
        if kind in ("", "*/*", "application/*"):
            return V1
    raise _NotAcceptable


def _error(code: int, message: str, status: int) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(orjson.dumps({"error_code": code, "message": message}), status_code=status, media_type=V1, headers=headers)
