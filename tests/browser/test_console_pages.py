"""The console's pages as people use them: in, through a change with its question and its result, and out; at both widths."""

from typing import Any

import pytest

from tests.browser.world import World
from tests.support.browser import Window, window
from tests.support.stack import fresh
from wardstream.errors import Unauthenticated

pytestmark = pytest.mark.stack

_HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&{{7*7}} and a word_that_is_much_longer_than_any_window_is_wide_at_400_pixels"
)
# Everything to be filled in has a name for those who cannot see, there is one main heading, and no level of headings is left out.
_ACCESSIBLE = """() => {
  const wrong = [];
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!field.labels.length) wrong.push("no label: " + field.name);
  for (const group of document.querySelectorAll("fieldset")) if (!group.querySelector("legend")) wrong.push("no legend");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  if (!document.querySelector("main") || document.documentElement.lang !== "en") wrong.push("no main or language");
  const ids = [...document.querySelectorAll("[id]")].map(each => each.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id twice: " + ids);
  for (const each of document.querySelectorAll("[style]:not([style='']), [onclick], style, script:not([src])")) wrong.push("inline: " + each.outerHTML);
  for (const link of document.querySelectorAll("a, button")) if (!link.textContent.trim()) wrong.push("empty: " + link.outerHTML);
  return wrong;
}"""


def look(seen: Window, name: str, path: str | None = None, *, status: int = 200) -> None:
    """Open a page, keep its pictures and check what every page holds."""
    if path is not None:
        assert seen.open(path) == status, path
    seen.shot(name)
    assert seen.page.evaluate(_ACCESSIBLE) == []


def test_pages_are_readable_at_both_widths_and_break_no_policy(browser: Any, world: World) -> None:
    owner, base = world.visitors["author"], world.base
    with window(browser, world.stack, owner.key) as seen:
        for name, path in {
            "home": "/console/",
            "project": base,
            "project-edit": f"{base}/edit",
            "project-close": f"{base}/close",
            "members": f"{base}/members",
            "member-add": f"{base}/members/add",
            "member-alter": f"{base}/members/rita/alter",
            "member-remove": f"{base}/members/sam/remove",
            "role-alter": f"{base}/roles/no-activity/alter",
            "shares": f"{base}/shares",
            "certificates": f"{base}/certificates",
            "share-offer": f"{base}/shares/offer",
            "share-accept": f"{base}/shares/{world.offered.id}/accept",
            "account": "/console/account",
            "account-key": "/console/account/keys/add",
            "audit": "/console/audit",
            "audit-verify": "/console/audit/verify",
        }.items():
            look(seen, name, path)
        look(seen, "not-there", "/console/projects/not-there", status=404)
    with window(browser, world.stack, world.visitors["administrator"].key) as seen:
        look(seen, "administrator-home", "/console/")
        look(seen, "administrator-project", base)
        look(seen, "administrator-new-project", "/console/new-project")
    with window(browser, world.stack, None) as seen:
        look(seen, "login", "/console/login")


def test_whoever_is_not_logged_in_comes_back_to_where_they_were(browser: Any, world: World) -> None:
    page = f"{world.base}/members"
    with window(browser, world.stack, None) as seen:
        assert seen.open(page) == 401
        seen.page.get_by_label("API key").fill("wsk_wrong")
        seen.page.get_by_role("button", name="Log in with the key").click()
        assert seen.page.get_by_role("alert").is_visible()
        seen.page.get_by_label("API key").fill(world.visitors["observer"].key)
        seen.page.get_by_role("button", name="Log in with the key").click()
        assert seen.page.url == seen.base + page
        seen.page.get_by_role("button", name="Log out").click()
        assert seen.open(page) == 401
    with window(browser, world.stack, None) as seen:
        # Only to the console itself.
        seen.open("/console/login")
        seen.page.evaluate("document.querySelectorAll('[name=back]').forEach(each => each.value = '//elsewhere.example/console/')")
        seen.page.get_by_label("API key").fill(world.visitors["observer"].key)
        seen.page.get_by_role("button", name="Log in with the key").click()
        assert seen.page.url == seen.base + "/console/"


