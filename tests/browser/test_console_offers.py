"""What is offered to each role is what `decide` allows it, and what is not allowed is refused when it is tried by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.console.visit import form_token as made_for
from tenancy.policy import Action, decide
from tests.browser.world import ROLES, Visitor, World
from tests.support.browser import by_hand, form_token, window
from tests.support.doors import door
from tests.support.stack import fresh
from wardstream.names import ProjectName

pytestmark = pytest.mark.stack

# Pages with the action that opens each.
PAGES = {
    "": Action.PROJECT_DESCRIBE,
    "/members": Action.MEMBER_LIST,
    "/shares": Action.SHARE_LIST,
    "/certificates": Action.CERTIFICATE_LIST,
}


@dataclass(frozen=True)
class Step:
    """Something that can be done from a page: where it is offered, which action it is, a form that would do it, and one that cannot be right."""

    page: str
    path: str
    action: Action
    form: dict[str, str]
    wrong: dict[str, str] | None = None
    author_only: bool = False


def steps(world: World) -> list[Step]:
    """Return every step of a project's pages."""
    base = world.base
    add, alter, remove = Action.MEMBER_ADD, Action.MEMBER_ALTER, Action.MEMBER_REMOVE
    offer = {"dataset": "ecg", "receiver": world.other.name, "mode": "read-only"}
    found = [
        Step("", f"{base}/edit", Action.PROJECT_ALTER, {"description": "by hand"}, {"description": "x" * 5000}),
        Step("", f"{base}/hand-over", Action.PROJECT_HAND_OVER, {"to": "olga"}, {"to": "sam"}, author_only=True),
        Step("", f"{base}/close", Action.PROJECT_CLOSE, {"confirm": world.project.name}, {"confirm": "another"}, author_only=True),
        Step("/members", f"{base}/members/add", add, {"name": "eve", "role": "data-owner"}, {"name": "anna", "role": "observer"}),
        Step(
            "/members", f"{base}/roles/add", Action.ROLE_MANAGE, {"name": "odd", "base": "observer", "without": "row.read"}, {"name": "odd"}
        ),
        Step(
            "/members",
            f"{base}/roles/no-activity/alter",
            Action.ROLE_MANAGE,
            {"base": "data-scientist", "without": "row.read"},
            {"base": "observer"},
        ),
        Step("/members", f"{base}/roles/no-activity/remove", Action.ROLE_MANAGE, {}),
        Step("/shares", f"{base}/shares/offer", Action.SHARE_OFFER, {**offer, "purpose": "by hand"}, {**offer, "expires_at": "tomorrow"}),
        Step("/shares", f"{base}/shares/{world.offered.id}/accept", Action.SHARE_ACCEPT, {}),
        Step("/shares", f"{base}/shares/{world.offered.id}/reject", Action.SHARE_ACCEPT, {}),
        Step("/shares", f"{base}/shares/{world.given.id}/withdraw", Action.SHARE_WITHDRAW, {}),
    ]
    for name in ("anna", "olga", "sam", "ben", "rita", "carl", "monitor-7"):
        of = f"{base}/members/{name}"
        found += [
            Step("/members", f"{of}/token", add, {}),
            Step("/members", f"{of}/lost-key", alter, {"reason": "by hand"}, {"reason": "x" * 301}),
        ]
        # The author stays until the project is handed over.
        if name != "anna":
            found += [
                Step("/members", f"{of}/alter", alter, {"role": "data-owner"}, {"role": "emperor"}),
                Step("/members", f"{of}/remove", remove, {}),
            ]
    return found


def may(visitor: Visitor, world: World, step: Step) -> bool:
    name = ProjectName(world.project.name)
    return decide(visitor.principal, step.action, project=name).allowed and (not step.author_only or visitor.role == "author")


def sees(visitor: Visitor, world: World, page: str) -> bool:
    return decide(visitor.principal, PAGES[page], project=ProjectName(world.project.name)).allowed


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with door(world.stack) as made:
        yield made


