"""From members and datasets to the broker's rows, purely.

Every row allows one operation to one principal from any host; nothing is ever denied by a row, since what no row
allows is refused. Allowing Read or Write implies Describe. Nobody but ws-control, a super user, may create, alter or
delete, and nobody has a row on the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from tenancy.model import MATERIALISER, Dataset, Door, Member, MemberState, Principal, PrincipalKind, Role, SharedIn
from tenancy.policy import Action, decide
from wardstream.names import internal_prefix, member_prefix

SCHEMAS_TOPIC = "_schemas"
EXECUTIONS_TOPIC = "_ws-executions"
AUDIT_TOPIC = "_ws-audit"

# Authorising one request walks all rows under the asked name's prefix; up to here that costs about half a millisecond.
MOST_ROWS_PER_PREFIX = 5000


class Resource(IntEnum):
    """Kinds of resources, with the numbers of Kafka's protocol."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Pattern(IntEnum):
    """How a row names its resource, with the numbers of Kafka's protocol."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What a row allows, with the numbers of Kafka's protocol."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


@dataclass(frozen=True, order=True)
class AclBinding:
    """One row: `principal` (with its `User:`) may do `operation` on the resource, from any host."""

    principal: str
    resource: Resource
    name: str
    pattern: Pattern
    operation: Operation


# A row that is always there: a list of rows without it was not told in full, and must not be repaired from.
MARKER = AclBinding("User:ws-canary", Resource.TOPIC, "_ws-canary", Pattern.LITERAL, Operation.READ)


def acl_bindings_for(member: Member, datasets: Iterable[Dataset], shared: frozenset[SharedIn] = frozenset()) -> frozenset[AclBinding]:
    """Return the rows of `member`; a removed member has none.

    `datasets` are those of its project and those that `shared` names; others are left out. Shared topics take one row
    each to read and one to write.
    """
    if member.state is not MemberState.ACTIVE:
        return frozenset()
    rows = _Rows(f"User:{member.principal_name}")
    # Rows hold on every listener, so the door is left to the certificates: who has none outside cannot come from there.
    principal = _inside(member, shared)
    known = list(datasets)
    owned = [dataset for dataset in known if dataset.project == member.project]
    writable = [dataset for dataset in known if decide(principal, Action.RECORD_WRITE, dataset).allowed]
    rows.add(Resource.TOPIC, Pattern.LITERAL, (dataset.topic for dataset in writable), Operation.WRITE)
    if member.role.whole:
        own = member_prefix(member.project, member.name)
        if decide(principal, Action.RECORD_READ, project=member.project).allowed:
            rows.add(Resource.TOPIC, Pattern.PREFIXED, [f"{member.project}."], Operation.READ, Operation.DESCRIBE_CONFIGS)
            rows.add(Resource.GROUP, Pattern.PREFIXED, [own], Operation.READ)
            foreign = [each for each in known if each.project != member.project and decide(principal, Action.RECORD_READ, each).allowed]
            rows.add(Resource.TOPIC, Pattern.LITERAL, (dataset.topic for dataset in foreign), Operation.READ)
        if decide(principal, Action.RECORD_WRITE, project=member.project).allowed:
            rows.add(Resource.TRANSACTIONAL_ID, Pattern.PREFIXED, [own], Operation.WRITE)
    elif member.role is Role.SERVICE:
        readable = [dataset for dataset in owned if decide(principal, Action.RECORD_READ, dataset).allowed]
        rows.add(Resource.TOPIC, Pattern.LITERAL, (dataset.topic for dataset in readable), Operation.READ, Operation.DESCRIBE_CONFIGS)
        dead_letters = [dataset.dead_letter_topic for dataset in readable]
        rows.add(Resource.TOPIC, Pattern.LITERAL, dead_letters, Operation.WRITE)
        if member.name == MATERIALISER:
            # It counts them, to reconcile tables with topics.
            rows.add(Resource.TOPIC, Pattern.LITERAL, dead_letters, Operation.READ)
        internals = internal_prefix(member.project, member.name)
        rows.add(Resource.TOPIC, Pattern.PREFIXED, [internals], Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS)
        rows.add(Resource.GROUP, Pattern.PREFIXED, [internals], Operation.READ)
        rows.add(Resource.TRANSACTIONAL_ID, Pattern.PREFIXED, [internals], Operation.WRITE)
    return frozenset(rows.bindings)


def platform_bindings() -> frozenset[AclBinding]:
    """Return the rows of the platform's own processes, and the marker."""
    query, streams, programs = _Rows("User:ws-query"), _Rows("User:ws-stream-worker"), _Rows("User:ws-program-worker")
    query.add(
        Resource.TOPIC, Pattern.LITERAL, [SCHEMAS_TOPIC], Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS
    )
    # No group is joined, yet librdkafka looks for the coordinator of the one that it is configured with, and takes a refusal for an error.
    query.add(Resource.GROUP, Pattern.PREFIXED, ["ws-query."], Operation.READ)
    streams.add(Resource.TOPIC, Pattern.LITERAL, [EXECUTIONS_TOPIC], Operation.WRITE)
    programs.add(Resource.TOPIC, Pattern.LITERAL, [EXECUTIONS_TOPIC], Operation.READ)
    programs.add(Resource.GROUP, Pattern.PREFIXED, ["ws-program-worker."], Operation.READ)
    # It can add, and neither read nor take away: whoever gets hold of its key cannot undo a checkpoint.
    audit = _Rows("User:ws-audit")
    audit.add(Resource.TOPIC, Pattern.LITERAL, [AUDIT_TOPIC], Operation.WRITE)
    return frozenset({MARKER, *audit.bindings, *query.bindings, *streams.bindings, *programs.bindings})


class _Rows:
    def __init__(self, principal: str) -> None:
        self._principal = principal
        self.bindings: set[AclBinding] = set()

    def add(self, resource: Resource, pattern: Pattern, names: Iterable[str], *operations: Operation) -> None:
        self.bindings |= {AclBinding(self._principal, resource, name, pattern, operation) for name in names for operation in operations}


def _inside(member: Member, shared: frozenset[SharedIn]) -> Principal:
    return Principal(
        PrincipalKind.MEMBER,
        project=member.project,
        member=member.name,
        role=member.role,
        generation=member.generation,
        door=Door.INSIDE,
        reads=member.reads,
        writes=member.writes,
        columns=member.columns,
        without=member.without,
        shared=shared,
    )
