"""Reading and checking the audit."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel

from tenancy.audit import AuditEntry, Outcome
from tenancy.routes.context import Caller, Service, Trail, public
from wardstream.names import parse_project


class AuditEntryState(BaseModel):
    """One entry of the audit of rights."""

    sequence: int
    at: str
    principal: str
    project: str | None
    action: str
    subject: str
    outcome: str
    details: str
    previous_hash: str
    hash: str


class ChainState(BaseModel):
    """Whether one process' chain is as it was written; `broken_at` is the first entry that is not."""

    chain: str
    entries: int
    intact: bool
    broken_at: int | None


class AuditVerification(BaseModel):
    """Whether the audit is as it was written: the chain of rights, and the chains of access against the signed checkpoints.

    `broken_at` is the first entry of the chain of rights that is not; `away` are chains that could not be read.
    """

    entries: int
    intact: bool
    broken_at: int | None
    chains: list[ChainState]
    away: list[str]
    checkpoints: int
    checkpoints_intact: bool


class PublicKey(BaseModel):
    """The key (PEM, Ed25519) that the audit's checkpoints are signed with: keep it where you check exports."""

    public_key: str


@public.get("/audit", name="list-audit", summary="The audit of rights")
def list_audit(
    principal: Caller,
    service: Service,
    project: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int | None, Query(ge=0)] = None,
) -> list[AuditEntryState]:
    """The newest entries, or those after number `after`, oldest first: a project's to its owners, all to an administrator."""
    found = service.audit_entries(principal, parse_project(project) if project is not None else None, limit=limit, after=after)
    return [_entry(entry) for entry in found]


@public.get("/audit/verify", name="verify-audit", summary="Check the audit's chain of hashes")
def verify_audit(principal: Caller, service: Service, trail: Trail) -> AuditVerification:
    """An entry edited, removed, moved or cut off is found."""
    rights, found = service.verify_audit(principal), trail.verify(principal)
    return AuditVerification(
        entries=rights.entries,
        intact=rights.intact and found.intact,
        broken_at=rights.broken_at,
        chains=[
            ChainState(chain=name, entries=each.entries, intact=each.intact, broken_at=each.broken_at)
            for name, each in sorted(found.chains.items())
        ],
        away=list(found.away),
        checkpoints=found.checkpoints,
        checkpoints_intact=found.checkpoints_intact,
    )


@public.get("/audit/entries", name="search-audit", summary="Search the audit of rights and access")
def search_audit(
    principal: Caller,
    trail: Trail,
    project: str | None = None,
    by: Annotated[str | None, Query(max_length=64, description="principal, such as icu__anna")] = None,
    person: Annotated[str | None, Query(max_length=64)] = None,
    dataset: Annotated[str | None, Query(max_length=100)] = None,
    action: Annotated[str | None, Query(max_length=60)] = None,
    surface: Annotated[str | None, Query(max_length=30)] = None,
    outcome: Annotated[Outcome | None, Query()] = None,
    request: Annotated[str | None, Query(max_length=64)] = None,
    since: Annotated[AwareDatetime | None, Query()] = None,
    until: Annotated[AwareDatetime | None, Query()] = None,
    text: Annotated[str | None, Query(max_length=100, description="anywhere in an entry")] = None,
    before: Annotated[str | None, Query(max_length=120, description="the place of the first entry of a page")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[dict[str, Any]]:
    """The newest that fit, oldest first: a project's to its owners, all to an administrator; with `before`, the page before."""
    filters = {
        "principal": by,
        "person": person,
        "dataset": dataset,
        "action": action,
        "surface": surface,
        "outcome": outcome.value if outcome is not None else None,
        "request": request,
        "since": since.astimezone(UTC).isoformat(timespec="microseconds") if since is not None else None,
        "until": until.astimezone(UTC).isoformat(timespec="microseconds") if until is not None else None,
        "text": text,
    }
    return trail.entries(principal, parse_project(project) if project is not None else None, filters, limit=limit, before=before)


@public.get("/audit/export", name="export-audit", summary="The audit as a file that can be checked offline")
def export_audit(principal: Caller, trail: Trail, project: str | None = None) -> StreamingResponse:
    """A project's entries to its owners, with commitments in the place of all others; everything to an administrator."""
    found = trail.export(principal, parse_project(project) if project is not None else None)
    return StreamingResponse(found, media_type="application/x-ndjson")


@public.get("/audit/public-key", name="audit-public-key", summary="The key that checkpoints are signed with")
def audit_public_key(_: Caller, trail: Trail) -> PublicKey:
    """For whoever checks exports: keep it apart from them."""
    return PublicKey(public_key=trail.public_key)


def _entry(entry: AuditEntry) -> AuditEntryState:
    return AuditEntryState(**vars(entry))
