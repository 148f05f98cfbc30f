"""`wardstream project` and `wardstream role`."""

from __future__ import annotations

from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.projects import Limit
from wardstream.errors import Invalid

app = typer.Typer(help="Create, alter and close projects.", no_args_is_help=True)
quota = typer.Typer(help="What a project may have.", no_args_is_help=True)
app.add_typer(quota, name="quota")
roles = typer.Typer(help="Roles of a project's own.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="lower-case words joined by '-', at most 30 characters")],
    owner: Annotated[str, typer.Option(help="member name of the first data owner")],
    description: Annotated[str, typer.Option()] = "",
    open_: Annotated[bool, typer.Option("--open", help="rows may be read from outside by data scientists too")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a project and print its owner's enrolment token (administrators)."""
    enrolment = of(context).connection().projects.create(name, owner=owner, description=description, sandboxed=not open_)
    show_one(
        {
            "project": name,
            "owner": enrolment.principal,
            "token": enrolment.token,
            "expires": enrolment.expires_at,
            "settled": enrolment.settled,
        },
        output,
    )
    if not enrolment.settled:
        say("The project is made; some part of the platform has not confirmed its owner's rights yet and is asked again.")
    if output is Output.TABLE:
        say("The token works once. Next: wardstream credentials api-key <token> --file owner.key")


@app.command("list")
def list_(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the projects that you may know of."""
    found = of(context).connection().projects.list()
    show(
        [
            {"project": each.name, "sandboxed": each.sandboxed, "state": each.state, "author": each.author, "description": each.description}
            for each in found
        ],
        output,
        empty="no projects",
    )


@app.command("describe")
def describe(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show a project with its members and datasets."""
    found = of(context).project(project)
    members = [member.name for member in found.members() if member.state == "active"]
    datasets = [dataset.name for dataset in found.topics.list()]
    show_one(
        {
            "project": found.name,
            "description": found.description,
            "sandboxed": found.sandboxed,
            "author": found.author,
            "state": found.state,
            "members": members,
            "datasets": datasets,
            "shared with it": [f"{each.project}.{each.name}" for each in found.shares.datasets()],
        },
        output,
    )


@quota.command("show")
def quota_show(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show each quota of a project and what is used of it."""
    _show_limits(of(context).project(project).quota(), output)


@quota.command("set")
def quota_set(
    context: typer.Context,
    limits: Annotated[list[str], typer.Argument(help="name=value, such as topics=200; value none is no bound")],
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set quotas of a project (administrators); the others stay."""
    _show_limits(of(context).project(project).set_quota(dict(_limit(each) for each in limits)), output)


def _limit(text: str) -> tuple[str, int | None]:
    name, _, value = text.partition("=")
    if value == "none":
        return name, None
    if not (value.isascii() and value.isdigit()):
        raise Invalid(f"{text[:60]!a} is no quota: right is name=value with a whole number, or name=none for no bound")
    return name, int(value)


def _show_limits(found: list[Limit], output: Output) -> None:
    rows = [{"quota": each.name, "limit": "none" if each.limit is None else each.limit, "used": each.used} for each in found]
    show(rows if output is Output.TABLE else [vars(each) for each in found], output, empty="no quotas")


@app.command("alter")
def alter(
    context: typer.Context,
    description: Annotated[str | None, typer.Option()] = None,
    sandboxed: Annotated[bool | None, typer.Option("--sandboxed/--open", help="whether rows stay inside the platform")] = None,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a project's description or sandbox (owners)."""
    done = of(context).project(project).alter(description=description, sandboxed=sandboxed)
    show_one({"settled": done.settled, "need a new token": list(done.renewed)}, output)


@app.command("hand-over")
def hand_over(
    context: typer.Context,
    to: Annotated[str, typer.Argument(help="data owner who becomes the author")],
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make another data owner the project's author (the author)."""
    of(context).project(project).hand_over(to)
    show_one({"author": to}, output)


@app.command("close")
def close(
    context: typer.Context,
    project: ProjectOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """End every membership and share of a project, your own last (the author); its data stay until they are erased."""
    found = of(context).project(project)
    if not yes:
        typer.confirm(f"Every member of {found.name} loses it, you too, and nobody can open it again. Close it?", abort=True, err=True)
    done = found.close()
    show_one({"closed": found.name, "settled": done.settled, "seconds": done.seconds}, output)
    if not done.settled:
        say("The closing is decided; some part of the platform has not confirmed it yet and is asked again.")


@app.command("activity")
def activity(
    context: typer.Context,
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option(help="most changes, up to 1000")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what changed in a project lately, oldest first."""
    show(of(context).project(project).activity(limit=limit), output, empty="nothing has changed")


@roles.command("list")
def role_list(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the project's own roles."""
    found = of(context).project(project).roles()
    show([{"role": each.name, "base": each.base, "without": list(each.without)} for each in found], output, empty="no roles of its own")


@roles.command("put")
def role_put(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="lower-case words joined by '-' or '_', at most 24 characters")],
    base: Annotated[str, typer.Option(help="data-owner, data-scientist or observer")],
    without: Annotated[list[str], typer.Option("--without", help="action that the role leaves out, such as record.write; repeatable")],
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a role that is another one less some actions, or change it for all who have it (owners)."""
    done = of(context).project(project).put_role(name, base, without)
    show_one({"role": name, "settled": done.settled, "seconds": done.seconds}, output)


@roles.command("remove")
def role_remove(
    context: typer.Context, name: Annotated[str, typer.Argument()], project: ProjectOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Remove a role that nobody has (owners)."""
    of(context).project(project).remove_role(name)
    show_one({"removed": name}, output)
