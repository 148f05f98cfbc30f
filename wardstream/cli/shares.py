"""`wardstream share`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.shares import Share, ShareChanged

app = typer.Typer(help="Share datasets between projects, without a copy.", no_args_is_help=True)

ShareArgument = Annotated[str, typer.Argument(help="the share's id, as `wardstream share list` shows it")]


@app.command("offer")
def offer(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="topic, or feature group as <group>_<version>")],
    receiver: Annotated[str, typer.Argument(help="project to share it with")],
    purpose: Annotated[str, typer.Option(help="what it may be used for")],
    mode: Annotated[str, typer.Option(help="read-only, editable-by-owners or editable: who there may write")] = "read-only",
    columns: Annotated[list[str] | None, typer.Option("--column", help="share this column of the table alone; repeatable")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="days after which it ends by itself")] = None,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Offer a dataset to another project (owners); nothing is open before an owner there accepts."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    made = of(context).project(project).shares.offer(dataset, receiver, purpose=purpose, mode=mode, columns=columns, expires_at=expires_at)
    show_one(_row(made), output)


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="ended ones too")] = False,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what a project gives and is offered."""
    found = of(context).project(project).shares.list()
    show([_row(each) for each in found if all_ or each.state in ("offered", "accepted")], output, empty="no shares")


@app.command("datasets")
def datasets(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the datasets that other projects share with this one."""
    found = of(context).project(project).shares.datasets()
    rows = [
        {
            "dataset": f"{each.project}.{each.name}",
            "mode": each.mode,
            "columns": list(each.columns) if each.columns is not None else None,
            "topic": each.topic,
            "table in SQL": each.table,
            "purpose": each.purpose,
            "expires": each.expires_at,
        }
        for each in found
    ]
    show(rows, output, empty="nothing is shared with this project")


@app.command("accept")
def accept(context: typer.Context, share: ShareArgument, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Put an offer in force (owners of the receiving project)."""
    _show(of(context).project(project).shares.accept(share), output)


@app.command("reject")
def reject(context: typer.Context, share: ShareArgument, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Refuse an offer (owners of the receiving project)."""
    _show(of(context).project(project).shares.reject(share), output)


@app.command("withdraw")
def withdraw(context: typer.Context, share: ShareArgument, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """End a share (owners of either side)."""
    _show(of(context).project(project).shares.withdraw(share), output)


def _row(share: Share) -> dict[str, object]:
    return {
        "share": share.id,
        "dataset": f"{share.project}.{share.dataset}",
        "with": share.receiver,
        "mode": share.mode,
        "columns": list(share.columns) if share.columns is not None else None,
        "state": share.state,
        "purpose": share.purpose,
        "expires": share.expires_at,
    }


def _show(done: ShareChanged, output: Output) -> None:
    show_one({"share": done.share.id, "state": done.share.state, "settled": done.settled, "seconds": done.seconds}, output)
    if not done.settled:
        say("It is decided; some part of the platform has not confirmed it yet and is asked again.")