def token(visitor: Visitor) -> str:
    """Return the right form token: what is refused here is refused for the role alone."""
    return made_for(visitor.session)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_offered_is_what_the_decision_allows(browser: Any, world: World, role: str) -> None:
    visitor = world.visitors[role]
    with window(browser, world.stack, visitor.key) as seen:
        for page in PAGES:
            status = seen.open(world.base + page)
            if not sees(visitor, world, page):
                assert status in (403, 404)
                assert seen.offers() == set()
                continue
            assert status == 200
            assert seen.offers() == {step.path for step in steps(world) if step.page == page and may(visitor, world, step)}
        seen.open("/console/")
        creates = decide(visitor.principal, Action.PROJECT_CREATE).allowed
        assert seen.offers() == ({"/console/new-project"} if creates else set())
        # A member's own project is the one whose audit it may read; an administrator's is the platform's.
        own = decide(visitor.principal, Action.ACCOUNT_MANAGE, project=visitor.principal.project).allowed
        assert (seen.page.get_by_role("link", name=visitor.principal.name).count() > 0) is own
        reads = decide(visitor.principal, Action.AUDIT_READ, project=visitor.principal.project).allowed
        assert (seen.page.get_by_role("link", name="Audit", exact=True).count() > 0) is reads
        assert (seen.open("/console/audit") == 200) is reads
        assert (seen.open("/console/audit/verify") == 200) is reads


@pytest.mark.parametrize("role", ROLES)
def test_what_is_not_offered_is_refused_when_it_is_tried_by_hand(world: World, client: httpx.Client, role: str) -> None:
    visitor = world.visitors[role]
    members = world.project.owner.project.members()
    for step in steps(world):
        if may(visitor, world, step):
            continue
        cookie = {"Cookie": f"wardstream_session={visitor.session}"}
        asked = client.get(step.path, headers=cookie)
        sent = [by_hand(client, visitor.session, token(visitor), step.path, **form) for form in (step.form, step.wrong or {})]
        # Who may not know of the project is told that it is not there.
        expected = {404} if role == "outsider" else {403}
        answers = [answer.status_code for answer in (asked, *sent)]
        assert set(answers) == expected, f"{role} {step.path}: {answers}"
    assert world.project.owner.project.members() == members
    assert {each.state for each in world.project.owner.project.shares.list() if each.id in (world.given.id, world.offered.id)} == {
        "offered"
    }


def test_a_project_is_made_by_administrators_alone(world: World, client: httpx.Client) -> None:
    for visitor in world.visitors.values():
        form = {"name": fresh("by-hand")[:20], "owner": "anna" if visitor.role != "administrator" else "Not A Name"}
        answer = by_hand(client, visitor.session, token(visitor), "/console/new-project", **form)
        assert answer.status_code == (422 if visitor.role == "administrator" else 403)


def test_what_fits_not_is_told_beside_what_was_entered(world: World, client: httpx.Client) -> None:
    owner = world.visitors["author"]
    for step in steps(world):
        if step.wrong is not None:
            answer = by_hand(client, owner.session, token(owner), step.path, **step.wrong)
            assert answer.status_code in (404, 409, 422), f"{step.path}: {answer.status_code}"
            assert 'role="alert"' in answer.text
            assert 'name="form_token"' in answer.text
            # What is chosen from a list and not in it cannot be chosen again.
            kept = {name: value for name, value in step.wrong.items() if name not in ("role", "to", "expires_at")}
            assert all(value in answer.text for value in kept.values()), step.path


def test_a_form_of_another_site_or_session_is_refused(world: World, client: httpx.Client) -> None:
    owner, other = world.visitors["author"], world.visitors["data-owner"]
    path, form = f"{world.base}/members/add", {"name": "eve", "role": "data-owner"}
    good = form_token(client, owner.session, path)
    assert good == token(owner)
    for wrong in ("", "0" * 64, token(other)):
        assert by_hand(client, owner.session, wrong, path, **form).status_code == 403
    headers = {"Cookie": f"wardstream_session={owner.session}", "Origin": "https://elsewhere.example"}
    assert client.post(path, headers=headers, data={"form_token": good, **form}).status_code == 403
    # A key proves who somebody is, and is no session: a script has the REST interface.
    assert client.post(path, headers={"Authorization": f"Bearer {owner.key}"}, data={"form_token": good, **form}).status_code == 403
    assert client.post(path, data={"form_token": good, **form}).status_code == 401
    assert "eve" not in {each.name for each in world.project.owner.project.members()}
