"""Reading and writing records by a registry that is reached over HTTP: what programs, processors and the gateway use."""

from __future__ import annotations

import threading
from urllib.parse import quote

from schemas.avro import Schema, parse
from schemas.decode import SchemaCatalogue
from schemas.encode import encode_table
from wardstream.client.transport import Transport

__all__ = ["RegistryHttp", "encode_table"]

_ACCEPT = {"Accept": "application/vnd.schemaregistry.v1+json"}


class RegistryHttp:
    """The registry below an address, `/registry` by default, in the transport's name. Thread-safe."""

    def __init__(self, transport: Transport, *, path: str = "/registry") -> None:
        self._transport = transport
        self._path = path
        self._ids: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def schema_text(self, schema_id: int) -> str:
        """Return the text of a schema; raises `NotFound` for an id that the caller may not know."""
        found: str = self._transport.json("GET", f"{self._path}/schemas/ids/{schema_id}", headers=_ACCEPT)["schema"]
        return found

    def register(self, subject: str, text: str) -> int:
        """Return the id of the schema under the subject, registering it where it is new."""
        with self._lock:
            known = self._ids.get((subject, text))
        if known is not None:
            return known
        answer = self._transport.json("POST", f"{self._path}/subjects/{quote(subject)}/versions", json={"schema": text}, headers=_ACCEPT)
        with self._lock:
            self._ids[subject, text] = int(answer["id"])
        return int(answer["id"])

    def newest(self, subject: str) -> tuple[int, Schema]:
        """Return id and schema of the subject's newest version, asked anew each time; raises `NotFound`."""
        answer = self._transport.json("GET", f"{self._path}/subjects/{quote(subject)}/versions/latest", headers=_ACCEPT)
        return int(answer["id"]), parse(answer["schema"])

    def catalogue(self) -> SchemaCatalogue:
        """Return a new cache of writer schemas that asks this registry."""
        return SchemaCatalogue(self.schema_text)
