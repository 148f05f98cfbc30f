"""A project with somebody of each role in it, something of each kind to act on, and neighbours."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tenancy.model import Door, Member, MemberState, Principal, Project, Role, administrator, principal_for
from tests.support.browser import session
from tests.support.doors import door
from tests.support.stack import NewProject, RunningStack
from wardstream.client.features import Feature
from wardstream.client.shares import Share
from wardstream.names import DatasetName, MemberName, ProjectName

ROLES = ("administrator", "author", "data-owner", "data-scientist", "observer", "restricted", "custom", "outsider")
_NAMES = {"author": "anna", "data-owner": "olga", "data-scientist": "sam", "observer": "ben", "restricted": "rita", "custom": "carl"}


@dataclass(frozen=True)
class Visitor:
    """Somebody, with the principal that decisions are asked about."""

    role: str
    key: str
    principal: Principal
    session: str


@dataclass(frozen=True)
class World:
    """What the tests act on; nothing of it is changed by them except what they make themselves."""

    stack: RunningStack
    project: NewProject
    other: NewProject
    visitors: dict[str, Visitor]
    given: Share
    offered: Share

    @property
    def base(self) -> str:
        return f"/console/projects/{self.project.name}"


def build(stack: RunningStack) -> World:
    """Make the project, its people and its neighbours."""
    project, other = stack.new_project("icu"), stack.new_project("lab")
    owner = project.owner.project
    project.create_topic("ecg")
    project.create_topic("vitals", permission="editable")
    other.create_topic("blood")
    owner.get_feature_store().create_feature_group(
        "scores",
        primary_key=["patient"],
        event_time="at",
        features=[Feature("patient", "string"), Feature("at", "timestamp"), Feature("risk", "double"), Feature("ward", "string")],
    )
    owner.alter(description="Monitors of the intensive care unit, west wing: heart rate, pressure and alarms.")
    owner.put_role("no-activity", "data-scientist", ["activity.read", "share.list"])
    people = {
        "author": project.owner,
        "data-owner": project.add("olga", "data-owner"),
        "data-scientist": project.add("sam", "data-scientist"),
        "observer": project.add("ben", "observer"),
        "restricted": project.add("rita", "restricted", reads=["scores_1"]),
        "custom": project.add("carl", "no-activity"),
        "outsider": other.owner,
    }
    project.add("monitor-7", "device", writes=["ecg", "vitals"])
    given = owner.shares.offer("vitals", other.name, purpose="sepsis study, ethics vote 17/2026")
    offered = other.owner.project.shares.offer("blood", project.name, purpose="gases beside the monitor")
    with door(stack) as client:
        visitors = {
            role: Visitor(role, person.api_key, _principal(project, other, role), session(client, person.api_key))
            for role, person in people.items()
        }
        key = (stack.home / "admin.key").read_text().strip()
        visitors["administrator"] = Visitor("administrator", key, administrator(), session(client, key))
    return World(stack, project, other, visitors, given, offered)


def _principal(project: NewProject, other: NewProject, role: str) -> Principal:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    of = other if role == "outsider" else project
    base = {"author": Role.DATA_OWNER, "outsider": Role.DATA_OWNER, "custom": Role.DATA_SCIENTIST}.get(role) or Role(role)
    name = ProjectName(of.name)
    reads = frozenset({DatasetName("scores_1")}) if base is Role.RESTRICTED else frozenset()
    member = Member(name, MemberName(_NAMES.get(role, "anna")), base, 1, MemberState.ACTIVE, reads, frozenset(), at)
    without = frozenset({"activity.read", "share.list"}) if role == "custom" else frozenset()
    return principal_for(replace(member, without=without), Project(name, "", True, at), Door.OUTSIDE)
