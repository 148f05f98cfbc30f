"""Identifiers as they appear in the online store: keyed, so that names in logs and dumps say nothing about a person."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

from featurestore.model import record_key
from wardstream.errors import Invalid
from wardstream.names import ProjectName

# 15 bytes are 24 characters without padding; among 10^9 entities of one project two meet with a chance below 10^-18.
_BYTES = 15
_KEY_BYTES = 32


class Pseudonyms:
    """Makes the online keys of one project. Two projects have different keys, so their pseudonyms cannot be compared."""

    def __init__(self, project: ProjectName, key: bytes) -> None:
        if len(key) < _KEY_BYTES:
            raise Invalid(f"the pseudonym key has {len(key)} bytes; control hands out {_KEY_BYTES}")
        self._project = project
        self._key = key

    def online_keys(self, entity: str, keys: Iterable[tuple[object, ...]]) -> list[bytes]:
        """Return where the rows of `entity` with these primary key values (in `FeatureGroup.key_columns` order) are kept.

        The braces keep all keys of a project in one slot of a cluster, so that one call may touch several.
        """
        head = f"p:{{{self._project}}}:{entity}:".encode()
        return [head + self._pseudonym(entity, values) for values in keys]

    def _pseudonym(self, entity: str, values: tuple[object, ...]) -> bytes:
        text = entity.encode() + b"\0" + record_key(values)
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256")[:_BYTES])
