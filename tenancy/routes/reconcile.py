"""Reconciling now, for `wardstream-server reconcile`."""

from __future__ import annotations

from typing import cast

from fastapi import Request
from pydantic import BaseModel

from tenancy.differences import Difference
from tenancy.reconcile import Reconciler
from tenancy.routes.context import Body, internal, require_peer


class ReconcileBody(Body):
    """With `dry_run`, nothing is changed."""

    dry_run: bool


class DifferenceState(BaseModel):
    """One thing that is not as the database says, and what makes it so: create, alter or delete."""

    kind: str
    change: str
    subject: str
    detail: str


class ReconcileAnswer(BaseModel):
    """What differs, or was changed; `failed` says what could not be done, `settled` whether every broker shows it all."""

    dry_run: bool
    differences: list[DifferenceState]
    failed: list[str]
    settled: bool


@internal.post("/reconcile", name="reconcile", response_model=ReconcileAnswer)
def reconcile(request: Request, body: ReconcileBody) -> ReconcileAnswer:
    """Make brokers and online store equal to the database, or say what would be changed; harmless when repeated."""
    require_peer(request, "ws-launcher")
    reconciler = cast(Reconciler, request.app.state.reconciler)
    if body.dry_run:
        found = reconciler.differences()
        return _answer(body, found, failed=[], settled=not found)
    done = reconciler.reconcile()
    return _answer(body, list(done.changes), failed=[error.message for error in done.failures], settled=done.settled)


def _answer(body: ReconcileBody, found: list[Difference], *, failed: list[str], settled: bool) -> ReconcileAnswer:
    states = [DifferenceState(**vars(each)) for each in found]
    return ReconcileAnswer(dry_run=body.dry_run, differences=states, failed=failed, settled=settled)
