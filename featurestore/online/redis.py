"""The online store on Redis: one hash per entity, one field per feature group version, one call per 1,000 entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import pyarrow as pa
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from featurestore.model import INGESTED_AT, OFFSET, PARTITION, FeatureGroup
from featurestore.online.pseudonym import Pseudonyms
from featurestore.online.row import RowCodec, UnpackedRows
from featurestore.online.store import newest_of_batch
from wardstream.errors import Denied, Unavailable
from wardstream.names import ProjectName
from wardstream.settings import RedisSettings

# functions.lua refuses more: Redis answers nobody else while it runs.
_MOST_KEYS = 1000
# Names of things met lately, for each kind of entity; a pseudonym costs as much as the rest of a row's way.
_REMEMBERED = 200_000


def connect(settings: RedisSettings, *, user: str, password: str, timeout_seconds: float = 5.0) -> redis.Redis:
    """Return a client of the stack's Redis: mutual TLS, host name checked, two quick tries more after a lost connection."""
    return redis.Redis(
        host=settings.host,
        port=settings.port,
        username=user,
        password=password,
        ssl=True,
        ssl_ca_certs=str(settings.tls.ca_file),
        ssl_certfile=str(settings.tls.certificate_file),
        ssl_keyfile=str(settings.tls.key_file),
        ssl_check_hostname=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # Both verbs may be repeated without harm.
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
    )


class RedisOnlineStore:
    """The rows of one project, read and written by the functions of functions.lua; implements `store.OnlineStore` and `sink.MarkedStore`.

    `client` is a user of the project's readers or writers: a reader's `put_many` raises `Denied`. Thread-safe as `client` is.
    """

    def __init__(self, client: redis.Redis, project: ProjectName, pseudonym_key: bytes) -> None:
        self._client = client
        # One colon less than the key of any entity has.
        self._marks = f"p:{{{project}}}:marks"
        self._bytes = f"p:{{{project}}}:bytes"
        self._pseudonyms = Pseudonyms(project, pseudonym_key)
        self._codecs: dict[FeatureGroup, RowCodec] = {}
        self._names: dict[str, dict[tuple[object, ...], bytes]] = {}

    def put_many(self, group: FeatureGroup, table: pa.Table) -> int:
        """See `OnlineStore`. Raises `Denied` or `Unavailable`; then some of the rows may have been written."""
        order = [name for name in (INGESTED_AT, PARTITION, OFFSET) if name in table.column_names]
        newest = newest_of_batch(group, table, order)
        keys = self._online_keys(group, newest)
        rows = self._codec(group).pack(newest)
        written = 0
        with _translated("write to the online store"):
            for start in range(0, len(keys), _MOST_KEYS):
                part = slice(start, start + _MOST_KEYS)
                names = keys[part]
                written += cast(int, self._client.fcall("put", len(names), *names, group.dataset, *rows[part]))
        return written

    def get_many(self, groups: Sequence[FeatureGroup], entities: Mapping[str, Sequence[object]]) -> list[UnpackedRows]:
        """See `OnlineStore`. One call for each kind of entity and 1,000 entities, however many groups are read."""
        found: dict[FeatureGroup, list[bytes | None]] = {group: [] for group in groups}
        by_entity: dict[str, list[FeatureGroup]] = {}
        for group in found:
            by_entity.setdefault(group.entity, []).append(group)
        for entity, together in by_entity.items():
            values = list(zip(*(entities[key] for key in together[0].key_columns), strict=True))
            keys = self._pseudonyms.online_keys(entity, values)
            fields = [group.dataset for group in together]
            with _translated("read from the online store"):
                for start in range(0, len(keys), _MOST_KEYS):
                    names = keys[start : start + _MOST_KEYS]
                    for rows in cast(list[list[bytes | None]], self._client.fcall_ro("read", len(names), *names, *fields)):
                        for group, row in zip(together, rows, strict=True):
                            found[group].append(row)
        return [self._codec(group).unpack(found[group]) for group in groups]

    def mark(self, group: FeatureGroup) -> int | None:
        """See `MarkedStore`. The marks of a project are one hash, so Redis loses none without the writes behind it."""
        with _translated("read from the online store"):
            found = cast(bytes | None, self._client.hget(self._marks, group.dataset))
        return None if found is None else int(found)

    def set_mark(self, group: FeatureGroup, mark: int) -> None:
        """See `MarkedStore`."""
        with _translated("write to the online store"):
            self._client.hset(self._marks, group.dataset, str(mark))

    def remove_many(self, group: FeatureGroup, entities: pa.Table) -> int:
        """See `MarkedStore`. Raises `Denied` or `Unavailable`; then some of the rows may have been removed."""
        keys = self._online_keys(group, entities)
        removed = 0
        with _translated("remove from the online store"):
            for start in range(0, len(keys), _MOST_KEYS):
                pipeline = self._client.pipeline(transaction=False)
                for key in keys[start : start + _MOST_KEYS]:
                    pipeline.hdel(key.decode(), group.dataset)
                removed += sum(pipeline.execute())
        return removed

    def remove_mark(self, group: FeatureGroup) -> None:
        """See `MarkedStore`."""
        with _translated("remove from the online store"):
            self._client.hdel(self._marks, group.dataset)
            self._client.hdel(self._bytes, group.dataset)

    def bytes_used(self) -> int:
        """See `usage.CountedStore`. Rows of single entities that were removed count until their group is."""
        with _translated("read from the online store"):
            return sum(map(int, cast(dict[bytes, bytes], self._client.hgetall(self._bytes)).values()))

    def _online_keys(self, group: FeatureGroup, table: pa.Table) -> list[bytes]:
        entity, names = group.entity, self._names.setdefault(group.entity, {})
        values = list(zip(*(table[key].to_pylist() for key in group.key_columns), strict=True))
        keys = list(map(names.get, values))
        missing = [place for place, key in enumerate(keys) if key is None]
        if not missing:
            return cast(list[bytes], keys)
        if len(names) + len(missing) > _REMEMBERED:
            names = self._names[entity] = {}
        for place, name in zip(missing, self._pseudonyms.online_keys(entity, [values[place] for place in missing]), strict=True):
            keys[place] = name
            if len(names) < _REMEMBERED:
                names[values[place]] = name
        return cast(list[bytes], keys)

    def _codec(self, group: FeatureGroup) -> RowCodec:
        if group not in self._codecs:
            self._codecs[group] = RowCodec(group)
        return self._codecs[group]


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.NoPermissionError, redis.exceptions.AuthenticationError) as error:
        raise Denied(f"not allowed to {doing}") from error
    except redis.exceptions.ResponseError as error:
        raise Unavailable(f"cannot {doing}: Redis refused the call; are its functions loaded?", error=str(error)) from error
    except (redis.exceptions.RedisError, OSError) as error:
        raise Unavailable(f"cannot {doing}: Redis does not answer", error=str(error)) from error
