"""Who may do what: one pure decision for every surface. The broker's ACL rows are derived from the same rules (`acls.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenancy.model import Dataset, DatasetPermission, Door, Principal, PrincipalKind, Role
from wardstream.errors import Denied, NotFound
from wardstream.names import ProjectName


class Action(StrEnum):
    """Everything that a decision is asked about."""

    PROJECT_CREATE = "project.create"
    PROJECT_LIST = "project.list"
    PROJECT_DESCRIBE = "project.describe"
    MEMBER_ADD = "member.add"
    MEMBER_REMOVE = "member.remove"
    MEMBER_LIST = "member.list"
    DATASET_CREATE = "dataset.create"
    DATASET_ALTER = "dataset.alter"
    DATASET_DELETE = "dataset.delete"
    DATASET_LIST = "dataset.list"
    RECORD_READ = "record.read"
    RECORD_WRITE = "record.write"
    SCHEMA_READ = "schema.read"
    SCHEMA_REGISTER = "schema.register"
    FEATURE_GROUP_CREATE = "feature-group.create"
    ROW_READ = "row.read"
    """SQL, tables and training data."""
    ONLINE_READ = "online.read"
    PROCESSOR_DEPLOY = "processor.deploy"
    PROCESSOR_DESCRIBE = "processor.describe"
    PROGRAM_RUN = "program.run"
    PROGRAM_DESCRIBE = "program.describe"
    SERVICE_MANAGE = "service.manage"
    AUDIT_READ = "audit.read"


@dataclass(frozen=True)
class Decision:
    """The answer: whether the principal may, whether it may know that the thing is there, and why not."""

    allowed: bool
    visible: bool
    reason: str = ""


_ALLOWED = Decision(allowed=True, visible=True)
_UNSEEN = Decision(allowed=False, visible=False, reason="not there")

_DATA = frozenset({Action.RECORD_READ, Action.ROW_READ, Action.ONLINE_READ})

_OBSERVER = (
    frozenset(
        {
            Action.PROJECT_LIST,
            Action.PROJECT_DESCRIBE,
            Action.MEMBER_LIST,
            Action.DATASET_LIST,
            Action.SCHEMA_READ,
            Action.PROCESSOR_DESCRIBE,
            Action.PROGRAM_DESCRIBE,
        }
    )
    | _DATA
)
_SCIENTIST = _OBSERVER | {Action.FEATURE_GROUP_CREATE, Action.PROCESSOR_DEPLOY, Action.PROGRAM_RUN}
_OWNER = frozenset(Action) - {Action.PROJECT_CREATE, Action.RECORD_WRITE}

# What each role may do with every dataset of its project. Writing depends on the dataset: `_may_write`.
_PERSONS: dict[Role, frozenset[Action]] = {Role.OBSERVER: _OBSERVER, Role.DATA_SCIENTIST: _SCIENTIST, Role.DATA_OWNER: _OWNER}

# An administrator runs the platform and can never read patients' data, nor give that right to anybody in a project
# that has an owner.
_ADMINISTRATOR = frozenset({Action.PROJECT_CREATE, Action.PROJECT_LIST, Action.PROJECT_DESCRIBE, Action.MEMBER_LIST, Action.AUDIT_READ})


def decide(principal: Principal, action: Action, dataset: Dataset | None = None, project: ProjectName | None = None) -> Decision:
    """Return whether `principal` may do `action` on `dataset`, or on `project` where no one dataset is meant.

    Without a dataset, the answer for a data action says whether it is open to the principal at all; callers ask
    again for each dataset. `visible` is False where the principal may not know that dataset or project exist.
    """
    owner = dataset.project if dataset is not None else project
    if principal.kind is PrincipalKind.ADMINISTRATOR:
        return _for_administrator(action, dataset)
    if principal.kind is PrincipalKind.PLATFORM:
        # The platform's processes act on their callers' grants; for themselves they may only know what there is.
        return _refused(f"{principal.name} acts on behalf of its callers only")
    if action is Action.PROJECT_LIST and owner is None:
        return _ALLOWED
    if owner is None:
        return _refused(f"only an administrator may {action}")
    if principal.project != owner:
        return _UNSEEN
    if principal.role in (Role.DEVICE, Role.SERVICE):
        return _for_machine(principal, action, dataset)
    return _for_person(principal, action, dataset)


def require(decision: Decision, thing: str = "this") -> None:
    """Return when allowed; raises `Denied` with the reason, or `NotFound` where `thing` may not be known to exist.

    `thing` is what the caller named, such as "dataset icu-west.ecg", so that both cases of absence read the same.
    """
    if decision.allowed:
        return
    if not decision.visible:
        raise NotFound(f"{thing} is not there")
    raise Denied(decision.reason)


def knows(principal: Principal, dataset: Dataset) -> bool:
    """Return whether `principal` may know that `dataset` exists."""
    return decide(principal, Action.DATASET_LIST, dataset).visible


def _refused(reason: str) -> Decision:
    return Decision(allowed=False, visible=True, reason=reason)


def _for_administrator(action: Action, dataset: Dataset | None) -> Decision:
    if dataset is not None:
        return _UNSEEN
    if action in _ADMINISTRATOR:
        return _ALLOWED
    return _refused(f"an administrator runs the platform and may not {action}: ask a data owner of the project")


def _for_machine(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    """Devices and services: what their lists name, and nothing else."""
    service = principal.role is Role.SERVICE
    if dataset is None:
        known = {Action.PROJECT_DESCRIBE, Action.PROJECT_LIST, Action.DATASET_LIST, Action.SCHEMA_READ}
        known |= {Action.RECORD_WRITE, *(_DATA | {Action.SCHEMA_REGISTER} if service else ())}
        return _ALLOWED if action in known else _refused(f"a {principal.role} may not {action}")
    reads = service and dataset.name in principal.reads
    writes = dataset.name in principal.writes
    if not (reads or writes):
        return _UNSEEN
    if action in (Action.DATASET_LIST, Action.SCHEMA_READ):
        return _ALLOWED
    if action in _DATA and reads:
        return _ALLOWED
    if action is Action.RECORD_WRITE and writes:
        if dataset.processors and not service:
            return _refused(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}; devices do not write it")
        return _ALLOWED
    if action is Action.SCHEMA_REGISTER and writes and service:
        return _ALLOWED
    return _refused(f"{principal.name} may not {action} on {dataset.name}: a data owner sets what a {principal.role} reads and writes")


def _for_person(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    role = principal.role
    allowed = _PERSONS[role] if role is not None else frozenset()
    if action in (Action.RECORD_WRITE, Action.SCHEMA_REGISTER) and role is not Role.OBSERVER:
        return _may_write(principal, action, dataset)
    if action in (Action.DATASET_ALTER, Action.DATASET_DELETE) and role is Role.DATA_SCIENTIST:
        return _own_group(principal, action, dataset)
    if action not in allowed:
        return _refused(f"a {role} may not {action}: ask a data owner of the project")
    if action in _DATA and principal.sandboxed and principal.door is Door.OUTSIDE and role is not Role.DATA_OWNER:
        return _refused("rows of a sandboxed project stay inside: run a program (`wardstream program run`), which may read them")
    return _ALLOWED


def _may_write(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    if dataset is None:
        return _ALLOWED
    owner = principal.role is Role.DATA_OWNER
    if action is Action.SCHEMA_REGISTER and owner:
        return _ALLOWED
    if dataset.processors:
        return _refused(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}; people do not write it")
    if dataset.permission is DatasetPermission.EDITABLE:
        return _ALLOWED
    if dataset.permission is DatasetPermission.EDITABLE_BY_OWNERS and owner:
        return _ALLOWED
    if dataset.permission is DatasetPermission.READ_ONLY:
        return _refused(f"{dataset.name} is read-only: a data owner can change its permission")
    return _refused(f"{dataset.name} is editable by owners: ask a data owner to write it or to make it editable")


def _own_group(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    """A scientist changes the datasets that this scientist made, as `created_by` tells, generations apart."""
    if dataset is not None and dataset.created_by == principal.name:
        return _ALLOWED
    return _refused(f"a {principal.role} may {action} only what they created: ask a data owner of the project")
