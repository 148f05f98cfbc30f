"""Who may do what: one pure decision for every surface. The broker's ACL rows are derived from the same rules (`acls.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenancy.model import Dataset, DatasetPermission, Door, Principal, PrincipalKind, Project, Role, SharedIn
from wardstream.errors import Denied, NotFound
from wardstream.names import ProjectName


class Action(StrEnum):
    """Everything that a decision is asked about."""

    PROJECT_CREATE = "project.create"
    PROJECT_LIST = "project.list"
    PROJECT_DESCRIBE = "project.describe"
    PROJECT_ALTER = "project.alter"
    PROJECT_HAND_OVER = "project.hand-over"
    PROJECT_CLOSE = "project.close"
    QUOTA_READ = "quota.read"
    QUOTA_SET = "quota.set"
    ACTIVITY_READ = "activity.read"
    PERSON_MANAGE = "person.manage"
    """Accounts of people: add, disable, reset."""
    ACCOUNT_MANAGE = "account.manage"
    """One's own sessions, keys and factors."""
    CERTIFICATE_LIST = "certificate.list"
    CERTIFICATE_RENEW = "certificate.renew"
    """One's own, by itself."""
    MEMBER_ADD = "member.add"
    MEMBER_ALTER = "member.alter"
    MEMBER_REMOVE = "member.remove"
    MEMBER_LIST = "member.list"
    ROLE_MANAGE = "role.manage"
    SHARE_OFFER = "share.offer"
    SHARE_ACCEPT = "share.accept"
    """Accepting or rejecting what another project offers."""
    SHARE_WITHDRAW = "share.withdraw"
    SHARE_LIST = "share.list"
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
    MODEL_DESCRIBE = "model.describe"
    """Models and training sets: of what they were made, and how good they are."""
    MODEL_READ = "model.read"
    """A model's files, which may have learnt rows by heart."""
    MODEL_REGISTER = "model.register"
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
UNSEEN = Decision(allowed=False, visible=False, reason="not there")

_DATA = frozenset({Action.RECORD_READ, Action.ROW_READ, Action.ONLINE_READ})
# What does not leave a sandboxed project by itself.
_KEPT_INSIDE = _DATA | {Action.MODEL_READ}

_OBSERVER = (
    frozenset(
        {
            Action.PROJECT_LIST,
            Action.PROJECT_DESCRIBE,
            Action.QUOTA_READ,
            Action.ACTIVITY_READ,
            Action.ACCOUNT_MANAGE,
            Action.CERTIFICATE_RENEW,
            Action.MEMBER_LIST,
            Action.SHARE_LIST,
            Action.DATASET_LIST,
            Action.SCHEMA_READ,
            Action.MODEL_DESCRIBE,
            Action.MODEL_READ,
            Action.PROCESSOR_DESCRIBE,
            Action.PROGRAM_DESCRIBE,
        }
    )
    | _DATA
)
_SCIENTIST = _OBSERVER | {Action.FEATURE_GROUP_CREATE, Action.PROCESSOR_DEPLOY, Action.PROGRAM_RUN, Action.MODEL_REGISTER}
_OWNER = frozenset(Action) - {Action.PROJECT_CREATE, Action.QUOTA_SET, Action.PERSON_MANAGE, Action.RECORD_WRITE}
# A restricted member's programs are its own: what others' programs printed may be rows that it may not see.
# Of the datasets that a restricted member was given, the tables alone: a topic has no columns that could be left out.
_RESTRICTED = frozenset({Action.DATASET_LIST, Action.SCHEMA_READ, Action.ROW_READ, Action.ONLINE_READ})
_RESTRICTED_PROJECT = _RESTRICTED | {
    Action.ACCOUNT_MANAGE,
    Action.CERTIFICATE_RENEW,
    Action.PROJECT_LIST,
    Action.PROJECT_DESCRIBE,
    Action.PROGRAM_RUN,
    Action.PROGRAM_DESCRIBE,
}

# What each role may do with every dataset of its project. Writing depends on the dataset: `_may_write`.
_PERSONS: dict[Role, frozenset[Action]] = {Role.OBSERVER: _OBSERVER, Role.DATA_SCIENTIST: _SCIENTIST, Role.DATA_OWNER: _OWNER}

# What a share opens; whether a record may be written is its mode's and the dataset's to say.
_SHARED = _DATA | {Action.DATASET_LIST, Action.SCHEMA_READ}
_STAYS_INSIDE = "rows of a sandboxed project stay inside: run a program (`wardstream program run`), which may read them"