def test_a_membership_from_token_to_removal_without_script(browser: Any, world: World) -> None:
    base, name = world.base, fresh("tom")[:12]
    with window(browser, world.stack, world.visitors["data-owner"].key, java_script_enabled=False) as seen:
        page = seen.page
        seen.open(f"{base}/members")
        page.get_by_role("link", name="Add member").click()
        page.get_by_label("Name").fill(name)
        page.get_by_label("Role").select_option("observer")
        page.get_by_label("Ends at").fill("2020-01-01T10:00")
        page.get_by_role("button", name="Add member").click()
        # Beside the form, with what was entered.
        assert "time to come" in page.get_by_role("alert").inner_text()
        assert page.get_by_label("Name").input_value() == name
        page.get_by_label("Ends at").fill("")
        page.get_by_role("button", name="Add member").click()
        assert "Settled" in page.get_by_role("status").inner_text()
        first = page.get_by_role("textbox").inner_text()
        assert first
        seen.open(f"{base}/members")
        assert first not in page.content()
        page.get_by_role("link", name=f"Change {name}").click()
        page.get_by_label("Role").select_option("no-activity")
        page.get_by_role("button", name="Save").click()
        assert "Settled" in page.get_by_role("status").inner_text()
        page.get_by_role("link", name="Back to the members").click()
        page.get_by_role("link", name=f"Lost key {name}").click()
        page.get_by_label("What happened").fill("notebook left on a train")
        page.get_by_role("button", name="End the key").click()
        assert f"{world.project.name}__{name}__g2" in page.content()
        page.get_by_role("link", name="Back to the members").click()
        page.get_by_role("link", name=f"New token {name}").click()
        page.get_by_role("button", name="Make token").click()
        assert page.get_by_role("textbox").inner_text() != first
        page.get_by_role("link", name="Back to the members").click()
        page.get_by_role("link", name=f"Remove {name}").click()
        # Asked first: nothing has happened yet.
        assert name in {each.name for each in world.project.owner.project.members() if each.state == "active"}
        page.get_by_role("button", name="Remove member").click()
        assert "Settled" in page.get_by_role("status").inner_text()
    assert name not in {each.name for each in world.project.owner.project.members() if each.state == "active"}


def test_a_share_from_offer_to_withdrawal(browser: Any, world: World) -> None:
    giver, receiver = world.visitors["author"], world.visitors["outsider"]
    other = f"/console/projects/{world.other.name}"
    with window(browser, world.stack, giver.key) as seen, window(browser, world.stack, receiver.key) as theirs:
        seen.open(f"{world.base}/shares/offer")
        seen.page.get_by_label("Dataset").select_option("scores_1")
        seen.page.get_by_label("To project").fill(world.other.name)
        seen.page.get_by_label("Columns").fill("risk")
        seen.page.get_by_label("Purpose").fill("risk beside the blood gases")
        look(seen, "share-filled")
        seen.page.get_by_role("button", name="Offer").click()
        look(seen, "share-done")
        theirs.open(f"{other}/shares")
        theirs.page.get_by_role("link", name=f"Accept {world.project.name}.scores_1").click()
        assert "risk beside the blood gases" in theirs.page.content()
        theirs.page.get_by_role("button", name="Accept").click()
        assert "Settled" in theirs.page.get_by_role("status").inner_text()
        look(theirs, "shares-received", f"{other}/shares")
        assert theirs.page.get_by_role("region", name="Datasets in use").get_by_text("risk beside the blood gases").count() == 1
        seen.open(f"{world.base}/shares")
        seen.page.get_by_role("link", name=f"Withdraw {world.project.name}.scores_1").click()
        seen.page.get_by_role("button", name="Withdraw").click()
        assert "is withdrawn" in seen.page.get_by_role("heading").first.inner_text()
        theirs.open(f"{other}/shares")
        assert theirs.page.get_by_role("region", name="Datasets in use").count() == 0


