"""The use cases of tenancy: find, decide, act, audit, settle. Knows nothing of HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from tenancy import audit
from tenancy.audit import AuditEntry, AuditEvent, Detail, Outcome, Verification
from tenancy.authentication import Authentication
from tenancy.authority.secrets import pseudonym_key, redis_password
from tenancy.model import (
    MATERIALISER,
    Columns,
    CustomRole,
    Dataset,
    DatasetKind,
    DatasetPermission,
    InternalTopic,
    Member,
    MemberState,
    Principal,
    PrincipalKind,
    Project,
    ProjectState,
    Role,
    ShareState,
    platform_principal,
)
from tenancy.policy import Action, by_author, decide, knows, may_give, require
from tenancy.quotas import MOST_INTERNAL_TOPICS, MOST_PARTITIONS, check_datasets, check_members
from tenancy.reconcile import Reconciler, Settlement
from tenancy.redis_users import StoreAccess, user_name
from tenancy.repository import Existence, Repository, Revocation, StoredDataset, Transaction
from tenancy.revocation import Revoker
from tenancy.shares import Void
from tenancy.topic_config import checked_config
from tenancy.use_cases import UseCases, event_of
from wardstream.clock import Clock
from wardstream.errors import (
    Conflict,
    Invalid,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
    UnsafeChange,
)
from wardstream.names import DatasetName, MemberName, ProjectName, internal_prefix, parse_dataset, split_group_dataset

logger = logging.getLogger(__name__)

_LONGEST_DESCRIPTION = 2000
_LONGEST_TOPIC = 249
_LONGEST_REASON = 200
# Entries read at a time while the chain is checked.
_PAGE = 5000


@dataclass(frozen=True)
class ProjectMade:
    """A new project, and the token with which its first owner enrols."""

    project: Project
    owner_token: str
    expires_at: datetime
    settled: bool


@dataclass(frozen=True)
class ProjectAltered:
    """A project as it is now, and the members who need a new token since their certificates ended."""

    project: Project
    renewed: tuple[MemberName, ...]
    settled: bool


@dataclass(frozen=True)
class MemberAdded:
    """A new member, and the token with which it enrols; services enrol through the worker that runs them."""

    member: Member
    enrolment_token: str | None
    expires_at: datetime
    settled: bool


@dataclass(frozen=True)
class DatasetState:
    """A dataset as members see it; `topic_id` is None until the broker has made the topic."""

    dataset: Dataset
    topic_id: str | None


@dataclass(frozen=True)
class StorageCredentials:
    """What reaches a project's online rows."""

    user: str
    password: str
    pseudonym_key: bytes


