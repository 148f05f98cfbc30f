"""`wardstream`: the command line of members and administrators."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli import audit, features, members, people, programs, projects, shares, topics
from wardstream.cli.context import Context, OutputOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.errors import Invalid, WardstreamError

app = typer.Typer(
    help="Work with projects, topics, feature groups, processors and programs.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(projects.app, name="project")
app.add_typer(projects.roles, name="role")
app.add_typer(members.app, name="member")
app.add_typer(shares.app, name="share")
app.add_typer(members.credentials, name="credentials")
app.add_typer(topics.app, name="topic")
app.add_typer(features.app, name="feature-group")
app.add_typer(programs.processors, name="processor")
app.add_typer(programs.app, name="program")
app.add_typer(audit.app, name="audit")
app.add_typer(people.people, name="person")
app.add_typer(people.sessions, name="session")
app.add_typer(people.keys, name="key")
app.command("login")(people.login)
app.command("set-up")(people.setup)
app.command("sql")(features.sql)
app.command("online-read")(features.online_read)


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="address of the platform [WARDSTREAM_URL]")] = None,
    ca: Annotated[Path | None, typer.Option(help="root certificate [WARDSTREAM_CA]")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="file with an API key [WARDSTREAM_API_KEY_FILE]")] = None,
    certificate: Annotated[Path | None, typer.Option(help="client certificate, instead of a key [WARDSTREAM_CERTIFICATE]")] = None,
    key: Annotated[Path | None, typer.Option(help="private key of --certificate [WARDSTREAM_KEY]")] = None,
) -> None:
    """Keep the global options for the command."""
    if (certificate is None) != (key is None):
        raise Invalid("--certificate and --key go together")
    context.obj = Context(url, ca, api_key_file, (certificate, key) if certificate and key else None)


@app.command()
def whoami(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show who the platform takes you for."""
    identity = of(context).connection().whoami()
    show_one({"principal": identity.principal, "project": identity.project, "role": identity.role, "door": identity.door}, output)


@app.command()
def status(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show the state of the platform's processes; exit code 7 when one is not ready."""
    found = of(context).connection().transport.json("GET", "/api/v1/status")
    show([{"process": name, "ready": not reason, "waiting for": reason} for name, reason in found["processes"].items()], output)
    if any(found["processes"].values()):
        raise typer.Exit(7)


def main() -> None:
    """Run the command line; an error of the platform becomes one line and its exit code."""
    try:
        app()
    except WardstreamError as error:
        say(f"error: {error.message}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
