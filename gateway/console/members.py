"""Members of a project, and the roles of its own."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from gateway.console.forms import Field, Form, Sent
from gateway.console.visit import Link, ProjectOf, Secret, Visit, Visiting, project_page, project_path, router, tabs
from tenancy.model import MemberState, Role
from tenancy.policy import Action
from wardstream.errors import NotFound
from wardstream.names import ProjectName

_LISTED = (Role.DEVICE, Role.SERVICE, Role.RESTRICTED)
_LISTS = "of devices, services and restricted members; others follow their role"
_TOKEN = "It works once. A person: wardstream credentials api-key TOKEN; a device or a data owner: wardstream credentials enrol TOKEN."  # noqa: S105


@router.get("/console/projects/{project}/members")
async def members(project: ProjectOf, visiting: Visiting) -> Response:
    """Show members and custom roles."""
    found: Any = await visiting.get(project_path(project, "members"))
    described: Any = await visiting.get(project_path(project))
    roles: Any = await visiting.get(project_path(project, "roles"))
    shown = [{**each, "offers": _member_offers(visiting, project, each, described["author"])} for each in found]
    return visiting.page(
        "members.html",
        project=described,
        tabs=tabs(visiting, project),
        members=[each for each in shown if each["state"] == MemberState.ACTIVE],
        removed=[each for each in shown if each["state"] != MemberState.ACTIVE],
        roles=[{**each, "offers": _role_offers(visiting, project, each["name"])} for each in roles],
        offers=visiting.offered(project, (Action.MEMBER_ADD, Link("Add member", project_page(project, "members", "add")))),
        role_offers=visiting.offered(project, (Action.ROLE_MANAGE, Link("Add role", project_page(project, "roles", "add")))),
    )


@router.api_route("/console/projects/{project}/members/add", methods=["GET", "POST"])
async def add(project: ProjectOf, visiting: Visiting) -> Response:
    """Add a person, device or service."""

    async def form() -> Form:
        roles = [role.value for role in Role if role is not Role.SERVICE] + await _custom_roles(visiting, project)
        return Form(
            f"Add a member to {project}",
            "Add member",
            project_page(project, "members"),
            [
                Field("name", "Name", required=True, longest=24, help="lower-case letters, digits, hyphens; such as sam or monitor-7"),
                Field("role", "Role", "choice", options=[(role, role) for role in roles], value=Role.DATA_SCIENTIST),
                Field("person", "Account", longest=64, help="who logs in to it, where that person has an account"),
                Field("expires_at", "Ends at (UTC)", "time", help="empty: until it is removed"),
                *await _lists(visiting, project),
            ],
        )

    async def act(sent: Sent) -> Response:
        body: dict[str, Any] = {
            "name": sent.text("name"),
            "role": sent.text("role"),
            "person": sent.optional("person"),
            "expires_at": sent.time("expires_at", "Ends at"),
            **_sent_lists(sent),
        }
        done = await visiting.send("POST", project_path(project, "members"), body)
        return _told(visiting, project, f"{body['name']} is a member of {project}", done)

    return await visiting.step(Action.MEMBER_ADD, project, form, act)


@router.api_route("/console/projects/{project}/members/{member}/alter", methods=["GET", "POST"])
async def alter(project: ProjectOf, member: str, visiting: Visiting) -> Response:
    """Change a member's role, or what it reads and writes."""

    async def form() -> Form:
        found = await _member(visiting, project, member)
        role = Role(found["role"])
        roles = [each.value for each in Role if each.person] + await _custom_roles(visiting, project)
        fields = (
            []
            if not role.person
            else [Field("role", "Role", "choice", found["custom_role"] or role, options=[(one, one) for one in roles])]
        )
        return Form(
            f"Change {member}",
            "Save",
            project_page(project, "members"),
            [*fields, *await _lists(visiting, project, found)],
            [f"{member} is a {found['custom_role'] or role}. What it may no longer do ends everywhere, also on open connections."],
        )

    async def act(sent: Sent) -> Response:
        role = sent.optional("role")
        body: dict[str, Any] = {"role": role} if role is not None else {}
        if role is None or role in _LISTED:
            body |= _sent_lists(sent)
        done = await visiting.send("PATCH", project_path(project, "members", member), body)
        return _told(visiting, project, f"{member} is changed", done)

    return await visiting.step(Action.MEMBER_ALTER, project, form, act)