class TenancyService(UseCases):
    """Projects, members and datasets. Every change is decided and audited in one transaction, then carried outside."""

    def __init__(
        self,
        *,
        repository: Repository,
        authentication: Authentication,
        reconciler: Reconciler,
        revoker: Revoker,
        secret: bytes,
        clock: Clock,
    ) -> None:
        super().__init__(repository=repository, reconciler=reconciler, revoker=revoker, clock=clock)
        self._authentication = authentication
        self._secret = secret

    # Projects

    def create_project(
        self, principal: Principal, name: ProjectName, *, description: str, owner: MemberName, sandboxed: bool
    ) -> ProjectMade:
        """Make a project with its first data owner and its materialiser. Raises `Conflict` where the name is taken."""
        if len(description) > _LONGEST_DESCRIPTION:
            raise Invalid(f"a description has at most {_LONGEST_DESCRIPTION} characters, got {len(description)}")
        if owner == MATERIALISER:
            raise Conflict(f"{MATERIALISER} is the platform's own service in every project: choose another name")
        now = self._clock.now()
        with self._changing(principal, Action.PROJECT_CREATE, f"project {name}", None) as tenancy:
            require(decide(principal, Action.PROJECT_CREATE))
            if tenancy.project(name) is not None:
                raise Conflict(f"project {name} exists already")
            project = Project(name, description, sandboxed, now, author=owner)
            tenancy.add_project(project)
            first = _new_member(name, owner, Role.DATA_OWNER, now)
            tenancy.put_member(first)
            tenancy.put_member(_new_member(name, MATERIALISER, Role.SERVICE, now))
            token, ends = self._authentication.new_enrolment_token(tenancy, first)
            tenancy.audit(event_of(principal, Action.PROJECT_CREATE, name, name, owner=owner, sandboxed=sandboxed), now)
        return ProjectMade(project, token or "", ends, self._settle_if_possible(name).settled)

    def projects(self, principal: Principal) -> list[Project]:
        """Return the projects that `principal` may know of, by name."""
        require(decide(principal, Action.PROJECT_LIST))
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            found = tenancy.projects()
        return [project for project in found if decide(principal, Action.PROJECT_DESCRIBE, project=project.name).allowed]

    def project(self, principal: Principal, name: ProjectName) -> Project:
        """Return one project; raises `NotFound` also where `principal` may not know of it."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            return self._project(tenancy, principal, Action.PROJECT_DESCRIBE, name)

    def all_projects(self) -> list[Project]:
        """Return every project that is not closed, for the platform's own processes."""
        with self._repository.transaction() as tenancy:
            return [project for project in tenancy.projects() if project.state is ProjectState.ACTIVE]

    def alter_project(
        self, principal: Principal, name: ProjectName, *, description: str | None = None, sandboxed: bool | None = None
    ) -> ProjectAltered:
        """Change what is given. Sandboxing an open project gives people who hold certificates outside another generation.

        They are named in the answer and need a new token each. Raises `Conflict` where a share would let rows of a
        sandboxed project into an open one.
        """
        if description is not None and len(description) > _LONGEST_DESCRIPTION:
            raise Invalid(f"a description has at most {_LONGEST_DESCRIPTION} characters, got {len(description)}")
        now = self._clock.now()
        with self._changing(principal, Action.PROJECT_ALTER, f"project {name}", name) as tenancy:
            before = self._project(tenancy, principal, Action.PROJECT_ALTER, name)
            after = replace(
                before,
                description=before.description if description is None else description,
                sandboxed=before.sandboxed if sandboxed is None else sandboxed,
            )
            going: list[Revocation] = []
            if after.sandboxed is not before.sandboxed:
                _check_borders(tenancy, after)
            if after.sandboxed and not before.sandboxed:
                outside = tenancy.credentials.outside_holders(name, now)
                kept = [one for one in tenancy.members(name) if one.role.person and one.role is not Role.DATA_OWNER]
                going = [self._next_generation(tenancy, one, now) for one in kept if (one.name, one.generation) in outside]
            tenancy.put_project(after)
            voids = [self._void(tenancy, name)]
            # What the receivers of its shares may do outside follows from it too.
            given = {share.receiver for share in tenancy.shares.of_project(name) if share.state is ShareState.ACCEPTED}
            voids += [self._void(tenancy, receiver) for receiver in sorted(given - {name})]
            tenancy.audit(
                event_of(principal, Action.PROJECT_ALTER, name, name, sandboxed=after.sandboxed, renewed=[one.member for one in going]), now
            )
        done = self._take_effect(voids, [name])
        ended = self._carry_out(going)
        return ProjectAltered(after, tuple(each.member for each in going), done.settled and ended)

    def hand_over(self, principal: Principal, name: ProjectName, to: MemberName) -> Project:
        """Make another data owner the project's author; only the author may."""
        now = self._clock.now()
        with self._changing(principal, Action.PROJECT_HAND_OVER, f"project {name}", name) as tenancy:
            before = self._project(tenancy, principal, Action.PROJECT_HAND_OVER, name)
            require(by_author(principal, Action.PROJECT_HAND_OVER, before))
            member = self._member(tenancy, name, to)
            if member.role is not Role.DATA_OWNER or member.without or member.expires_at is not None:
                raise Conflict(f"{to} is no data owner of project {name} with all of an owner's rights, for good: make it one first")
            after = replace(before, author=to)
            tenancy.put_project(after)
            tenancy.audit(event_of(principal, Action.PROJECT_HAND_OVER, name, member.principal_name), now)
        return after

    def close_project(self, principal: Principal, name: ProjectName, *, confirm: str) -> Settlement:
        """End every membership and share of a project, its author's last; its data stay until they are erased.

        `confirm` is the name once more: nothing opens a closed project. What a failure leaves is finished by itself. The name
        is not given out again.
        """
        now = self._clock.now()
        with self._changing(principal, Action.PROJECT_CLOSE, f"project {name}", name) as tenancy:
            project = self._project(tenancy, principal, Action.PROJECT_CLOSE, name)
            require(by_author(principal, Action.PROJECT_CLOSE, project))
            if confirm != name:
                raise Invalid(f"confirm must be {name!r}, the project's name, since nothing opens a closed project again")
            tenancy.put_project(replace(project, state=ProjectState.CLOSING))
            voids = []
            for share in tenancy.shares.of_project(name):
                if not share.state.over:
                    tenancy.shares.put(replace(share, state=ShareState.WITHDRAWN, ended_at=now))
                    if share.receiver != name and share.state is ShareState.ACCEPTED:
                        voids.append(self._void(tenancy, share.receiver))
            members = [one for one in tenancy.members(name) if one.state is MemberState.ACTIVE]
            going = [self._end_membership(tenancy, one, now) for one in sorted(members, key=lambda one: one.name == project.author)]
            tenancy.audit(event_of(principal, Action.PROJECT_CLOSE, name, name, members=len(going), shares=len(voids)), now)
        start = time.monotonic()
        ended = self._carry_out(going)
        done = self._take_effect(voids, {*(void.project for void in voids), name})
        return Settlement(ended and done.settled and not self.finish_closing(), time.monotonic() - start)

    def finish_closing(self) -> int:
        """Close every project of which nobody has anything any more; returns how many are still closing."""
        with self._repository.transaction() as tenancy:
            closing = [project for project in tenancy.projects() if project.state is ProjectState.CLOSING]
            if not closing:
                return 0
            unfinished = {revocation.project for revocation in tenancy.revocations(unfinished=True)}
            done = [project for project in closing if project.name not in unfinished]
            for project in done:
                tenancy.put_project(replace(project, state=ProjectState.CLOSED))
                event = AuditEvent("ws-control", project.name, "project.closed", project.name, Outcome.ALLOWED, {})
                tenancy.audit(event, self._clock.now())
        return len(closing) - len(done)

    def activity(self, principal: Principal, name: ProjectName, *, limit: int) -> list[AuditEntry]:
        """Return the newest changes in the project, oldest first: for all who work in it; refusals are the owners' to see."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.ACTIVITY_READ, name)
            found = tenancy.newest_audit_entries(project=name, limit=limit, outcome=Outcome.ALLOWED)
        return found

    # Roles of the project's own

    def custom_roles(self, principal: Principal, project: ProjectName) -> list[CustomRole]:
        """Return the project's custom roles, by name."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.MEMBER_LIST, project)
            return tenancy.custom_roles(project)

    def put_custom_role(
        self, principal: Principal, project: ProjectName, name: MemberName, base: Role, without: Collection[Action]
    ) -> Settlement:
        """Make a role that is `base` less some actions, or change it, for all who have it too."""
        if not base.whole:
            raise Invalid(f"a custom role is based on {', '.join(role for role in Role if role.whole)}; got {base}")
        if str(name) in set(Role):
            raise Conflict(f"{name} is a role of the platform's own: choose another name")
        if not without:
            raise Invalid(f"a custom role leaves out at least one action, else it is a {base}: {', '.join(sorted(Action))}")
        now = self._clock.now()
        with self._changing(principal, Action.ROLE_MANAGE, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.ROLE_MANAGE, project)
            require(may_give(principal, base, frozenset(without)))
            holders = [one for one in tenancy.members(project) if one.custom_role == name and one.state is MemberState.ACTIVE]
            if any(one.role is not base for one in holders):
                raise Conflict(f"{name} is held as a {holders[0].role} by {', '.join(one.name for one in holders)}: its base stays")
            tenancy.put_custom_role(CustomRole(project, name, base, frozenset(without)))
            voids = [self._void(tenancy, project, one.name) for one in holders]
            tenancy.audit(event_of(principal, Action.ROLE_MANAGE, project, name, base=base, without=sorted(without)), now)
        return self._take_effect(voids, [project])

    def remove_custom_role(self, principal: Principal, project: ProjectName, name: MemberName) -> None:
        """Remove a role that nobody has."""
        with self._changing(principal, Action.ROLE_MANAGE, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.ROLE_MANAGE, project)
            if all(role.name != name for role in tenancy.custom_roles(project)):
                raise NotFound(f"role {name} of project {project} is not there")
            holders = [one.name for one in tenancy.members(project) if one.custom_role == name and one.state is MemberState.ACTIVE]
            if holders:
                raise Conflict(f"role {name} is held by {', '.join(holders)}: give them another role first")
            tenancy.remove_custom_role(project, name)
            tenancy.audit(event_of(principal, Action.ROLE_MANAGE, project, name, removed=True), self._clock.now())

    # Members

    def members(self, principal: Principal, project: ProjectName) -> list[Member]:
        """Return the project's members, removed ones included, by name."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.MEMBER_LIST, project)
            return tenancy.members(project)

    def add_member(
        self,
        principal: Principal,
        project: ProjectName,
        name: MemberName,
        role: str,
        *,
        reads: Collection[DatasetName] = (),
        writes: Collection[DatasetName] = (),
        columns: Collection[Columns] = (),
        person: str | None = None,
        expires_at: datetime | None = None,
    ) -> MemberAdded:
        """Add a member; one who was removed comes back under another principal.

        `role` is one of the platform's or the project's own. `reads`, `writes` and `columns` are a device's, a service's or a
        restricted member's. `person` is the account that logs in to it. Raises `Conflict` for a name that is taken.
        """
        now = self._clock.now()
        _check_expiry(expires_at, now)
        self._finish_revocation_of(project, name)
        with self._changing(principal, Action.MEMBER_ADD, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.MEMBER_ADD, project)
            base, custom = _role_of(tenancy, project, role)
            before = tenancy.member(project, name)
            if before is not None and before.state is MemberState.ACTIVE:
                raise Conflict(f"member {name} of project {project} exists already, as {before.custom_role or before.role}")
            if tenancy.unfinished_revocation(project, name) is not None:
                raise Unavailable(f"{name} is still being removed from project {project}: try again in a moment")
            members = tenancy.members(project)
            # A login chooses the project, and then has to be one member of it.
            same = [one.name for one in members if person is not None and one.person == person and one.state is MemberState.ACTIVE]
            if same:
                raise Conflict(f"{person} is a member of project {project} already, as {same[0]}: one membership for an account")
            check_members(project, members, tenancy.quotas.of(project))
            member = Member(
                project=project,
                name=name,
                role=base,
                generation=before.generation if before is not None else 1,
                state=MemberState.ACTIVE,
                reads=frozenset(reads),
                writes=frozenset(writes),
                created_at=now,
                columns=frozenset(columns),
                custom_role=custom,
                person=person,
                expires_at=expires_at,
            )
            member = replace(member, without=_left_out(tenancy, member))
            require(may_give(principal, base, member.without, writes=bool(member.writes)))
            self._check_lists(tenancy, member)
            tenancy.put_member(member)
            self._check_rows(tenancy, project)
            token, ends = self._authentication.new_enrolment_token(tenancy, member)
            tenancy.audit(event_of(principal, Action.MEMBER_ADD, project, member.principal_name, **_told(member)), now)
        return MemberAdded(member, token, ends, self._settle_if_possible(project).settled)

    def alter_member(
        self,
        principal: Principal,
        project: ProjectName,
        name: MemberName,
        *,
        role: str | None = None,
        reads: Collection[DatasetName] | None = None,
        writes: Collection[DatasetName] | None = None,
        columns: Collection[Columns] | None = None,
    ) -> MemberAdded:
        """Change a member's role or lists; what it may no longer do ends on every surface.

        A person who may no longer hold a certificate outside, and does, gets another generation and a new token. Raises
        `Conflict` for the project's author, its last owner, and between people and machines.
        """
        now = self._clock.now()
        going: Revocation | None = None
        token, ends = None, now
        with self._changing(principal, Action.MEMBER_ALTER, f"{project}/{name}", project) as tenancy:
            found = self._project(tenancy, principal, Action.MEMBER_ALTER, project)
            before = self._member(tenancy, project, name)
            if before.role is Role.SERVICE:
                raise Conflict(f"{name} is a service: what it reads and writes is set by deploying it")
            base, custom = (before.role, before.custom_role) if role is None else _role_of(tenancy, project, role)
            listed = base in (Role.DEVICE, Role.RESTRICTED)
            after = replace(
                before,
                role=base,
                custom_role=custom,
                reads=frozenset(reads) if reads is not None else before.reads if listed else frozenset(),
                writes=frozenset(writes) if writes is not None else before.writes if listed else frozenset(),
                columns=frozenset(columns) if columns is not None else before.columns if listed else frozenset(),
            )
            if base.person is not before.role.person or (not base.person and base is not before.role):
                raise Conflict(f"{name} is a {before.role} and cannot become a {base}: add another member")
            after = replace(after, without=_left_out(tenancy, after))
            require(may_give(principal, base, after.without, writes=bool(after.writes)))
            _check_owners(tenancy, found, before, after)
            self._check_lists(tenancy, after)
            tenancy.put_member(after)
            self._check_rows(tenancy, project)
            loses = before.role is Role.DATA_OWNER and base is not Role.DATA_OWNER and found.sandboxed
            if loses and (name, before.generation) in tenancy.credentials.outside_holders(project, now):
                going = self._next_generation(tenancy, after, now)
                after = self._member(tenancy, project, name)
                token, ends = self._authentication.new_enrolment_token(tenancy, after)
            else:
                after = self._member(tenancy, project, name)
            void = self._void(tenancy, project, name)
            tenancy.audit(event_of(principal, Action.MEMBER_ALTER, project, after.principal_name, **_told(after)), now)
        done = self._take_effect([void], [project])
        ended = going is None or self._revoker.carry_out(going).settled
        return MemberAdded(after, token, ends, done.settled and ended)

    def lose_key(self, principal: Principal, project: ProjectName, name: MemberName, *, reason: str) -> MemberAdded:
        """Give a member whose key was lost or stolen another principal, and a new token; the old one ends as with a removal."""
        if not 1 <= len(reason.strip()) <= _LONGEST_REASON:
            raise Invalid(f"say what happened to the key: a reason has 1 to {_LONGEST_REASON} characters, got {len(reason.strip())}")
        now = self._clock.now()
        self._finish_revocation_of(project, name)
        with self._changing(principal, Action.MEMBER_ALTER, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.MEMBER_ALTER, project)
            member = self._member(tenancy, project, name)
            if member.role is Role.SERVICE:
                raise Invalid(f"{name} is a service, whose keys are the platform's: remove it and deploy it again")
            require(may_give(principal, member.role, member.without, writes=bool(member.writes)))
            going = self._next_generation(tenancy, member, now)
            member = self._member(tenancy, project, name)
            token, ends = self._authentication.new_enrolment_token(tenancy, member)
            tenancy.audit(
                event_of(principal, "member.lost-key", project, member.principal_name, ended=going.principal, reason=reason.strip()), now
            )
        ended = self._revoker.carry_out(going)
        settled = self._settle_if_possible(project)
        return MemberAdded(member, token, ends, ended.settled and settled.settled)

    def new_enrolment_token(self, principal: Principal, project: ProjectName, name: MemberName) -> MemberAdded:
        """Return another one-time token for a member, for a lost one or a second credential."""
        with self._changing(principal, Action.MEMBER_ADD, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.MEMBER_ADD, project)
            member = self._member(tenancy, project, name)
            if member.role is Role.SERVICE:
                raise Invalid(f"{name} is a service: the worker that runs it gets its certificates")
            require(may_give(principal, member.role, member.without, writes=bool(member.writes)))
            token, ends = self._authentication.new_enrolment_token(tenancy, member)
            tenancy.audit(event_of(principal, Action.MEMBER_ADD, project, member.principal_name, token=True), self._clock.now())
        return MemberAdded(member, token, ends, settled=True)

    def remove_member(self, principal: Principal, project: ProjectName, name: MemberName) -> Settlement:
        """End a membership everywhere: at the brokers, also on open connections, in every process, on every credential.

        Repeating it after a failure goes on where it stopped. Raises `Conflict` for the last owner and the materialiser.
        """
        now = self._clock.now()
        with self._changing(principal, Action.MEMBER_REMOVE, f"{project}/{name}", project) as tenancy:
            member = tenancy.member(project, name)
            # Who deploys a processor takes it away again.
            action = Action.PROCESSOR_DEPLOY if member is not None and member.role is Role.SERVICE else Action.MEMBER_REMOVE
            self._project(tenancy, principal, action, project)
            going = tenancy.unfinished_revocation(project, name)
            if going is None:
                going = self._begin_removal(tenancy, principal, self._member(tenancy, project, name), now)
        settlement = self._revoker.carry_out(going)
        if member is not None and member.role is Role.SERVICE:
            # Its topics go, and what it wrote may be written by people again.
            after = self._settle_if_possible(project)
            return Settlement(settlement.settled and after.settled, settlement.seconds + after.seconds)
        return settlement

    def _begin_removal(self, tenancy: Transaction, principal: Principal, member: Member, now: datetime) -> Revocation:
        if member.name == MATERIALISER:
            raise Conflict(f"{MATERIALISER} fills the project's tables and stays as long as the project")
        project = tenancy.project(member.project)
        if project is not None:
            _check_owners(tenancy, project, member, None)
        revocation = self._end_membership(tenancy, member, now)
        tenancy.audit(event_of(principal, Action.MEMBER_REMOVE, member.project, member.principal_name, role=member.role), now)
        return revocation

    def _end_membership(self, tenancy: Transaction, member: Member, now: datetime) -> Revocation:
        gone = replace(member, state=MemberState.REMOVED, reads=frozenset(), writes=frozenset(), columns=frozenset(), expires_at=None)
        tenancy.put_member(gone)
        tenancy.begin_internal_deletion(member.project, member.name)
        return self._begin_revocation(tenancy, member, now)

    def expire_members(self) -> int:
        """Remove the members whose time is over; returns how many."""
        now = self._clock.now()
        with self._repository.transaction() as tenancy:
            due = tenancy.members_due(now)
            going = [self._begin_removal(tenancy, platform_principal("ws-control"), member, now) for member in due]
        for each in going:
            self._revoker.carry_out(each)
        return len(going)

    def recent_revocations(self, since: datetime) -> list[Revocation]:
        """Return what was revoked since then, for a process that has just started."""
        with self._repository.transaction() as tenancy:
            return tenancy.revocations(since=since)

    def recent_voids(self, since: datetime) -> list[Void]:
        """Return which grants became void since then."""
        with self._repository.transaction() as tenancy:
            return tenancy.shares.voids(since=since)

    # Services

    def put_service(
        self,
        principal: Principal,
        project: ProjectName,
        name: MemberName,
        *,
        reads: Collection[DatasetName],
        writes: Collection[DatasetName],
        internals: Collection[InternalTopic],
    ) -> Member:
        """Make a service, or give it other datasets and internal topics; its rights hold on every broker afterwards.

        Whoever asks must be able to read what it reads and to write what it is to write. Internal topics are added and
        grown here; they go with the service. Raises `Unavailable` when brokers do not show it in time: repeat it then.
        """
        inside = principal.inside()
        now = self._clock.now()
        self._finish_revocation_of(project, name)
        with self._changing(principal, Action.PROCESSOR_DEPLOY, f"{project}/{name}", project) as tenancy:
            self._project(tenancy, principal, Action.PROCESSOR_DEPLOY, project)
            if name == MATERIALISER:
                raise Conflict(f"{MATERIALISER} is the platform's own service: it reads every feature group by itself")
            before = tenancy.member(project, name)
            active = before is not None and before.state is MemberState.ACTIVE
            if before is not None and active and before.role is not Role.SERVICE:
                raise Conflict(f"{name} of project {project} is a {before.role}: choose another name for the service")
            if tenancy.unfinished_revocation(project, name) is not None:
                raise Unavailable(f"{name} is still being removed from project {project}: try again in a moment")
            for dataset in self._existing(tenancy, project, reads):
                require(decide(inside, Action.RECORD_READ, dataset), f"dataset {project}.{dataset.name}")
            for dataset in self._existing(tenancy, project, writes):
                if dataset.processors - {name}:
                    raise Conflict(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}: one processor writes it")
                # As if no processor wrote it yet: deploying one anew is no way to write what its deployer may not.
                free = replace(dataset, processors=frozenset())
                require(decide(inside, Action.RECORD_WRITE, free), f"dataset {project}.{dataset.name}")
            member = Member(
                project=project,
                name=name,
                role=Role.SERVICE,
                generation=before.generation if before is not None else 1,
                state=MemberState.ACTIVE,
                reads=frozenset(reads),
                writes=frozenset(writes),
                created_at=before.created_at if before is not None and active else now,
            )
            if not active:
                check_members(project, tenancy.members(project), tenancy.quotas.of(project))
            tenancy.put_member(member)
            self._put_internals(tenancy, member, internals)
            self._check_rows(tenancy, project)
            tenancy.audit(
                event_of(
                    principal,
                    Action.PROCESSOR_DEPLOY,
                    project,
                    member.principal_name,
                    reads=sorted(reads),
                    writes=sorted(writes),
                    internals=sorted(topic.name for topic in internals),
                ),
                now,
            )
        self._settle(project)
        return member

    def _put_internals(self, tenancy: Transaction, member: Member, internals: Collection[InternalTopic]) -> None:
        prefix = internal_prefix(member.project, member.name)
        if len(internals) > MOST_INTERNAL_TOPICS:
            raise LimitExceeded(f"a processor has at most {MOST_INTERNAL_TOPICS} internal topics, got {len(internals)}")
        found = {stored.topic.name: stored for stored in tenancy.internal_topics(member.project)}
        # Kafka takes '.' and '_' for the same in names of topics.
        taken = {name.replace(".", "_"): name for name in found}
        for topic in internals:
            rest = topic.name.removeprefix(prefix)
            if (
                rest == topic.name
                or not rest
                or len(topic.name) > _LONGEST_TOPIC
                or not all(c.isascii() and (c.isalnum() or c in "._-") for c in rest)
            ):
                raise Invalid(f"an internal topic of {member.name} begins with {prefix!r} and goes on in letters, digits, '.', '_' and '-'")
            _check_partitions(topic.partitions)
            if taken.get(topic.name.replace(".", "_"), topic.name) != topic.name:
                raise Conflict(f"internal topic {topic.name} differs from {taken[topic.name.replace('.', '_')]} in '.' and '_' only")
            stored = found.get(topic.name)
            if stored is not None and stored.state is Existence.DELETING:
                raise Unavailable(f"internal topic {topic.name} is still being deleted: try again in a moment")
            if stored is not None and stored.topic.partitions > topic.partitions:
                raise UnsafeChange(f"{topic.name} has {stored.topic.partitions} partitions; partitions cannot be removed")
            tenancy.put_internal_topic(member.project, member.name, replace(topic, config=checked_config(topic.config)))
            taken[topic.name.replace(".", "_")] = topic.name

    # Datasets

    def datasets(self, principal: Principal, project: ProjectName) -> list[DatasetState]:
        """Return the project's datasets that `principal` may know of, by name."""
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            self._project(tenancy, principal, Action.DATASET_LIST, project)
            found = tenancy.datasets(project)
        return [_state(stored) for stored in found if stored.state is Existence.THERE and knows(principal, stored.dataset)]

    def create_dataset(
        self,
        principal: Principal,
        project: ProjectName,
        name: DatasetName,
        *,
        kind: DatasetKind,
        partitions: int,
        config: Mapping[str, str],
        permission: DatasetPermission,
    ) -> DatasetState:
        """Make a dataset with its topic, its dead-letter topic and everybody's rights on them.

        Repeating it with the same values returns what is there; other values are a `Conflict`. Raises `Unavailable`
        when brokers do not show everything in time: what is missing follows by itself, and repeating is safe.
        """
        _check_partitions(partitions)
        kept = checked_config(config)
        action = Action.FEATURE_GROUP_CREATE if kind is DatasetKind.FEATURE_GROUP else Action.DATASET_CREATE
        if kind is DatasetKind.TOPIC:
            parse_dataset(name)
        elif split_group_dataset(name) is None:
            raise Invalid(f"a feature group's dataset is named <group>_<version>, got {name!r}")
        now = self._clock.now()
        with self._changing(principal, action, f"{project}.{name}", project) as tenancy:
            self._project(tenancy, principal, action, project)
            wanted = Dataset(project, name, kind, permission, partitions, kept, principal.name)
            before = tenancy.dataset(project, name)
            if before is None:
                there = [stored.dataset for stored in tenancy.datasets(project)]
                check_datasets(project, there, tenancy.quotas.of(project), topics=1, partitions=partitions)
                tenancy.add_dataset(wanted, now)
                if kind is DatasetKind.FEATURE_GROUP:
                    materialiser = self._member(tenancy, project, MATERIALISER)
                    tenancy.put_member(replace(materialiser, reads=materialiser.reads | {name}))
                self._check_rows(tenancy, project)
                tenancy.audit(event_of(principal, action, project, name, kind=kind, permission=permission, partitions=partitions), now)
            elif before.state is Existence.DELETING:
                raise Conflict(f"dataset {project}.{name} is still being deleted: its name is free when nothing of it is left")
            elif not _same(before.dataset, wanted):
                raise Conflict(f"dataset {project}.{name} exists already with other settings: alter it instead")
        try:
            self._settle(project)
        except Invalid:
            # The broker refuses what our own checks let pass: nothing of it must stay. What was there before, stays.
            if before is None:
                with self._repository.transaction() as tenancy:
                    tenancy.begin_deletion(project, name)
                    tenancy.audit(event_of(principal, Action.DATASET_DELETE, project, name, kind=kind, why="the broker refuses it"), now)
                self._settle_if_possible(project)
            raise
        return self._dataset_state(project, name)

    def alter_dataset(
        self,
        principal: Principal,
        project: ProjectName,
        name: DatasetName,
        *,
        partitions: int | None = None,
        config: Mapping[str, str] | None = None,
        permission: DatasetPermission | None = None,
    ) -> DatasetState:
        """Change what is given; `config` replaces the whole of it. Fewer partitions are an `UnsafeChange`."""
        now = self._clock.now()
        with self._changing(principal, Action.DATASET_ALTER, f"{project}.{name}", project) as tenancy:
            before = self._dataset(tenancy, principal, Action.DATASET_ALTER, project, name).dataset
            if partitions is not None:
                _check_partitions(partitions)
                if partitions < before.partitions:
                    raise UnsafeChange(f"{project}.{name} has {before.partitions} partitions; partitions cannot be removed")
            after = replace(
                before,
                partitions=before.partitions if partitions is None else partitions,
                config=before.config if config is None else checked_config(config),
                permission=before.permission if permission is None else permission,
            )
            there = [stored.dataset for stored in tenancy.datasets(project)]
            check_datasets(project, there, tenancy.quotas.of(project), topics=0, partitions=after.partitions - before.partitions)
            tenancy.alter_dataset(after)
            self._check_rows(tenancy, project)
            tenancy.audit(
                event_of(
                    principal,
                    Action.DATASET_ALTER,
                    project,
                    name,
                    partitions=after.partitions,
                    permission=after.permission,
                    config=[f"{key}={value}" for key, value in sorted(after.config.items())],
                ),
                now,
            )
        try:
            self._settle(project)
        except Invalid:
            # The broker refuses what our own checks let pass: left so, nothing of the project could be settled any more.
            with self._repository.transaction() as tenancy:
                if (stored := tenancy.dataset(project, name)) is not None:
                    tenancy.alter_dataset(_taken_back(stored.dataset, before, after))
                tenancy.audit(event_of(principal, Action.DATASET_ALTER, project, name, why="taken back: the broker refuses it"), now)
            self._settle_if_possible(project)
            raise
        return self._dataset_state(project, name)

    def delete_dataset(self, principal: Principal, project: ProjectName, name: DatasetName) -> Settlement:
        """Delete a dataset: first everybody's rights, then both topics. The name is free when nothing of it is left.

        Raises `Conflict` while a processor still reads or writes it.
        """
        now = self._clock.now()
        with self._changing(principal, Action.DATASET_DELETE, f"{project}.{name}", project) as tenancy:
            dataset = self._dataset(tenancy, principal, Action.DATASET_DELETE, project, name).dataset
            users = sorted(
                member.name
                for member in tenancy.members(project)
                if member.role is Role.SERVICE
                and member.state is MemberState.ACTIVE
                and member.name != MATERIALISER
                and name in member.reads | member.writes
            )
            if users:
                raise Conflict(f"dataset {project}.{name} is used by {', '.join(users)}: remove these processors first")
            voids = []
            for share in tenancy.shares.of_dataset(project, name):
                tenancy.shares.put(replace(share, state=ShareState.WITHDRAWN, ended_at=now))
                if share.state is ShareState.ACCEPTED:
                    voids.append(self._void(tenancy, share.receiver))
            tenancy.begin_deletion(project, name)
            tenancy.audit(event_of(principal, Action.DATASET_DELETE, project, name, kind=dataset.kind, shares=len(voids)), now)
        # The receivers' rows first: rows outlive topics, and would open one that is made anew under this name.
        gone = self._take_effect(voids, [void.project for void in voids])
        done = self._settle_if_possible(project)
        return Settlement(done.settled and gone.settled, done.seconds + gone.seconds)

    # Audit

    def audit_entries(self, principal: Principal, project: ProjectName | None, *, limit: int, after: int | None) -> list[AuditEntry]:
        """Return entries, oldest first: of a project to its owners, of everything to an administrator.

        The first `limit` after number `after`; without it the newest.
        """
        asked = project if project is not None or principal.kind is PrincipalKind.ADMINISTRATOR else principal.project
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            if asked is None:
                require(decide(principal, Action.AUDIT_READ))
            else:
                self._project(tenancy, principal, Action.AUDIT_READ, asked)
            if after is None:
                return tenancy.newest_audit_entries(project=asked, limit=limit)
            return list(tenancy.audit_entries(project=asked, after=after, limit=limit))

    def verify_audit(self, principal: Principal) -> Verification:
        """Check the whole chain; says where it is broken, never what it holds."""
        require(decide(principal, Action.AUDIT_READ, project=principal.project))
        with self._repository.transaction() as tenancy:
            self._current(tenancy, principal)
            head, last = tenancy.audit_head(), tenancy.last_audit_sequence()
        # Entries behind the head were added, or the head was set back: read them too, so that the check falls over them.
        return audit.verify(self._entries(max(head.sequence, last)), head)

    def _entries(self, last: int) -> Iterator[AuditEntry]:
        """Yield all entries in short transactions, so that nobody who changes something waits for a long check."""
        after = 0
        while after < last:
            with self._repository.transaction() as tenancy:
                page = list(tenancy.audit_entries(after=after, limit=min(_PAGE, last - after)))
            if not page:
                return
            yield from page
            after = page[-1].sequence

    # For the platform's own processes

    def storage_credentials(self, project: ProjectName, access: StoreAccess, *, asking: Principal | None) -> StorageCredentials:
        """Return what reaches the project's online rows; passwords are derived, so asking twice gives the same.

        What reads is given for somebody who may know of the project's datasets alone; what writes, to the process that fills tables
        for nobody in particular: `asking` is None.
        """
        if access is StoreAccess.READ:
            if asking is None:
                raise Unauthenticated("what reads online rows is given out for somebody who asks for them")
            require(decide(asking, Action.DATASET_LIST, project=project), f"project {project}")
        with self._repository.transaction() as tenancy:
            found = tenancy.project(project)
            if found is None or found.state is ProjectState.CLOSED:
                raise NotFound(f"project {project} is not there")
        user = user_name(project, access)
        return StorageCredentials(user, redis_password(self._secret, user), pseudonym_key(self._secret, project))

    def _dataset_state(self, project: ProjectName, name: DatasetName) -> DatasetState:
        with self._repository.transaction() as tenancy:
            stored = tenancy.dataset(project, name)
        if stored is None or stored.state is Existence.DELETING:
            raise NotFound(f"dataset {project}.{name} is not there")
        return _state(stored)

    def _check_lists(self, tenancy: Transaction, member: Member) -> None:
        """Refuse lists that the role has not, or that name what is not there or is not to be had."""
        role = member.role
        if role.whole and (member.reads or member.writes or member.columns):
            raise Invalid(f"a {role} reads and writes by role and by each dataset's permission: leave out reads, writes and columns")
        if role is Role.DEVICE and (member.reads or member.columns):
            raise Invalid("a device only writes: leave out reads and columns")
        if role is Role.RESTRICTED and member.writes:
            raise Invalid("a restricted member only reads: leave out writes")
        if role is not Role.RESTRICTED and member.columns:
            raise Invalid("columns are given to a restricted member only")
        parts = {part.dataset: part for part in member.columns}
        if len(parts) < len(member.columns) or parts.keys() & member.reads:
            raise Invalid("a dataset is named once: with columns, or whole")
        if any(not part.names for part in member.columns):
            raise Invalid("name at least one column")
        for dataset in self._existing(tenancy, member.project, {*member.reads, *member.writes, *parts}):
            if role is Role.RESTRICTED and dataset.kind is not DatasetKind.FEATURE_GROUP:
                raise Invalid(f"{dataset.name} is a topic: a restricted member reads feature groups")
            if dataset.name in member.writes and dataset.processors - {member.name}:
                raise Conflict(f"{dataset.name} is the result of {', '.join(sorted(dataset.processors))}: leave it out of writes")

    def _finish_revocation_of(self, project: ProjectName, name: MemberName) -> None:
        """A name is given out again only when nothing of its last bearer is left."""
        with self._repository.transaction() as tenancy:
            going = tenancy.unfinished_revocation(project, name)
        if going is not None:
            self._revoker.carry_out(going)