def test_a_role_and_a_project_of_ones_own(browser: Any, world: World) -> None:
    name = fresh("ward")[:20]
    with window(browser, world.stack, world.visitors["administrator"].key) as seen:
        seen.open("/console/new-project")
        seen.page.get_by_label("Name").fill(name)
        seen.page.get_by_label("First data owner").fill("anna")
        seen.page.get_by_label("Description").fill(_HOSTILE)
        seen.page.get_by_role("button", name="Create project").click()
        look(seen, "project-made")
        seen.page.get_by_role("link", name="To the project").click()
        # What somebody typed is text.
        assert seen.page.get_by_text(_HOSTILE).is_visible()
        look(seen, "hostile")
    role = fresh("reader")[:16]
    with window(browser, world.stack, world.visitors["data-owner"].key) as seen:
        seen.open(f"{world.base}/roles/add")
        seen.page.get_by_label("Name").fill(role)
        seen.page.get_by_label("model.read").check()
        seen.page.get_by_label("row.read").check()
        seen.page.get_by_role("button", name="Save role").click()
        seen.open(f"{world.base}/roles/{role}/alter")
        assert seen.page.get_by_label("row.read").is_checked()
        assert not seen.page.get_by_label("online.read").is_checked()
        seen.open(f"{world.base}/roles/{role}/remove")
        seen.page.get_by_role("button", name="Remove role").click()
    assert role not in {each.name for each in world.project.owner.project.roles()}


def test_the_audit_is_searched_and_filtered(browser: Any, world: World) -> None:
    owner = f"{world.project.name}__anna"
    with window(browser, world.stack, world.visitors["data-owner"].key, java_script_enabled=False) as seen:
        page = seen.page
        seen.open("/console/audit")
        page.get_by_label("Principal").fill(owner)
        page.get_by_label("Action").fill("member.add")
        page.get_by_label("Outcome").select_option("allowed")
        page.get_by_label("From (UTC)").fill("2020-01-01T00:00")
        page.get_by_role("button", name="Search").click()
        rows = page.locator("tbody tr").all_inner_texts()
        assert rows
        assert all(owner in row and "member.add" in row and "allowed" in row for row in rows)
        page.get_by_label("Action").fill("never.done")
        page.get_by_role("button", name="Search").click()
        assert page.get_by_text("No entry fits.").is_visible()
        page.get_by_role("link", name="Check the chains").click()
        assert "as it was written" in page.get_by_role("heading").first.inner_text()


def test_the_audit_leads_to_older_pages_without_repeating_or_leaving_out_entries(browser: Any, world: World) -> None:
    with window(browser, world.stack, world.visitors["data-owner"].key) as seen:
        seen.open("/console/audit")
        places: list[str] = []
        for _ in range(20):
            places += seen.page.eval_on_selector_all(
                "tbody tr details", "all => all.map(one => one.lastChild.textContent.split(':')[0].trim())"
            )
            older = seen.page.get_by_role("link", name="Older")
            if not older.count():
                break
            with seen.page.expect_navigation():
                older.click()
        assert len(places) == len(set(places))
        whole = world.project.owner.connection.transport.json("GET", f"/api/v1/audit/entries?project={world.project.name}&limit=1000")
        assert set(places) >= {f"{entry['chain']} {entry['n']}" for entry in whole[: len(places) // 2]}


def test_ones_own_keys_and_sessions_are_made_and_ended(browser: Any, world: World) -> None:
    visitor = world.visitors["observer"]
    with window(browser, world.stack, visitor.key) as seen:
        page = seen.page
        seen.open("/console/account")
        page.get_by_role("link", name="New API key").click()
        page.get_by_label("Where it is used").fill("notebook")
        page.get_by_label("Good for days").fill("soon")
        page.get_by_role("button", name="Make key").click()
        assert "days are a number" in page.get_by_role("alert").inner_text()
        page.get_by_label("Good for days").fill("30")
        page.get_by_label("read", exact=True).check()
        page.get_by_role("button", name="Make key").click()
        key = page.get_by_role("textbox").inner_text()
        assert world.stack.connection(key).whoami().principal == visitor.principal.name
        page.get_by_role("link", name="Back to your account").click()
        assert key not in page.content()
        page.get_by_role("link", name="Revoke notebook").click()
        page.get_by_role("button", name="Revoke key").click()
        with pytest.raises(Unauthenticated):
            world.stack.connection(key).whoami()
        # The session of this window: whoever uses it is asked to log in.
        seen.open("/console/account")
        page.get_by_role("row").filter(has_text="this one").get_by_role("link", name="End").click()
        page.get_by_role("button", name="End session").click()
        assert seen.open("/console/account") == 401
