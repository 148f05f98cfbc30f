"""`wardstream topic`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show
from wardstream.errors import Invalid

app = typer.Typer(help="Plan, create and alter topics.", no_args_is_help=True)
FileOption = Annotated[Path, typer.Option("--file", "-f", help="topics.yaml")]


@app.command("list")
def list_(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the project's datasets with their topics."""
    rows = [
        {"dataset": d.name, "kind": d.kind, "topic": d.topic, "permission": d.permission, "partitions": d.partitions, "config": d.config}
        for d in of(context).project(project).topics.list()
    ]
    show(rows, output, empty="no datasets")


@app.command("plan")
def plan(context: typer.Context, file: FileOption, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show what `apply` would change; nothing is changed."""
    show(of(context).project(project).topics.plan(_read(file)), output, empty="nothing to change")


@app.command("apply")
def apply(context: typer.Context, file: FileOption, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Create and alter topics as the file says; applying again changes nothing."""
    changes = of(context).project(project).topics.apply(_read(file))
    show(changes, output, empty="nothing to change")
    if output is Output.TABLE and changes:
        say(f"{len(changes)} change{'s' if len(changes) > 1 else ''} made")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}") from error