def _new_member(project: ProjectName, name: MemberName, role: Role, at: datetime) -> Member:
    return Member(project, name, role, 1, MemberState.ACTIVE, frozenset(), frozenset(), at)


def _told(member: Member) -> dict[str, Detail]:
    """Return what the audit says of a member beside its name."""
    return {
        "role": member.custom_role or member.role,
        "reads": sorted(member.reads),
        "writes": sorted(member.writes),
        "columns": sorted(f"{part.dataset}: {', '.join(sorted(part.names))}" for part in member.columns),
        "person": member.person,
        "expires_at": member.expires_at.isoformat() if member.expires_at is not None else None,
    }


def _role_of(tenancy: Transaction, project: ProjectName, text: str) -> tuple[Role, MemberName | None]:
    """Return the base role that `text` names, and the project's own role if it names one."""
    if text in set(Role):
        return Role(text), None
    own = tenancy.custom_roles(project)
    for role in own:
        if role.name == text:
            return role.base, role.name
    raise Invalid(f"{text[:40]!a} is not a role: roles are {', '.join([*Role, *(role.name for role in own)])}")


def _left_out(tenancy: Transaction, member: Member) -> frozenset[str]:
    """Return the actions that the member's custom role leaves out."""
    return next((role.without for role in tenancy.custom_roles(member.project) if role.name == member.custom_role), frozenset())


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise Invalid(f"expires_at is {expires_at.isoformat()}, which is over: give a time to come")


