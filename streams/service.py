"""Processors of all projects: deployed once, kept running, paused, resumed, removed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from streams.control import Control
from streams.model import ProcessorSpec, kind_named
from streams.programs.service import last_lines
from streams.query import Query
from streams.repository import Condition, Repository, StoredProcessor, Wanted, with_state
from streams.supervisor import Status, Supervisor, Unit
from streams.units import processor_key
from tenancy.access import AccessJournal
from tenancy.model import Principal
from tenancy.policy import Action, decide
from wardstream.clock import Clock
from wardstream.errors import Conflict, Invalid, NotFound
from wardstream.names import DatasetName, MemberName, ProjectName, parse_any_dataset, parse_member, parse_project, split_group_dataset

logger = logging.getLogger(__name__)


class ProcessorUnit(Unit, Protocol):
    """What runs a processor."""

    def forget(self) -> None:
        """Remove what a processor leaves that is stopped and will never run again; harmless when repeated."""
        ...


class ProcessorService:
    """Processors. Thread-safe."""

    def __init__(
        self,
        *,
        repository: Repository,
        control: Control,
        query: Query,
        supervisor: Supervisor,
        unit_of: Callable[[ProcessorSpec], ProcessorUnit],
        log_of: Callable[[ProcessorSpec], Path],
        journal: AccessJournal,
        clock: Clock,
    ) -> None:
        """`unit_of` makes what runs a processor; `log_of` says where its log is."""
        self._repository = repository
        self._control = control
        self._query = query
        self._supervisor = supervisor
        self._unit_of = unit_of
        self._log_of = log_of
        self._journal = journal
        self._clock = clock
        # Two changes of one processor at a time would leave the supervisor with the wrong one. A lock each: stopping one may
        # take minutes, while a job is submitted to Flink.
        self._changing: dict[str, threading.Lock] = {}

    def deploy(
        self,
        principal: Principal,
        grant: str,
        project: str,
        *,
        name: str,
        kind: str,
        source: str,
        result: str,
        parameters: Mapping[str, Any],
    ) -> StoredProcessor:
        """Run a processor of a built-in kind from dataset `source` into the feature group behind dataset `result`.

        Its rights hold at every broker when this returns, and it is being started. Deploying the same again changes
        nothing; `Conflict` where a processor of this name does something else.
        """
        owner = self._project(principal, Action.PROCESSOR_DEPLOY, project)
        member, from_, to = parse_member(name), parse_any_dataset(source), parse_any_dataset(result)
        definition = kind_named(kind)
        partitions = self._control.partitions(grant, owner, from_)
        group = split_group_dataset(to)
        if group is None:
            raise Invalid(f"{to} is not a feature group's dataset: <group>_<version>, such as {to}_1")
        table = self._query.feature_group(grant, owner, *group)
        definition.check_result(table.primary_key, table.event_time, {each: found.value for each, found in table.types.items()})
        spec = definition.spec(project=owner, name=member, source=from_, result=to, partitions=partitions, parameters=parameters)
        with self._change_of(owner, member):
            found = self._stored(owner, member)
            if found is not None and found.wanted is not Wanted.REMOVED:
                if replace(found.spec, state_version=spec.state_version) != spec:
                    raise Conflict(
                        f"processor {member} of project {owner} exists and does something else: remove it first, or choose another name"
                    )
                self._give_rights(grant, found.spec)
                return self.describe(principal, owner, member)
            if found is not None:
                # A processor that was removed left offsets and state behind, which its successor must not continue.
                spec = replace(spec, state_version=found.spec.state_version + 1)
            self._give_rights(grant, spec)
            now = self._clock.now()
            stored = StoredProcessor(spec, Wanted.RUNNING, principal.name, now, Condition.STARTING, None, 0, now)
            with self._repository.transaction() as streams:
                streams.put_processor(stored)
            self._run(stored)
        logger.info("processor deployed", extra={"project": owner, "processor": member, "kind": kind, "principal": principal.name})
        return stored

    def list(self, principal: Principal, project: str) -> list[StoredProcessor]:
        """Return the project's processors with what they do now."""
        owner = self._project(principal, Action.PROCESSOR_DESCRIBE, project)
        with self._repository.transaction() as streams:
            return [self._now(each) for each in streams.processors(owner)]

    def describe(self, principal: Principal, project: str, name: str) -> StoredProcessor:
        """Return one processor with what it does now; raises `NotFound`."""
        owner = self._project(principal, Action.PROCESSOR_DESCRIBE, project)
        return self._now(self._known(owner, name))

    def pause(self, principal: Principal, project: str, name: str) -> StoredProcessor:
        """Stop the processor; where it stopped is kept."""
        owner = self._project(principal, Action.PROCESSOR_DEPLOY, project)
        with self._change_of(owner, name):
            stored = self._known(owner, name)
            self._supervisor.drop(processor_key(owner, stored.spec.name))
            return self._want(stored, Wanted.PAUSED, Condition.PAUSED)

    def resume(self, principal: Principal, project: str, name: str) -> StoredProcessor:
        """Start a processor that was paused, or that was left alone because it failed too often; harmless for one that runs."""
        owner = self._project(principal, Action.PROCESSOR_DEPLOY, project)
        with self._change_of(owner, name):
            stored = self._known(owner, name)
            if stored.wanted is Wanted.RUNNING and self._now(stored).state is not Condition.FAILED:
                return self._now(stored)
            found = self._want(stored, Wanted.RUNNING, Condition.STARTING)
            self._run(found)
            return found

    def remove(self, principal: Principal, grant: str, project: str, name: str) -> None:
        """Stop the processor, take its rights and its own topics and forget its files; its results stay."""
        owner = self._project(principal, Action.PROCESSOR_DEPLOY, project)
        with self._change_of(owner, name):
            stored = self._known(owner, name)
            self._supervisor.drop(processor_key(owner, stored.spec.name))
            self._control.put_service(grant, owner, stored.spec.name, reads=(), writes=(), internals=())
            self._want(stored, Wanted.REMOVED, Condition.PAUSED)
            self._forget(stored.spec)

    def log(self, principal: Principal, project: str, name: str, *, tail: int) -> str:
        """Return the last lines of the processor's log."""
        owner = self._project(principal, Action.PROCESSOR_DESCRIBE, project)
        return last_lines(self._log_of(self._known(owner, name).spec), tail)

    def start_all(self) -> None:
        """Run what is to run; called once, at the start of this process."""
        with self._repository.transaction() as streams:
            wanted = [each for each in streams.processors() if each.wanted is Wanted.RUNNING]
        for stored in wanted:
            self._run(stored)

    def seen(self, key: str, status: Status) -> None:
        """Keep what a processor's unit says of itself; for the supervisor."""
        kind, _, place = key.partition("-")
        if kind != "processor":
            return
        project, _, name = place.partition("__")
        with self._repository.transaction() as streams:
            streams.seen(ProjectName(project), MemberName(name), status.state, status.reason, status.restarts, status.since)

    def revoke(self, project: ProjectName, name: MemberName) -> None:
        """Ask a processor to stop whose service is no longer a member, for good; harmless for who is no processor.

        Waits for nothing and nobody: a change that is under way finds the processor removed. That its service has no rights
        any more is control's doing.
        """
        stored = self._stored(project, name)
        if stored is None or stored.wanted is Wanted.REMOVED:
            return
        removed = self._want(stored, Wanted.REMOVED, Condition.PAUSED)
        self._supervisor.dismiss(processor_key(project, name), lambda: self._forget(removed.spec))

    def _give_rights(self, grant: str, spec: ProcessorSpec) -> None:
        reads: list[DatasetName] = [spec.source]
        self._control.put_service(grant, spec.project, spec.name, reads=reads, writes=[spec.result], internals=spec.internal_topics())

    def _run(self, stored: StoredProcessor) -> None:
        spec = stored.spec
        self._supervisor.keep(self._unit_of(spec), give_up=True)
        # A revocation waits for no lock: it may have come between what was stored and this start.
        if (now := self._stored(spec.project, spec.name)) is None or now.wanted is Wanted.REMOVED:
            self._supervisor.dismiss(processor_key(spec.project, spec.name), lambda: self._forget(spec))

    def _forget(self, spec: ProcessorSpec) -> None:
        try:
            self._unit_of(spec).forget()
        except Exception:
            # The processor is removed all the same; what is left takes room and gives nobody a right.
            logger.exception("files of a removed processor stay", extra={"project": spec.project, "processor": spec.name})

    def _want(self, stored: StoredProcessor, wanted: Wanted, state: Condition) -> StoredProcessor:
        """Store what is wanted; raises `NotFound` where the processor was removed since `stored` was read."""
        spec = stored.spec
        with self._repository.transaction() as streams:
            found = streams.processor(spec.project, spec.name)
            if found is None or (found.wanted is Wanted.REMOVED and wanted is not Wanted.REMOVED):
                raise _unknown(spec.project, spec.name)
            changed = with_state(replace(found, wanted=wanted), state, self._clock.now())
            streams.put_processor(changed)
        return changed

    def _change_of(self, project: ProjectName, name: str) -> threading.Lock:
        return self._changing.setdefault(f"{project}/{parse_member(name)}", threading.Lock())

    def _now(self, stored: StoredProcessor) -> StoredProcessor:
        status = self._supervisor.status().get(processor_key(stored.spec.project, stored.spec.name))
        if status is None:
            return stored
        return replace(stored, state=status.state, reason=status.reason, restarts=status.restarts, since=status.since)

    def _stored(self, project: ProjectName, name: MemberName) -> StoredProcessor | None:
        with self._repository.transaction() as streams:
            return streams.processor(project, name)

    def _known(self, project: ProjectName, name: str) -> StoredProcessor:
        found = self._stored(project, parse_member(name))
        if found is None or found.wanted is Wanted.REMOVED:
            raise _unknown(project, name)
        return found

    def _project(self, principal: Principal, action: Action, project: str) -> ProjectName:
        name = parse_project(project)
        decision = decide(principal, action, project=name)
        self._journal.require(decision, principal, action, surface="processors", project=name, thing=f"project {name}")
        return name


def _unknown(project: ProjectName, name: str) -> NotFound:
    return NotFound(f"there is no processor {ascii(name)[:40]} in project {project}")
