"""Kafka for members who hold a certificate: what any Kafka client here is configured with."""

from __future__ import annotations

from wardstream.client.transport import Transport
from wardstream.errors import Invalid
from wardstream.settings import ClientSettings, client_settings


def kafka_configuration(transport: Transport, settings: ClientSettings | None = None) -> dict[str, str]:
    """Return the connection settings of a confluent-kafka client in the caller's name, with a consumer group of its own.

    Broker and certificate come from the environment, as programs in the sandbox find it: WARDSTREAM_BOOTSTRAP,
    WARDSTREAM_CA, WARDSTREAM_CERTIFICATE, WARDSTREAM_KEY. Raises `Invalid` naming what is missing. The group may be
    changed, but begins with the caller's own prefix or the broker refuses it.
    """
    found = settings or client_settings()
    wanted = {"bootstrap": found.bootstrap, "ca": found.ca, "certificate": found.certificate, "key": found.key}
    if missing := [f"WARDSTREAM_{name.upper()}" for name, value in wanted.items() if value is None]:
        raise Invalid(f"Kafka wants a certificate; not set: {', '.join(missing)}")
    identity = transport.json("GET", "/api/v1/whoami")
    project, member = identity["principal"].split("__")[:2]
    prefix = f"ws.{project}.{member}." if identity["role"] == "service" else f"{project}.{member}."
    return {
        "bootstrap.servers": str(found.bootstrap),
        "security.protocol": "ssl",
        "ssl.ca.location": str(found.ca),
        "ssl.certificate.location": str(found.certificate),
        "ssl.key.location": str(found.key),
        "group.id": f"{prefix}program",
    }
