"""The one factory of Kafka clients: TLS with a client certificate, host name checked, sane defaults.

librdkafka reads certificates once, so a renewed one means a new client: ask the factory again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from wardstream.errors import Denied, LimitExceeded, Unavailable, WardstreamError
from wardstream.settings import KafkaSettings

_quiet = logging.getLogger("librdkafka")
# librdkafka reports every refused connection at each try, several a second; what matters reaches the caller as an error.
_quiet.setLevel(logging.CRITICAL)

# The largest record that a topic of any dataset can take.
MOST_RECORD_BYTES = 16 << 20
# A dead letter is such a record with some headers, in a batch of its own.
MOST_LETTER_BYTES = MOST_RECORD_BYTES + (64 << 10)

Setting = str | int | float | bool
_PRODUCER: dict[str, Setting] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 20,
    # What is too large is for the topic to say; the library's own bound lies below what a topic may be set to.
    "message.max.bytes": MOST_LETTER_BYTES,
}


def client_configuration(settings: KafkaSettings) -> dict[str, Setting]:
    """Return what every librdkafka client here has in common."""
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": "ssl",
        "ssl.ca.location": str(settings.tls.ca_file),
        "ssl.certificate.location": str(settings.tls.certificate_file),
        "ssl.key.location": str(settings.tls.key_file),
        "ssl.endpoint.identification.algorithm": "https",
        "socket.timeout.ms": settings.request_timeout_ms,
        # Local brokers restart in seconds; the default waits up to 10 s between tries.
        "reconnect.backoff.max.ms": 1000,
    }


def producer(settings: KafkaSettings, **overrides: Setting) -> Producer:
    """Return an idempotent producer that waits for all in-sync replicas; the caller polls and flushes it."""
    return Producer({**client_configuration(settings), **_PRODUCER, **_keys(overrides)}, logger=_quiet)


def producer_in_memory(bootstrap_servers: str, ca_file: Path, *, certificate: str, key: str) -> Producer:
    """Return the same producer from a certificate chain and key that are on no disk (PEM texts)."""
    return Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "security.protocol": "ssl",
            "ssl.ca.location": str(ca_file),
            "ssl.certificate.pem": certificate,
            "ssl.key.pem": key,
            "ssl.endpoint.identification.algorithm": "https",
            "reconnect.backoff.max.ms": 1000,
            **_PRODUCER,
        },
        logger=_quiet,
    )


def consumer(settings: KafkaSettings, *, group: str, **overrides: Setting) -> Consumer:
    """Return a consumer of `group` that reads committed records only, from the beginning, and never commits by itself."""
    defaults: dict[str, Setting] = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "group.protocol": "consumer",
        "enable.partition.eof": False,
    }
    return Consumer({**client_configuration(settings), **defaults, **_keys(overrides)}, logger=_quiet)


def admin(settings: KafkaSettings) -> AdminClient:
    """Return an admin client; keep a reference to it until its futures are done."""
    return AdminClient(client_configuration(settings), logger=_quiet)


def deliver(
    client: Producer,
    messages: list[tuple[str, bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]],
    *,
    seconds: float,
    acknowledged: set[int] | None = None,
) -> list[tuple[int, int]]:
    """Produce all of (topic, key, value, headers) and return (partition, offset) of each, in order.

    Returns only after every record is acknowledged; raises `Denied`, `LimitExceeded` or `Unavailable` if any is not.
    Then some may be in the log all the same: repeating the call may repeat records. `acknowledged` gets
    the numbers of those that are there for sure, also where this raises.
    """
    placed: list[tuple[int, int]] = [(-1, -1)] * len(messages)
    failures: list[BaseException] = []

    def report(number: int) -> Callable[..., None]:
        def done(error: object, message: object) -> None:
            if error is not None:
                failures.append(KafkaException(error))
            else:
                placed[number] = (message.partition(), message.offset())  # type: ignore[attr-defined]  # confluent_kafka.Message
                if acknowledged is not None:
                    acknowledged.add(number)

        return done

    try:
        for number, (topic, key, value, headers) in enumerate(messages):
            while True:
                try:
                    client.produce(topic, key=key, value=value, headers=headers, on_delivery=report(number))
                    break
                except BufferError:
                    client.poll(0.05)
            if number % 1000 == 999:
                client.poll(0)
        left = client.flush(seconds)
    except KafkaException as error:
        raise kafka_error(error, "produce") from error
    except SystemError as error:
        # How the library raises a fatal error while it calls back: an idempotent producer ends so whose principal may
        # write no topic at all. The client is of no use afterwards.
        raise kafka_error(error.__cause__ or error, "produce") from error
    if failures:
        raise kafka_error(failures[0], "produce") from failures[0]
    if left:
        raise Unavailable(f"the broker did not acknowledge {left} of {len(messages)} records within {seconds:g} s")
    return placed


def kafka_error(error: BaseException, doing: str) -> WardstreamError:
    """Return ours for an exception of confluent_kafka; `doing` names the action, never a record."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    name = inner.name() if hasattr(inner, "name") else type(inner).__name__
    if "AUTHORIZATION_FAILED" in name:
        return Denied(f"the broker refused to {doing}: {name}")
    if name in ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"):
        # The same would be refused again. The second is of a batch that no segment of the topic can hold.
        setting = "max.message.bytes" if name == "MSG_SIZE_TOO_LARGE" else "max.message.bytes or segment.bytes"
        return LimitExceeded(f"cannot {doing}: larger than the topic's {setting} ({name}); send less at once, or alter the dataset")
    if name == "_TRANSPORT":
        return Unavailable(
            f"cannot {doing}: the broker closed the connection; is the certificate valid and issued for this platform?", error=str(inner)
        )
    return Unavailable(f"cannot {doing}: {name}", error=str(inner))


def _keys(overrides: dict[str, Setting]) -> dict[str, Setting]:
    return {key.replace("_", "."): value for key, value in overrides.items()}