# An administrator runs the platform and can never read patients' data, nor give that right to anybody in a project
# that has an owner.
_ADMINISTRATOR = frozenset(
    {
        Action.PROJECT_CREATE,
        Action.PROJECT_LIST,
        Action.PROJECT_DESCRIBE,
        Action.QUOTA_READ,
        Action.QUOTA_SET,
        Action.PERSON_MANAGE,
        Action.ACCOUNT_MANAGE,
        Action.MEMBER_LIST,
        Action.AUDIT_READ,
    }
)

# What a key with a scope is good for; with several, for all of theirs. One without any is good for all that its holder may do.
SCOPES: dict[str, frozenset[Action]] = {
    "read": _KEPT_INSIDE
    | {
        Action.PROJECT_LIST,
        Action.PROJECT_DESCRIBE,
        Action.DATASET_LIST,
        Action.SCHEMA_READ,
        Action.MODEL_DESCRIBE,
        Action.PROCESSOR_DESCRIBE,
        Action.PROGRAM_DESCRIBE,
    },
    "write": frozenset(
        {
            Action.PROJECT_LIST,
            Action.PROJECT_DESCRIBE,
            Action.DATASET_LIST,
            Action.SCHEMA_READ,
            Action.RECORD_WRITE,
            Action.SCHEMA_REGISTER,
            Action.MODEL_REGISTER,
        }
    ),
    "run": frozenset({Action.PROJECT_LIST, Action.PROJECT_DESCRIBE, Action.PROGRAM_RUN, Action.PROGRAM_DESCRIBE}),
}


def outside_scopes(scopes: frozenset[str]) -> frozenset[str]:
    """Return the actions that a key of these scopes leaves out."""
    return frozenset(Action) - frozenset().union(*(SCOPES[scope] for scope in scopes))


def decide(principal: Principal, action: Action, dataset: Dataset | None = None, project: ProjectName | None = None) -> Decision:
    """Return whether `principal` may do `action` on `dataset`, or on `project` where no one dataset is meant.

    Without a dataset, the answer for a data action says whether it is open to the principal at all; callers ask
    again for each dataset. `visible` is False where the principal may not know that dataset or project exist.
    """
    owner = dataset.project if dataset is not None else project
    if principal.kind is PrincipalKind.ADMINISTRATOR:
        decision = _for_administrator(action, dataset)
        return _refused(f"the key that you use leaves out {action}") if decision.allowed and action in principal.without else decision
    if principal.kind is PrincipalKind.PLATFORM:
        # The platform's processes act on their callers' grants; for themselves they may only know what there is.
        return _refused(f"{principal.name} acts on behalf of its callers only")
    if action is Action.PROJECT_LIST and owner is None:
        return _ALLOWED
    if owner is None:
        return _refused(f"only an administrator may {action}")
    decision = _by_role(principal, action, dataset, owner)
    if decision.allowed and action in principal.without:
        return _refused(f"your role in project {principal.project}, or the key that you use, leaves out {action}: ask a data owner")
    return decision


def _by_role(principal: Principal, action: Action, dataset: Dataset | None, owner: ProjectName) -> Decision:
    if principal.project != owner:
        return _for_receiver(principal, action, dataset, owner)
    if principal.role in (Role.DEVICE, Role.SERVICE):
        return _for_machine(principal, action, dataset)
    if principal.role is Role.RESTRICTED:
        return _for_restricted(principal, action, dataset)
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


def columns_of(principal: Principal, dataset: Dataset) -> frozenset[str] | None:
    """Return the columns of the dataset's table that are open to `principal`, or None where all are.

    Asked after `decide` allowed to read; key and event time come along with whatever columns there are.
    """
    if dataset.project != principal.project:
        share = _share_of(principal, dataset)
        return share.columns if share is not None else frozenset()
    if principal.role is not Role.RESTRICTED or dataset.name in principal.reads:
        return None
    return next((part.names for part in principal.columns if part.dataset == dataset.name), frozenset())


def by_author(principal: Principal, action: Action, project: Project) -> Decision:
    """Return whether `principal` may do to its project what its author alone may, such as closing it."""
    decision = decide(principal, action, project=project.name)
    if decision.allowed and principal.member != project.author:
        return _refused(f"only {project.author}, the author of project {project.name}, may {action}; the author can hand it over")
    return decision


def may_give(principal: Principal, role: Role, without: frozenset[str], *, writes: bool = False) -> Decision:
    """Return whether `principal`, who may add members, may give somebody this role: nobody gives, or takes a token for, more than they have.

    Matters for roles of a project's own: whoever lacks an action could otherwise make a member who has it, and be that member.
    """
    given = _PERSONS.get(role, _RESTRICTED_PROJECT if role is Role.RESTRICTED else frozenset())
    if writes or role in (Role.DATA_OWNER, Role.DATA_SCIENTIST):
        given = given | {Action.RECORD_WRITE, Action.SCHEMA_REGISTER}
    more = sorted((given - without) & principal.without)
    if more:
        return _refused(f"your role leaves out {', '.join(more)}, and nobody gives more than they have")
    return _ALLOWED


