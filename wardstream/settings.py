"""Settings of every process, read once at its start.

Environment: `WARDSTREAM_` + the field's path in capitals, `__` between levels, for example
`WARDSTREAM_KAFKA__BOOTSTRAP_SERVERS`. A variable that begins so and names no setting stops the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardstream.errors import Invalid

_PREFIX = "WARDSTREAM_"


class SettingsGroup(BaseModel):
    """Base: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(SettingsGroup):
    """A certificate with its key and whom to trust, as PEM files."""

    ca_file: Path = Field(description="the platform's root certificate")
    certificate_file: Path = Field(description="own certificate followed by its issuing intermediate")
    key_file: Path = Field(description="own private key, PKCS 8, mode 0600")


class KafkaSettings(SettingsGroup):
    """How to reach the brokers as a platform principal, or as a processor's."""

    bootstrap_servers: str = Field(description="host:port of the listener this process uses")
    tls: TlsSettings
    request_timeout_ms: int = Field(default=30_000, description="how long one request may take")


class RedisSettings(SettingsGroup):
    """How to reach the online store; user and password come from control."""

    host: str = "127.0.0.1"
    port: int = Field(description="TLS port")
    tls: TlsSettings


class ProcessSettings(SettingsGroup):
    """What every process of ours has."""

    name: str = Field(description="platform principal, ws-<service>")
    host: str = "127.0.0.1"
    port: int = Field(description="port of this process, mutual TLS")
    home: Path = Field(description="the stack's data folder")
    tls: TlsSettings = Field(description="this process' platform certificate")
    platform_ca_file: Path = Field(description="the platform intermediate; whoever calls this process must be issued by it")
    log_level: str = "INFO"


class ControlSettings(ProcessSettings):
    """The control process (`tenancy.main`)."""

    kafka: KafkaSettings = Field(description="INTERNAL listener, as ws-control")
    redis: RedisSettings
    redis_functions_file: Path = Field(description="function library of the online store, loaded at start")
    database_url: str = Field(description="SQLAlchemy address of the tenancy database")
    pki: Path = Field(description="folder of certificates; its authority/ holds the keys")
    passphrase_file: Path | None = Field(default=None, description="file whose first line encrypts the authority's keys")
    peers: dict[str, str] = Field(default_factory=dict, description="process name -> address; told of revocations")
    replication_factor: int = Field(default=1, ge=1, description="of every topic that control creates")
    settle_seconds: float = Field(default=5.0, gt=0, description="how long a change of rights waits until every broker shows it")


class QuerySettings(ProcessSettings):
    """The query process (`featurestore.main`)."""

    kafka: KafkaSettings = Field(description="INTERNAL listener, as ws-query: the topic _schemas alone")
    redis: RedisSettings
    database_url: str = Field(description="SQLAlchemy address of the catalogue")
    warehouse: Path = Field(description="folder of the offline tables")
    grants_key_file: Path = Field(description="public key that control's grants are verified with")
    control_url: str
    sql_seconds: float = Field(default=30.0, gt=0, description="longest time one SQL statement may run")
    sql_memory_mb: int = Field(default=3072, ge=3072, description="address space of one SQL child")
    sql_max_rows: int = Field(default=1_000_000, gt=0, description="most rows of one answer")


class StreamWorkerSettings(ProcessSettings):
    """The stream-worker process (`streams.main`)."""

    kafka: KafkaSettings = Field(description="INTERNAL listener, as ws-stream-worker: writes _ws-executions")
    worker_bootstrap_servers: str = Field(description="WORKER listener, for processors")
    redis: RedisSettings
    database_url: str = Field(description="SQLAlchemy address of the streams database")
    warehouse: Path
    grants_key_file: Path
    control_url: str
    query_url: str
    inside_url: str = Field(description="gateway's door for certificates of the inside intermediate")
    jars: Path = Field(description="folder with kafka/ and flink/")
    java: Path = Field(default=Path("java"), description="java command")


class ProgramWorkerSettings(ProcessSettings):
    """The program-worker process (`streams.programs.worker`)."""

    kafka: KafkaSettings = Field(description="INTERNAL listener, as ws-program-worker: reads _ws-executions")
    worker_bootstrap_servers: str = Field(description="WORKER listener, for programs")
    control_url: str
    stream_worker_url: str
    inside_url: str
    label: str = "cpu"
    slots: int = Field(default=2, ge=1, description="executions at a time")


class GatewaySettings(ProcessSettings):
    """The gateway process (`gateway.main`); `port` serves the platform, the doors serve people and programs."""

    door_port: int = Field(description="console and REST with API keys")
    outside_port: int = Field(description="REST with client certificates of the outside intermediate")
    inside_port: int = Field(description="REST with client certificates of the inside intermediate")
    outside_ca_file: Path
    inside_ca_file: Path
    grants_key_file: Path = Field(description="public key that control's grants are verified with")
    worker_bootstrap_servers: str = Field(description="WORKER listener, where records are produced in the caller's name")
    control_url: str
    query_url: str
    stream_worker_url: str
    program_worker_url: str


class ClientSettings(BaseModel):
    """What the SDK and the CLI take from the environment; `wardstream-server env` prints it, programs find it set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str | None = Field(default=None, description="address of a door of the gateway")
    ca: Path | None = Field(default=None, description="the platform's root certificate")
    api_key_file: Path | None = Field(default=None, description="file that holds an API key")
    certificate: Path | None = Field(default=None, description="client certificate followed by its issuing intermediate")
    key: Path | None = Field(default=None, description="the client certificate's private key")
    bootstrap: str | None = Field(default=None, description="host:port of the broker's listener for this certificate")


S = TypeVar("S", bound=SettingsGroup)


def load(kind: type[S], environment: Mapping[str, str] | None = None) -> S:
    """Return the settings of a process from the environment; raises `Invalid` naming every wrong or unknown setting."""
    found = os.environ if environment is None else environment
    given = {key.removeprefix(_PREFIX).lower(): text for key, text in found.items() if key.startswith(_PREFIX)}
    if torn := [f"{_PREFIX}{name.upper()}" for name in sorted(given) if any(other.startswith(f"{name}__") for other in given)]:
        raise Invalid(f"settings of {kind.__name__} cannot be used: {', '.join(torn)}: a value, and there are settings below it too")
    values: dict[str, Any] = {}
    for name, text in given.items():
        *path, leaf = name.split("__")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = text
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{_PREFIX}{'__'.join(str(p) for p in fault['loc']).upper()}: {fault['msg']}" for fault in error.errors())
        raise Invalid(f"settings of {kind.__name__} cannot be used: {faults}") from error


def environment_of(settings: SettingsGroup) -> dict[str, str]:
    """Return the environment from which `load` makes `settings` again; keys with `-` (peers) keep their spelling in lower case."""
    found: dict[str, str] = {}

    def walk(path: tuple[str, ...], value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk((*path, str(key)), inner)
        elif value is not None:
            found[_PREFIX + "__".join(path).upper()] = str(value)

    walk((), settings.model_dump(mode="json"))
    return found


def client_settings(environment: Mapping[str, str] | None = None) -> ClientSettings:
    """Return what the environment says for a client; variables that mean nothing to a client are left alone."""
    found = os.environ if environment is None else environment
    names = ClientSettings.model_fields
    return ClientSettings.model_validate({name: found[_PREFIX + name.upper()] for name in names if found.get(_PREFIX + name.upper())})