@router.api_route("/console/projects/{project}/members/{member}/token", methods=["GET", "POST"])
async def token(project: ProjectOf, member: str, visiting: Visiting) -> Response:
    """Make another enrolment token."""

    async def form() -> Form:
        await _member(visiting, project, member)
        return Form(
            f"New enrolment token for {member}",
            "Make token",
            project_page(project, "members"),
            says=["For a token that was lost or is over, or for a second credential. Keys and certificates that there are stay good."],
        )

    async def act(_: Sent) -> Response:
        done = await visiting.send("POST", project_path(project, "members", member, "enrolment-token"))
        return _told(visiting, project, f"{member} has a new enrolment token", done)

    return await visiting.step(Action.MEMBER_ADD, project, form, act)


@router.api_route("/console/projects/{project}/members/{member}/lost-key", methods=["GET", "POST"])
async def lost_key(project: ProjectOf, member: str, visiting: Visiting) -> Response:
    """End a lost key and give the member another."""

    async def form() -> Form:
        found = await _member(visiting, project, member)
        return Form(
            f"Lost key of {member}",
            "End the key",
            project_page(project, "members"),
            [Field("reason", "What happened", required=True, longest=300, help="kept in the audit; such as: notebook left on a train")],
            [
                f"Every key, certificate and session of {found['principal']} ends at once, and all that it has open is cut.",
                f"{member} stays a member, as another principal, and enrols anew with the token that you will see.",
            ],
            danger=True,
        )

    async def act(sent: Sent) -> Response:
        done = await visiting.send("POST", project_path(project, "members", member, "lost-key"), {"reason": sent.text("reason")})
        return _told(visiting, project, f"The lost key of {member} is ended", done)

    return await visiting.step(Action.MEMBER_ALTER, project, form, act)


@router.api_route("/console/projects/{project}/members/{member}/remove", methods=["GET", "POST"])
async def remove(project: ProjectOf, member: str, visiting: Visiting) -> Response:
    """End a membership everywhere."""

    async def form() -> Form:
        found = await _member(visiting, project, member)
        return Form(
            f"Remove {member} from {project}",
            "Remove member",
            project_page(project, "members"),
            says=[
                f"The membership of {member} ({found['custom_role'] or found['role']}) ends at once on every broker and process: "
                "open consumers and producers, keys, certificates, sessions and running programs.",
                "What the member wrote stays. Who is added again comes back as another principal.",
            ],
            danger=True,
        )

    async def act(_: Sent) -> Response:
        done = await visiting.send("DELETE", project_path(project, "members", member))
        return _told(visiting, project, f"{member} is no longer a member of {project}", done)

    return await visiting.step(Action.MEMBER_REMOVE, project, form, act)


@router.api_route("/console/projects/{project}/roles/add", methods=["GET", "POST"])
async def add_role(project: ProjectOf, visiting: Visiting) -> Response:
    """Make a role of the project's own."""

    async def form() -> Form:
        return _role_form(project, None)

    async def act(sent: Sent) -> Response:
        return await _put_role(visiting, project, sent.text("name"), sent)

    return await visiting.step(Action.ROLE_MANAGE, project, form, act)


@router.api_route("/console/projects/{project}/roles/{role}/alter", methods=["GET", "POST"])
async def alter_role(project: ProjectOf, role: str, visiting: Visiting) -> Response:
    """Change a role for all who have it."""

    async def form() -> Form:
        return _role_form(project, await _role(visiting, project, role))

    async def act(sent: Sent) -> Response:
        return await _put_role(visiting, project, role, sent)

    return await visiting.step(Action.ROLE_MANAGE, project, form, act)


@router.api_route("/console/projects/{project}/roles/{role}/remove", methods=["GET", "POST"])
async def remove_role(project: ProjectOf, role: str, visiting: Visiting) -> Response:
    """Remove a role that nobody has."""

    async def form() -> Form:
        await _role(visiting, project, role)
        says = ["Only a role that nobody has can be removed."]
        return Form(f"Remove role {role}", "Remove role", project_page(project, "members"), says=says, danger=True)

    async def act(_: Sent) -> Response:
        await visiting.send("DELETE", project_path(project, "roles", role))
        return _told(visiting, project, f"Role {role} is removed", {"settled": True})

    return await visiting.step(Action.ROLE_MANAGE, project, form, act)