def _share_of(principal: Principal, dataset: Dataset) -> SharedIn | None:
    return next((share for share in principal.shared if (share.project, share.dataset) == (dataset.project, dataset.name)), None)


def _refused(reason: str) -> Decision:
    return Decision(allowed=False, visible=True, reason=reason)


def _for_administrator(action: Action, dataset: Dataset | None) -> Decision:
    if dataset is not None:
        return UNSEEN
    if action in _ADMINISTRATOR:
        return _ALLOWED
    return _refused(f"an administrator runs the platform and may not {action}: ask a data owner of the project")


def _for_machine(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    """Devices and services: what their lists name, and nothing else."""
    service = principal.role is Role.SERVICE
    if dataset is None:
        known = {Action.PROJECT_DESCRIBE, Action.PROJECT_LIST, Action.DATASET_LIST, Action.SCHEMA_READ}
        known |= {Action.CERTIFICATE_RENEW} if not service else set()
        known |= {Action.RECORD_WRITE, *(_KEPT_INSIDE | {Action.SCHEMA_REGISTER} if service else ())}
        return _ALLOWED if action in known else _refused(f"a {principal.role} may not {action}")
    reads = service and dataset.name in principal.reads
    writes = dataset.name in principal.writes
    if not (reads or writes):
        return UNSEEN
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


def _for_restricted(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    """A restricted member: the tables that it was given, and what it needs to run a program that reads them."""
    if dataset is None:
        return _ALLOWED if action in _RESTRICTED_PROJECT else _refused(f"a {principal.role} member may not {action}: ask a data owner")
    if dataset.name not in principal.reads and all(part.dataset != dataset.name for part in principal.columns):
        return UNSEEN
    if action not in _RESTRICTED:
        return _refused(f"a {principal.role} member reads tables alone and may not {action}: ask a data owner of the project")
    if action in _DATA and principal.sandboxed and principal.door is Door.OUTSIDE:
        return _refused(_STAYS_INSIDE)
    return _ALLOWED


def _for_receiver(principal: Principal, action: Action, dataset: Dataset | None, owner: ProjectName) -> Decision:
    """Somebody of a project that `owner` shares with. What no share opens is not there, its project included."""
    shares = [share for share in principal.shared if share.project == owner]
    if not shares or principal.role is None or not principal.role.whole:
        return UNSEEN
    if dataset is None:
        return _ALLOWED if action in _SHARED or action is Action.RECORD_WRITE else UNSEEN
    share = _share_of(principal, dataset)
    if share is None:
        return UNSEEN
    if action is Action.RECORD_WRITE:
        return _may_write_shared(principal, dataset, share)
    if action not in _SHARED:
        return _refused(f"{owner}.{dataset.name} is shared with project {principal.project}; only its owners may {action}")
    if action is Action.RECORD_READ and share.columns is not None:
        return _refused(f"{owner}.{dataset.name} is shared by columns, which its table has and its topic has not: read the table")
    inside_only = principal.sandboxed or share.sandboxed
    if action in _DATA and inside_only and principal.door is Door.OUTSIDE and principal.role is not Role.DATA_OWNER:
        return _refused(_STAYS_INSIDE)
    return _ALLOWED


def _may_write_shared(principal: Principal, dataset: Dataset, share: SharedIn) -> Decision:
    name = f"{dataset.project}.{dataset.name}"
    if dataset.processors:
        return _refused(f"{name} is the result of {', '.join(sorted(dataset.processors))}; people do not write it")
    if principal.role is Role.OBSERVER or share.columns is not None or DatasetPermission.READ_ONLY in (share.mode, dataset.permission):
        return _refused(f"{name} is shared to be read: ask its owners for a share that may be written")
    if share.mode is DatasetPermission.EDITABLE or principal.role is Role.DATA_OWNER:
        return _ALLOWED
    return _refused(f"{name} is shared as editable by owners: ask a data owner of project {principal.project} to write it")


def _for_person(principal: Principal, action: Action, dataset: Dataset | None) -> Decision:
    role = principal.role
    allowed = _PERSONS[role] if role is not None else frozenset()
    if action in (Action.RECORD_WRITE, Action.SCHEMA_REGISTER) and role is not Role.OBSERVER:
        return _may_write(principal, action, dataset)
    if action in (Action.DATASET_ALTER, Action.DATASET_DELETE) and role is Role.DATA_SCIENTIST:
        return _own_group(principal, action, dataset)
    if action not in allowed:
        return _refused(f"a {role} may not {action}: ask a data owner of the project")
    if action in _KEPT_INSIDE and principal.sandboxed and principal.door is Door.OUTSIDE and role is not Role.DATA_OWNER:
        return _refused(_STAYS_INSIDE)
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