def _check_owners(tenancy: Transaction, project: Project, before: Member, after: Member | None) -> None:
    """Refuse what would leave a project without its author or without an owner."""
    if before.role is not Role.DATA_OWNER or (after is not None and after.role is Role.DATA_OWNER and after.custom_role is None):
        return
    if before.name == project.author:
        raise Conflict(f"{before.name} is the author of project {project.name}: hand it over to another data owner first")
    owners = [one for one in tenancy.members(project.name) if one.role is Role.DATA_OWNER and one.state is MemberState.ACTIVE]
    if [one.name for one in owners if one.custom_role is None] == [before.name]:
        raise Conflict(f"{before.name} is the last data owner of project {project.name}: add another one first")


def _check_borders(tenancy: Transaction, project: Project) -> None:
    """Refuse a sandbox that is opened or closed while a share goes from a sandboxed project to an open one."""
    for share in tenancy.shares.of_project(project.name):
        if share.state is not ShareState.ACCEPTED:
            continue
        other = tenancy.project(share.project if share.receiver == project.name else share.receiver)
        if other is None or other.sandboxed is project.sandboxed:
            continue
        owner, receiver = (other, project) if share.receiver == project.name else (project, other)
        if owner.sandboxed and not receiver.sandboxed:
            raise Conflict(
                f"share {share.id} of {share.project}.{share.dataset} with {share.receiver} would go from a sandboxed project to an open one: "
                "withdraw it first"
            )


def _check_partitions(partitions: int) -> None:
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise Invalid(f"partitions must be from 1 to {MOST_PARTITIONS}, got {partitions}")


def _same(one: Dataset, other: Dataset) -> bool:
    return (one.kind, one.permission, one.partitions, one.config) == (other.kind, other.permission, other.partitions, other.config)


def _taken_back(found: Dataset, before: Dataset, after: Dataset) -> Dataset:
    """Return `found` without the change from `before` to `after`; what somebody else has set since then stays."""
    return replace(
        found,
        partitions=before.partitions if found.partitions == after.partitions else found.partitions,
        config=before.config if found.config == after.config else found.config,
        permission=before.permission if found.permission is after.permission else found.permission,
    )


def _state(stored: StoredDataset) -> DatasetState:
    return DatasetState(stored.dataset, stored.topic_id)
