"""`wardstream project` and `wardstream audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.errors import Conflict

app = typer.Typer(help="Create and look at projects.", no_args_is_help=True)
audit = typer.Typer(help="Read and check the audit trail.", no_args_is_help=True)


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
        [{"project": each.name, "sandboxed": each.sandboxed, "description": each.description} for each in found],
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
        {"project": found.name, "description": found.description, "sandboxed": found.sandboxed, "members": members, "datasets": datasets},
        output,
    )


@audit.command("list")
def audit_list(
    context: typer.Context,
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option(help="most entries, up to 1000")] = 50,
    after: Annotated[int | None, typer.Option(help="number of an entry; the entries that follow it, instead of the newest")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the newest audit entries, or with --after those that follow an entry; oldest first."""
    show(of(context).connection().audit_entries(project=project, limit=limit, after=after), output, empty="no entries")


@audit.command("verify")
def audit_verify(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Check the hash chain of the audit trail; exit code 5 when it is broken."""
    found = of(context).connection().transport.json("GET", "/api/v1/audit/verify")
    show_one(found, output)
    if not found["intact"]:
        raise Conflict(f"the audit trail is broken at entry {found['broken_at']}")
