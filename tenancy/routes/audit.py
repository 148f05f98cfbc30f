"""Reading and checking the audit."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from tenancy.audit import AuditEntry
from tenancy.routes.context import Caller, Service, public
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


class AuditVerification(BaseModel):
    """Whether the chain is as it was written; `broken_at` is the first entry that is not."""

    entries: int
    intact: bool
    broken_at: int | None


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
def verify_audit(principal: Caller, service: Service) -> AuditVerification:
    """An entry edited, removed, moved or cut off is found."""
    found = service.verify_audit(principal)
    return AuditVerification(entries=found.entries, intact=found.intact, broken_at=found.broken_at)


def _entry(entry: AuditEntry) -> AuditEntryState:
    return AuditEntryState(**vars(entry))
