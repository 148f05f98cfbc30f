"""The worker program of a processor on Faust: `python -m streams.runtimes.faust /job/processor.json`, inside the sandbox.

A kill at any moment loses nothing and repeats nothing in the table. Windows live in memory alone; the committed offset is that
of the oldest record an open window needs, and the progress committed beside it says which windows were closed. After a
restart those records are read again and the open windows are as they were. A window whose row was written but
not yet committed is written again with equal values, and (primary key, event time) is a row's identity.

Whatever goes wrong with the broker ends the program: the supervisor starts it again, and that is the one way of recovery.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faust

from streams.aggregates import summarise
from streams.letters import letter
from streams.model import Unusable, kind_named
from streams.runtimes.decoding import CLOSING_HEADER, LATE, RecordDecoder, ResultEncoder, encoder_of, registry_of
from streams.runtimes.faust_transport import ProgressTransport
from streams.runtimes.job import WorkerJob, read_job
from streams.watermark import from_metadata, to_metadata
from streams.windows import Closed, PartitionWindows, Step
from topics.deadletter import headers as dead_letter_headers
from wardstream.errors import Unavailable, WardstreamError
from wardstream.kafka import MOST_LETTER_BYTES
from wardstream.telemetry import configure_logging

logger = logging.getLogger(__name__)

# How much is read again after a kill, against one small request to the broker.
_COMMIT_SECONDS = 1.0
_RETRY_SECONDS = 1.0

Partition = tuple[str, int]


class _State:
    """One assigned partition."""

    def __init__(self, windows: PartitionWindows) -> None:
        self.windows = windows
        self.last_offset = -1
        self.committed: tuple[int, str] | None = None
        # What is safe to commit: everything before it has reached the broker.
        self.durable: tuple[int, str] | None = None


class FaustProcessor:
    """One processor as a Faust app. Partitions are handled one after the other in one process."""

    def __init__(self, job: WorkerJob, decoder: RecordDecoder, encoder: ResultEncoder, app: Any) -> None:
        self._spec = job.spec
        self._kind = kind_named(job.spec.kind)
        self._decoder = decoder
        self._encoder = encoder
        self._app = app
        self._states: dict[Partition, _State] = {}
        self.counts = {"records": 0, "dead_letters": 0, "rows": 0}

    def install(self) -> None:
        """Add agent and timer to the app."""
        source = self._app.topic(self._spec.source_topic, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)

        async def process(stream: Any) -> None:
            async for event in stream.noack().events():
                try:
                    await self._handle(event.message)
                except (WardstreamError, Exception):
                    # Going on would leave this record out of its window; a restart reads it again.
                    logger.critical("the worker ends and will be started again", exc_info=True)
                    logging.shutdown()
                    os._exit(1)

        async def commit() -> None:
            await self.commit()

        async def forget(_: Any, revoked: Any, **__: Any) -> None:
            self._states.clear()

        self._app.agent(source, name="process")(process)
        self._app.timer(_COMMIT_SECONDS)(commit)
        self._app.on_partitions_revoked.connect(forget, weak=False)
        self._app.on_before_shutdown.connect(self._leave, weak=False)

    async def commit(self) -> None:
        """Commit what has become durable since the last time."""
        due = {place: state for place, state in self._states.items() if state.durable is not None and state.durable != state.committed}
        offsets = {place: state.durable for place, state in due.items() if state.durable is not None}
        if offsets and await ProgressTransport.commit(self._app, offsets):
            for place, state in due.items():
                state.committed = offsets[place]

    async def _leave(self, _: Any, **__: Any) -> None:
        # Faust's own way out takes up to half a minute and has nothing left to save.
        await self.commit()
        logger.info("processor stopped", extra=dict(self.counts))
        logging.shutdown()
        os._exit(0)

    async def _handle(self, message: Any) -> None:
        if message.generation_id != self._app.consumer_generation_id:
            return  # fetched before a rebalance: whoever holds the partition now reads it again
        place = (message.topic, message.partition)
        state = self._states.get(place) or await self._restored(place)
        if message.offset <= state.last_offset:
            return
        replayed = message.offset < state.windows.progress.position
        step, reason = await self._step(state.windows, message)
        self.counts["records"] += 1
        sent = [await self._send_row(closed) for closed in step.closed]
        if not replayed and (reason or step.late):
            sent.append(await self._send_dead_letter(message, reason or LATE))
        await asyncio.gather(*sent)
        state.last_offset = message.offset
        state.durable = (state.windows.needed_from, to_metadata(state.windows.progress))

    async def _restored(self, place: Partition) -> _State:
        committed = (await ProgressTransport.committed(self._app, [place])).get(place)
        progress = from_metadata(committed[1]) if committed else None
        state = _State(PartitionWindows(self._spec.window, progress))
        state.committed = committed
        self._states[place] = state
        logger.info(
            "partition taken",
            extra={
                "topic": place[0],
                "partition": place[1],
                "from_offset": committed[0] if committed else 0,
                "position": state.windows.progress.position,
            },
        )
        return state

    async def _step(self, windows: PartitionWindows, message: Any) -> tuple[Step, str | None]:
        headers = (
            {name for name, _ in message.headers.items()}
            if isinstance(message.headers, dict)
            else {name for name, _ in message.headers or ()}
        )
        while True:
            try:
                # Faust has it in seconds.
                arrived_ms = round(message.timestamp * 1000)
                measurement = self._decoder.decode(message.value, arrived_ms=arrived_ms, closing=CLOSING_HEADER in headers)
            except Unusable as error:
                windows.skip(message.offset)
                return Step(), str(error)
            except Unavailable as error:
                logger.warning("waiting for the registry", extra={"reason": error.message})
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if measurement.closing:
                return windows.close(message.offset, measurement.reached_ms), None
            return windows.add(message.offset, measurement), None

    async def _send_row(self, closed: Closed) -> Any:
        try:
            features = summarise(self._kind, closed, self._spec.parameters)
        except Exception:
            # One window that a function cannot digest must not stop the stream; a row of nulls shows that it is missing.
            logger.exception("a window could not be computed", extra={"window_start_ms": closed.window.start_ms})
            features = dict.fromkeys(column.name for column in self._kind.features)
        key, value = self._encoder.encode(closed.key, closed.window, features)
        self.counts["rows"] += 1
        return await self._app.producer.send(self._spec.result_topic, key, value, None, None, None)

    async def _send_dead_letter(self, message: Any, reason: str) -> Any:
        self.counts["dead_letters"] += 1
        key, value, why = letter(message.key, message.value, reason)
        if key is None and value is None:
            key = b""  # aiokafka sends no record that has neither
        headers = dead_letter_headers(why, message.topic, message.partition, message.offset, self._spec.name, datetime.now(UTC))
        return await self._app.producer.send(self._spec.dead_letter_topic, key, value, None, None, headers)


def make_app(job: WorkerJob) -> Any:
    """Return the Faust app of a job, not started."""
    context = ssl.create_default_context(cafile=job.connection.ca_file)
    context.load_cert_chain(job.connection.certificate_file, job.connection.key_file)
    servers = ";".join(f"kafka://{server}" for server in job.connection.bootstrap_servers.split(","))
    app = faust.App(
        job.spec.app_id,
        broker=servers,
        broker_credentials=faust.SSLCredentials(context=context),
        store="memory://",
        topic_partitions=job.spec.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_to_prefix=f"{job.spec.internals}reply-",
        web_enabled=False,
        # What is not finished at a stop is read again; waiting for it would wait for records that are only buffered.
        stream_wait_empty=False,
        processing_guarantee="at_least_once",
        broker_max_poll_records=5000,
        stream_buffer_maxsize=8192,
        consumer_auto_offset_reset="earliest",
        # A killed worker's successor takes its place at once, as the same member. As another one it would wait until the
        # dead one's session ends (60 s), in a request that the broker's limit on idle connections cuts again and again.
        consumer_group_instance_id=job.spec.name,
        producer_compression_type="lz4",
        producer_max_request_size=MOST_LETTER_BYTES,
    )
    app.transport = ProgressTransport(list(app.conf.broker_consumer), app)
    return app


def run(job: WorkerJob) -> None:
    """Run the processor until SIGTERM."""
    registry = registry_of(job.connection)
    kind = kind_named(job.spec.kind)
    decoder = RecordDecoder(kind, job.spec.parameters, registry.schema)
    encoder = _patiently(lambda: encoder_of(job.spec, registry))
    app = make_app(job)
    FaustProcessor(job, decoder, encoder, app).install()
    worker = faust.Worker(app, quiet=True, redirect_stdouts=False, override_logging=False, loglevel="WARN")
    worker.execute_from_commandline()


def _patiently(make: Any, *, seconds: float = 30.0) -> Any:
    """Return what `make` returns, trying again while a part of the platform is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return make()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file named by the only argument."""
    configure_logging("faust")
    for library in ("faust", "mode", "streams.runtimes.faust_transport"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        run(read_job(Path(arguments[0] if arguments else "/job/processor.json")))
    except WardstreamError as error:
        logger.critical("the processor cannot start", extra={"reason": error.message})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
