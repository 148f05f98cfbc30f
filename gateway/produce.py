"""Records written in a caller's own name: a minutes-long certificate of the inside intermediate, one producer a caller.

Keys and certificates stay in memory. A producer is thrown away when its certificate passes half its life, when it has
been idle, and at once when its principal is revoked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.authentication import Caller
from wardstream.client.credentials import signing_request
from wardstream.client.transport import Transport
from wardstream.errors import Denied, LimitExceeded
from wardstream.kafka import deliver, producer_in_memory

_CERTIFICATE_SECONDS = 600
_IDLE_SECONDS = 120.0
_MOST = 256
_DELIVERY_SECONDS = 30.0

Message = tuple[str, bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]


@dataclass
class _Pooled:
    producer: Producer
    renew_at: float
    used_at: float
    lock: threading.Lock


class ProducerPool:
    """Producers by principal; thread-safe."""

    def __init__(self, control: Transport, bootstrap_servers: str, ca_file: Path) -> None:
        self._control = control
        self._bootstrap_servers = bootstrap_servers
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._pooled: dict[str, _Pooled] = {}

    def produce(self, caller: Caller, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Produce all messages in the caller's name and return (partition, offset) of each, in order.

        Returns after all are acknowledged. Raises `Denied` when the broker refuses the caller, `Unavailable` when it does not answer.
        """
        pooled = self._of(caller)
        # One batch at a time per principal: a flush waits for everything in the producer.
        with pooled.lock:
            try:
                placed = deliver(pooled.producer, list(messages), seconds=_DELIVERY_SECONDS)
            except Denied:
                # A refusal can be fatal to librdkafka's producer, and it remembers refusals that a later grant takes back.
                self.drop(caller.principal.name)
                raise
            pooled.used_at = time.monotonic()
        return placed

    def drop(self, principal: str) -> None:
        """Forget the principal's producer; what it still holds is not sent."""
        with self._lock:
            pooled = self._pooled.pop(principal, None)
        if pooled is not None:
            pooled.producer.purge()

    def _of(self, caller: Caller) -> _Pooled:
        name, now = caller.principal.name, time.monotonic()
        with self._lock:
            for idle in [key for key, each in self._pooled.items() if now - each.used_at > _IDLE_SECONDS or now > each.renew_at]:
                del self._pooled[idle]
            found = self._pooled.get(name)
            if found is None and len(self._pooled) >= _MOST:
                raise LimitExceeded(f"{_MOST} members write through this gateway at the moment; try again in a minute")
        if found is not None:
            return found
        made = self._make(caller, now)
        with self._lock:
            return self._pooled.setdefault(name, made)

    def _make(self, caller: Caller, now: float) -> _Pooled:
        key = ec.generate_private_key(ec.SECP256R1())
        answer = self._control.json(
            "POST",
            "/v1/certificates/acting",
            json={"csr": signing_request(key), "lifetime_seconds": _CERTIFICATE_SECONDS},
            headers={"Authorization": f"Bearer {caller.grant}"},
        )
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        made = producer_in_memory(self._bootstrap_servers, self._ca_file, certificate=answer["certificate"], key=pem)
        return _Pooled(made, now + _CERTIFICATE_SECONDS / 2, now, threading.Lock())
