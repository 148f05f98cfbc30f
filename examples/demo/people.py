"""Members of the demo's projects: each enrols by token, and works with what that gave."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient

from wardstream.client.credentials import Credentials, api_key, enrol, registry_settings
from wardstream.client.projects import Project
from wardstream.client.session import Connection, connect
from wardstream.client.transport import Transport

Setting = str | int | float | bool


class Closable(Protocol):
    """What is closed at the end."""

    def close(self) -> None:
        """Close it."""
        ...


C = TypeVar("C", bound=Closable)


@dataclass(frozen=True)
class Platform:
    """Where the running platform is."""

    url: str
    outside_url: str
    bootstrap_servers: str
    ca: Path
    admin_key_file: Path
    credentials: Path
    opened: ExitStack = field(default_factory=ExitStack, compare=False)
    """Connections that are closed when the demo ends."""

    @cached_property
    def administrator(self) -> Connection:
        """The platform as its administrator sees it."""
        return self.keep(connect(self.url, ca=self.ca, api_key_file=self.admin_key_file))

    @cached_property
    def anonymous(self) -> Transport:
        """The platform as a token's bearer sees it."""
        return self.keep(Transport(self.url, ca_file=self.ca))

    def keep(self, closable: C) -> C:
        """Return `closable`, to be closed at the end."""
        self.opened.callback(closable.close)
        return closable


class Person:
    """A member with an API key."""

    def __init__(self, platform: Platform, project: str, name: str, token: str) -> None:
        self.platform = platform
        self.name = name
        self.key_file = platform.credentials / f"{project}-{name}.key"
        self.principal = api_key(platform.anonymous, token, self.key_file)
        self.connection = platform.keep(connect(platform.url, ca=platform.ca, api_key_file=self.key_file))
        self.project: Project = self.connection.projects.get(project)


class Device:
    """A member with a client certificate of the outside intermediate: a device, or an owner's own machine."""

    def __init__(self, platform: Platform, project: str, name: str, token: str) -> None:
        self.platform = platform
        self.name = name
        self.credentials: Credentials = enrol(platform.anonymous, token, platform.credentials / f"{project}-{name}")

    @property
    def _tls(self) -> dict[str, Setting]:
        return {
            "bootstrap.servers": self.platform.bootstrap_servers,
            "security.protocol": "ssl",
            "ssl.ca.location": str(self.credentials.ca_file),
            "ssl.certificate.location": str(self.credentials.certificate_file),
            "ssl.key.location": str(self.credentials.key_file),
            "log_level": 0,
        }

    def producer(self) -> Producer:
        """Return a producer as any Kafka client is configured."""
        return Producer({**self._tls, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 20})

    def consumer(self, group: str) -> Consumer:
        """Return a consumer that starts at the beginning."""
        return Consumer({**self._tls, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})

    @cached_property
    def registry(self) -> SchemaRegistryClient:
        """The stock client of a schema registry, logged in with the certificate and its key."""
        files = (self.credentials.certificate_file, self.credentials.key_file)
        outside = Transport(self.platform.outside_url, ca_file=self.credentials.ca_file, certificate=files, door=True)
        client = SchemaRegistryClient(registry_settings(self.platform.keep(outside)))
        self.platform.opened.enter_context(client)
        return client
