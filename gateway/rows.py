"""Rows and records that come over REST: checked, encoded by the newest schema, produced in the caller's own name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread

from featurestore.arrow_body import arrow_table
from featurestore.control import Control
from featurestore.ingest import encode_rows, require_columns, validate
from featurestore.model import group_from_document
from gateway.authentication import Caller
from gateway.produce import ProducerPool
from schemas.serde import RegistryHttp
from tenancy.access import AccessJournal
from tenancy.model import Dataset
from tenancy.policy import UNSEEN, Action, decide
from topics.records import encode_records
from wardstream.client.transport import Transport
from wardstream.clock import Clock
from wardstream.errors import NotFound, Unavailable
from wardstream.names import DatasetName, ProjectName, parse_any_dataset, parse_group, parse_project, value_subject

logger = logging.getLogger(__name__)

# Short enough for an answer that feels immediate, long enough not to keep the query process busy.
_LOOK_SECONDS = 0.1
# Apart from the threads that all else here shares, so that whoever writes to a broker that does not answer stops other writers at most.
_WRITES, _LOOKS = 40, 8
# Records that reach the materialiser just after one flush wait for the next; each is a commit for all who wait.
_FLUSH_SECONDS = 0.5


@dataclass(frozen=True)
class Written:
    """What became of rows: those not accepted come back with index and reason, and are not written anywhere."""

    accepted: int
    rejected: tuple[tuple[int, str], ...]
    materialised: bool


@dataclass(frozen=True)
class _Placed:
    """Rows that the broker has, and where it can be seen how far the tables are."""

    query: Transport
    grant: str
    project: ProjectName
    path: str
    placed: Sequence[tuple[int, int]]
    rejected: tuple[tuple[int, str], ...]


class RowWriter:
    """Writes rows of feature groups and records of topics."""

    def __init__(
        self, *, control: Transport, query: Transport, streams: Transport, producers: ProducerPool, journal: AccessJournal, clock: Clock
    ) -> None:
        self._control = Control(control)
        self._query = query
        self._streams = streams
        self._producers = producers
        self._journal = journal
        self._clock = clock
        self._writes = CapacityLimiter(_WRITES)
        self._looks = CapacityLimiter(_LOOKS)

    async def rows(self, caller: Caller, project: str, name: str, version: int, body: bytes, *, wait_seconds: float) -> Written:
        """Write the rows of an Arrow IPC stream to the group's topic; with `wait_seconds` above 0, return when the offline table has them or the time is over.

        Returns after the broker acknowledged every accepted row. `materialised` says whether both stores have them.
        No thread is held while it waits.
        """
        written = await to_thread.run_sync(self._rows, caller, project, name, version, body, limiter=self._writes)
        done = wait_seconds > 0 and await self._wait(written, wait_seconds)
        return Written(len(written.placed), written.rejected, done)

    def _rows(self, caller: Caller, project: str, name: str, version: int, body: bytes) -> _Placed:
        owner = parse_project(project)
        path = f"/v1/projects/{owner}/feature-groups/{parse_group(name)}/{version}"
        query = self._query.acting(caller.grant)
        group = group_from_document(owner, query.json("GET", path, params={"for_insert": True}))
        self._require_write(caller, owner, group.dataset)
        # Not before it is known that the caller may write: reading a body costs memory.
        table = arrow_table(body)
        require_columns(group, table)
        validated = validate(group, table, now=self._clock.now())
        schema_id, _ = RegistryHttp(query).newest(value_subject(group.topic))
        keys, values = encode_rows(group, validated.table, schema_id)
        placed = self._producers.produce(caller, [(group.topic, key, value, []) for key, value in zip(keys, values, strict=True)])
        return _Placed(
            query, caller.grant, owner, f"/internal{path}/offsets", placed, tuple((each.index, each.reason) for each in validated.rejects)
        )

    async def records(self, caller: Caller, project: str, dataset: str, records: Sequence[object]) -> Written:
        """Write JSON records to a topic by the newest schema of its values."""
        return await to_thread.run_sync(self._records, caller, project, dataset, records, limiter=self._writes)

    def _records(self, caller: Caller, project: str, dataset: str, records: Sequence[object]) -> Written:
        found = self._require_write(caller, parse_project(project), parse_any_dataset(dataset))
        schema_id, schema = RegistryHttp(self._query.acting(caller.grant)).newest(value_subject(found.topic))
        encoded = encode_records(records, schema_id, schema.text)
        placed = self._producers.produce(caller, [(found.topic, None, value, []) for value in encoded.values])
        return Written(len(placed), tuple((each.index, each.reason) for each in encoded.misfits), materialised=False)

    def _require_write(self, caller: Caller, project: ProjectName, name: DatasetName) -> Dataset:
        thing = f"dataset {project}.{name}"
        try:
            found = self._control.dataset(caller.grant, project, name)
        except NotFound:
            found = None
        decision = UNSEEN if found is None else decide(caller.principal, Action.RECORD_WRITE, found)
        self._journal.require(decision, caller.principal, Action.RECORD_WRITE, surface="rest", project=project, dataset=name, thing=thing)
        if found is None:
            raise NotFound(f"{thing} is not there")
        return found

    async def _wait(self, written: _Placed, seconds: float) -> bool:
        """Return whether the offline table came past all that was written; the online store is written before it."""
        wanted: dict[str, int] = {}
        for partition, offset in written.placed:
            wanted[str(partition)] = max(offset + 1, wanted.get(str(partition), 0))
        deadline = time.monotonic() + seconds
        flush_at = 0.0
        while True:
            if time.monotonic() >= flush_at:
                flush_at = time.monotonic() + _FLUSH_SECONDS
                await to_thread.run_sync(self._flush, written, limiter=self._looks)
            offsets = await to_thread.run_sync(written.query.json, "GET", written.path, limiter=self._looks)
            if all(offsets.get(partition, 0) >= offset for partition, offset in wanted.items()):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    def _flush(self, written: _Placed) -> None:
        project = written.project
        try:
            self._streams.acting(written.grant).json("POST", f"/internal/v1/projects/{project}/flush")
        except Unavailable as error:
            # The rows are in the topic, and the tables are filled when the process is back: the answer says whether they were.
            logger.warning("the stream-worker cannot be asked to commit", extra={"project": project, "reason": error.message})