def _member_offers(visiting: Visit, project: ProjectName, member: dict[str, Any], author: str | None) -> list[Link]:
    """Return what may be offered for one member: what nobody can do to a service or to the author is left out."""
    if member["state"] != MemberState.ACTIVE or member["role"] == Role.SERVICE:
        return []

    def link(label: str, step: str, *, danger: bool = False) -> Link:
        return Link(label, project_page(project, "members", member["name"], step), danger)

    stays = member["name"] == author
    return visiting.offered(
        project,
        *([(Action.MEMBER_ALTER, link("Change", "alter"))] if not stays else []),
        (Action.MEMBER_ADD, link("New token", "token")),
        (Action.MEMBER_ALTER, link("Lost key", "lost-key", danger=True)),
        *([(Action.MEMBER_REMOVE, link("Remove", "remove", danger=True))] if not stays else []),
    )


def _role_offers(visiting: Visit, project: ProjectName, role: str) -> list[Link]:
    return visiting.offered(
        project,
        (Action.ROLE_MANAGE, Link("Change", project_page(project, "roles", role, "alter"))),
        (Action.ROLE_MANAGE, Link("Remove", project_page(project, "roles", role, "remove"), danger=True)),
    )


def _told(visiting: Visit, project: ProjectName, title: str, done: Any) -> Response:
    """Return the page that says what was done; a token in it is shown this once."""
    token = done.get("enrolment_token")
    return visiting.done(
        title,
        Link("Back to the members", project_page(project, "members")),
        settled=done["settled"],
        seconds=done.get("seconds"),
        says=[_TOKEN] if token else [],
        secret=Secret(f"Enrolment token of {done['member']['principal']}", token, done["expires_at"]) if token else None,
    )


async def _member(visiting: Visit, project: ProjectName, name: str) -> dict[str, Any]:
    found: Any = await visiting.get(project_path(project, "members"))
    for each in found:
        if each["name"] == name and each["state"] == MemberState.ACTIVE:
            return dict(each)
    raise NotFound(f"member {name[:24]} of project {project} is not there")


async def _role(visiting: Visit, project: ProjectName, name: str) -> dict[str, Any]:
    found: Any = await visiting.get(project_path(project, "roles"))
    for each in found:
        if each["name"] == name:
            return dict(each)
    raise NotFound(f"role {name[:24]} of project {project} is not there")


async def _custom_roles(visiting: Visit, project: ProjectName) -> list[str]:
    found: Any = await visiting.get(project_path(project, "roles"))
    return [each["name"] for each in found]


async def _lists(visiting: Visit, project: ProjectName, member: dict[str, Any] | None = None) -> list[Field]:
    """Return the questions about single datasets, with what the member has."""
    found: Any = await visiting.get(project_path(project, "datasets"))
    datasets = [(each["name"], each["name"]) for each in found]
    held = member or {"reads": (), "writes": (), "columns": ()}
    columns = "\n".join(f"{part['dataset']}: {', '.join(part['names'])}" for part in held["columns"])
    return [
        Field("reads", "Reads these datasets", "several", chosen=frozenset(held["reads"]), options=datasets, help=_LISTS),
        Field(
            "writes", "Writes these datasets", "several", chosen=frozenset(held["writes"]), options=datasets, help="of devices and services"
        ),
        Field(
            "columns",
            "Reads some columns only",
            "area",
            columns,
            longest=8000,
            help="of restricted members, a line each: vitals_1: ward, heart_rate",
        ),
    ]


def _sent_lists(sent: Sent) -> dict[str, Any]:
    return {"reads": sent.all("reads"), "writes": sent.all("writes"), "columns": sent.columns("columns")}


def _role_form(project: ProjectName, role: dict[str, Any] | None) -> Form:
    bases = [(each.value, each.value) for each in Role if each.whole]
    name = [] if role is not None else [Field("name", "Name", required=True, longest=24, help="lower-case letters, digits, hyphens")]
    return Form(
        f"Change role {role['name']}" if role is not None else f"Add a role to {project}",
        "Save role",
        project_page(project, "members"),
        [
            *name,
            Field("base", "Based on", "choice", value=role["base"] if role is not None else Role.DATA_SCIENTIST, options=bases),
            Field(
                "without",
                "Leaves out",
                "several",
                chosen=frozenset(role["without"] if role is not None else ()),
                options=[(action.value, action.value) for action in sorted(Action)],
                help="what members of this role may not do, though the base may",
            ),
        ],
        ["The change holds at once for all who have the role."] if role is not None else [],
    )


async def _put_role(visiting: Visit, project: ProjectName, name: str, sent: Sent) -> Response:
    body = {"base": sent.text("base"), "without": sent.all("without")}
    done = await visiting.send("PUT", project_path(project, "roles", name), body)
    return _told(visiting, project, f"Role {name} is kept", done)
