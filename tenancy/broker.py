"""The brokers, as control sees them: topics, rows and quotas. Every exception of a library becomes ours here."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the library re-exports these without saying so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
    TopicDescription,
)

from tenancy import wire
from tenancy.own_calls import OwnCalls
from tenancy.wire import AclRow
from wardstream.errors import Invalid, Unavailable, WardstreamError
from wardstream.kafka import admin, kafka_error
from wardstream.settings import KafkaSettings

logger = logging.getLogger(__name__)

# The broker refuses more than 10,000 rows in a call.
_ROWS_PER_CALL = 5000
_TOPICS_PER_CALL = 1000
# The controller takes at most 10,000 records in a call: a topic, its partitions and its settings. Fewer are answered before
# the broker takes the waiting connection for an idle one.
_RECORDS_PER_CALL = 1000
_QUOTAS_PER_CALL = 1000
# Long enough for a broker under load to answer, short enough that a call through the gateway does not time out first.
_SECONDS = 15.0
# A question for who is there; whoever waits for the end of a removed member's access should soon know that nobody is.
_METADATA_SECONDS = 5.0

CONSUMER_BYTE_RATE = "consumer_byte_rate"
# One byte a second: nothing would mean "no bound" to some versions, and one is as good.
STOPPED = 1.0

A = ParamSpec("A")
K = TypeVar("K")
P = TypeVar("P")
T = TypeVar("T")

_NAMED = 5


@dataclass(frozen=True)
class TopicState:
    """A topic as the cluster has it. `config` holds what was set on the topic itself, defaults left out."""

    name: str
    partitions: int
    config: Mapping[str, str]
    topic_id: str


def _own(call: Callable[Concatenate[Broker, A], T]) -> Callable[Concatenate[Broker, A], T]:
    """Let the time of `call` be known as one in which control itself changed something."""

    @wraps(call)
    def noted(broker: Broker, /, *arguments: A.args, **named: A.kwargs) -> T:
        with broker.own_calls():
            return call(broker, *arguments, **named)

    return noted


class Broker:
    """All brokers of the cluster, as ws-control on the INTERNAL listener. Thread-safe."""

    def __init__(self, settings: KafkaSettings, *, replication_factor: int) -> None:
        self._admin = admin(settings)
        self._replication_factor = replication_factor
        self._tls = ssl.create_default_context(cafile=str(settings.tls.ca_file))
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_cert_chain(settings.tls.certificate_file, settings.tls.key_file)
        self.own_calls = OwnCalls()
        """When this changed something at the brokers."""

    # Topics

    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses of all living brokers; raises `Unavailable` when none answers."""
        metadata = self._ask("list brokers", lambda: self._admin.list_topics(topic="_ws-canary", timeout=_METADATA_SECONDS))
        return [(str(broker.host), int(broker.port)) for _, broker in sorted(metadata.brokers.items())]

    def cluster_id(self) -> str:
        """Return the identity of the cluster, made when it was formatted."""
        return str(
            self._ask("describe the cluster", lambda: self._admin.list_topics(topic="_ws-canary", timeout=_METADATA_SECONDS)).cluster_id
        )

    def topic_names(self) -> frozenset[str]:
        """Return the names of all topics."""
        return frozenset(self._ask("list topics", lambda: self._admin.list_topics(timeout=_SECONDS)).topics)

    def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return those of the topics `names` that exist."""
        if not names:
            return {}
        described: dict[str, TopicDescription] = {}
        set_on: dict[str, dict[str, str]] = {}
        for part in _parts(sorted(names), _TOPICS_PER_CALL):
            answers = self._topics(part)
            described |= answers
            if answers:
                # The library turns each of some forty settings a topic into an object: ten times as slow.
                (body,) = self._first_that_answers(wire.DESCRIBE_CONFIGS, [wire.describe_configs_request(sorted(answers))])
                set_on |= wire.describe_configs_answer(body)
        return {
            name: TopicState(name, len(description.partitions), set_on[name], str(description.topic_id))
            for name, description in described.items()
            if name in set_on
        }

    def _topics(self, names: list[str]) -> dict[str, TopicDescription]:
        described = {}
        futures = self._admin.describe_topics(TopicCollection(names), request_timeout=_SECONDS)
        for name, future in futures.items():
            try:
                described[name] = future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise kafka_error(error, f"describe topic {name}") from error
        return described

    @_own
    def create_topics(self, topics: Iterable[tuple[str, int, Mapping[str, str]]]) -> None:
        """Create the topics (name, partitions, config) that are not there; one that is stays as it is."""
        wanted = [
            NewTopic(name, num_partitions=partitions, replication_factor=self._replication_factor, config=dict(config))
            for name, partitions, config in topics
        ]
        failure: WardstreamError | None = None
        for batch in _batches(wanted):
            futures = self._admin.create_topics(batch, operation_timeout=_SECONDS, request_timeout=_SECONDS)
            try:
                self._all("create topics", futures, harmless=KafkaError.TOPIC_ALREADY_EXISTS)
            except WardstreamError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    @_own
    def add_partitions(self, name: str, total: int) -> None:
        """Let the topic have `total` partitions, which must be more than it has."""
        futures = self._admin.create_partitions([NewPartitions(name, total)], operation_timeout=_SECONDS, request_timeout=_SECONDS)
        self._all("add partitions", futures)

    @_own
    def alter_config(self, name: str, set_to: Mapping[str, str], remove: Collection[str]) -> None:
        """Set and unset values of a topic's configuration, leaving the others."""
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in set_to.items()]
        entries += [ConfigEntry(key, "", incremental_operation=AlterConfigOpType.DELETE) for key in remove]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        self._all("alter topics", self._admin.incremental_alter_configs([resource], request_timeout=_SECONDS))

    @_own
    def delete_topics(self, names: Collection[str]) -> None:
        """Delete topics; one that is not there is as good as deleted."""
        for part in _parts(sorted(names), _TOPICS_PER_CALL):
            futures = self._admin.delete_topics(part, operation_timeout=_SECONDS, request_timeout=_SECONDS)
            self._all("delete topics", futures, harmless=KafkaError.UNKNOWN_TOPIC_OR_PART)

    # Rows

    def acl_rows(self, address: tuple[str, int], principals: Sequence[str | None] = (None,)) -> frozenset[AclRow]:
        """Return the rows that the broker at `address` knows: of each of `principals` (with `User:`), or all of them.

        Unlike a client library's answer, an empty one here means that there are none: errors are raised.
        """
        bodies = [wire.describe_acls_request(principal) for principal in principals]
        answers = wire.exchange(address, self._tls, wire.DESCRIBE_ACLS, bodies, _SECONDS)
        return frozenset().union(*(wire.describe_acls_answer(answer) for answer in answers))

    @_own
    def create_acls(self, rows: Collection[AclRow]) -> None:
        """Add rows; one that is there already changes nothing. Raises `Unavailable` naming those that the broker refuses, all others made."""
        refused: dict[str, str] = {}
        for part in _parts(sorted(rows), _ROWS_PER_CALL):
            (answer,) = self._first_that_answers(wire.CREATE_ACLS, [wire.create_acls_request(part)])
            refused |= wire.create_acls_answer(answer, part)
        _raise_for("give rights", refused)

    @_own
    def delete_acls(self, rows: Collection[AclRow]) -> None:
        """Remove exactly these rows. Raises `Unavailable` naming those that the broker refuses, all others removed."""
        refused: dict[str, str] = {}
        for part in _parts(sorted(rows), _ROWS_PER_CALL):
            (answer,) = self._first_that_answers(wire.DELETE_ACLS, [wire.delete_acls_request(part)])
            refused |= wire.delete_acls_answer(answer, part)
        _raise_for("take rights", refused)

    @_own
    def delete_all_acls(self, principal: str) -> None:
        """Remove whatever rows `principal` (without `User:`) has, by one filter."""
        (answer,) = self._first_that_answers(wire.DELETE_ACLS, [wire.delete_all_acls_request(f"User:{principal}")])
        _raise_for("take rights", wire.delete_acls_answer(answer, [principal]))

    # Quotas

    def set_consumer_rate(self, principal: str, bytes_a_second: float | None) -> None:
        """Bound what a principal (without `User:`) may fetch, or lift the bound; any broker forwards this."""
        self.alter_quotas({principal: {CONSUMER_BYTE_RATE: bytes_a_second}})

    @_own
    def alter_quotas(self, changes: Mapping[str, Mapping[str, float | None]]) -> None:
        """Set quotas of principals (without `User:`), None to remove one.

        Raises `Unavailable` naming the principals whose quotas the broker refuses, all others altered.
        """
        refused: dict[str, str] = {}
        for part in _parts(sorted(changes), _QUOTAS_PER_CALL):
            body = wire.alter_quotas_request({principal: changes[principal] for principal in part})
            (answer,) = self._first_that_answers(wire.ALTER_CLIENT_QUOTAS, [body])
            refused |= wire.alter_quotas_answer(answer)
        _raise_for("set quotas", refused)

    def quotas(self, principal: str | None = None) -> dict[str, dict[str, float]]:
        """Return principal -> quota -> value, of one principal or of all, as some broker knows them."""
        (answer,) = self._first_that_answers(wire.DESCRIBE_CLIENT_QUOTAS, [wire.describe_quotas_request(principal)])
        return wire.describe_quotas_answer(answer)

    def quotas_at(self, address: tuple[str, int], principals: Sequence[str | None] = (None,)) -> dict[str, dict[str, float]]:
        """Return what the broker at `address` knows: of each of `principals`, or of all of them."""
        bodies = [wire.describe_quotas_request(principal) for principal in principals]
        answers = wire.exchange(address, self._tls, wire.DESCRIBE_CLIENT_QUOTAS, bodies, _SECONDS)
        return {name: values for answer in answers for name, values in wire.describe_quotas_answer(answer).items()}

    def everywhere(self, question: Callable[[tuple[str, int]], T]) -> list[T]:
        """Return the answer of every living broker, asked at the same time."""
        addresses = self.addresses()
        if len(addresses) == 1:
            return [question(addresses[0])]
        with ThreadPoolExecutor(len(addresses)) as pool:
            return list(pool.map(question, addresses))

    def _first_that_answers(self, request: tuple[int, int], bodies: Sequence[bytes]) -> list[bytes]:
        away = Unavailable("no broker answers")
        for address in self.addresses():
            try:
                return wire.exchange(address, self._tls, request, bodies, _SECONDS)
            except Unavailable as error:
                away = error
        raise away

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except KafkaException as error:
            raise kafka_error(error, doing) from error

    def _all(self, doing: str, futures: Mapping[K, Future[T]], *, harmless: int | None = None) -> dict[K, T]:
        """Wait for every answer before raising the first error, so that one bad topic does not hide that others were made."""
        answers: dict[K, T] = {}
        failure: KafkaException | None = None
        for key, future in futures.items():
            try:
                answers[key] = future.result(_SECONDS * 2)
            except KafkaException as error:
                if harmless is None or error.args[0].code() != harmless:
                    failure = failure or error
            except TimeoutError as error:
                raise Unavailable(f"cannot {doing}: the broker did not answer within {_SECONDS * 2:g} s") from error
        if failure is not None:
            inner = failure.args[0]
            if inner.code() in (KafkaError.INVALID_CONFIG, KafkaError.INVALID_PARTITIONS, KafkaError.TOPIC_EXCEPTION):
                raise Invalid(f"the broker refused to {doing}: {inner.str()}") from failure
            raise kafka_error(failure, doing) from failure
        return answers


def _batches(topics: Iterable[NewTopic]) -> Iterator[list[NewTopic]]:
    """Yield `topics` in parts that the controller takes in one call."""
    batch: list[NewTopic] = []
    records = 0
    for topic in topics:
        cost = 1 + topic.num_partitions + len(topic.config or {})
        if batch and records + cost > _RECORDS_PER_CALL:
            yield batch
            batch, records = [], 0
        batch.append(topic)
        records += cost
    if batch:
        yield batch


def _raise_for(doing: str, refused: Mapping[str, str]) -> None:
    """Raise `Unavailable` naming what was refused of a change, each with its own reason; `details` have them all."""
    if not refused:
        return
    named = "; ".join(f"{item}: {reason}" for item, reason in sorted(refused.items())[:_NAMED])
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    raise Unavailable(f"the broker refused to {doing}: {named}{more}", refused=dict(refused))


def _parts(items: Sequence[P], size: int) -> Iterator[list[P]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
