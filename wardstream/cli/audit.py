"""`wardstream audit`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.audit import verify_export
from wardstream.errors import Conflict, Invalid, Unavailable

app = typer.Typer(help="Search, check and export the audit of rights and access.", no_args_is_help=True)

_NARROW = ("at", "principal", "surface", "action", "on", "outcome")


@app.command("list")
def list_(
    context: typer.Context,
    project: ProjectOption = None,
    principal: Annotated[str | None, typer.Option(help="such as icu__anna")] = None,
    person: Annotated[str | None, typer.Option(help="account")] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    action: Annotated[str | None, typer.Option(help="such as row.read or member.add")] = None,
    surface: Annotated[str | None, typer.Option(help="rights, broker, rest, rows, sql, online, training, registry, programs, ...")] = None,
    outcome: Annotated[str | None, typer.Option(help="allowed or refused")] = None,
    since: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    text: Annotated[str | None, typer.Option(help="anywhere in an entry")] = None,
    before: Annotated[
        str | None, typer.Option(help="the place of the first entry that you have: the page before (--output json tells it)")
    ] = None,
    limit: Annotated[int, typer.Option(help="most entries, up to 1000")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the newest entries that fit, oldest first (owners their project's, administrators all)."""
    found = (
        of(context)
        .connection()
        .audit.search(
            project=project,
            principal=principal,
            person=person,
            dataset=dataset,
            action=action,
            surface=surface,
            outcome=outcome,
            since=since.replace(tzinfo=UTC) if since is not None else None,
            until=until.replace(tzinfo=UTC) if until is not None else None,
            text=text,
            before=before,
            limit=limit,
        )
    )
    if output is Output.TABLE:
        for entry in found:
            place = ".".join(part for part in (entry.get("project"), entry.get("dataset")) if part)
            entry["on"] = entry.get("subject") or place or entry.get("resource", "")
            entry["at"] = entry["at"][:19]
        show([{key: entry.get(key) for key in _NARROW} for entry in found], output, empty="no entries")
    else:
        keys = list(dict.fromkeys(key for entry in found for key in entry))
        show(found if output is Output.JSON else [{key: entry.get(key) for key in keys} for entry in found], output)


@app.command("verify")
def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Option("--file", help="an export to check here, without the platform")] = None,
    public_key: Annotated[Path | None, typer.Option(help="the platform's key, kept apart from the export")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check the audit, or an export of it; exit code 5 when anything is not as it was written, 7 when a part cannot be read."""
    if file is not None:
        try:
            found = verify_export(file, public_key.read_bytes() if public_key is not None else None)
        except OSError as error:
            raise Invalid(f"{error.filename} cannot be read: {error.strerror}") from error
        rows = [
            {"chain": name, "entries": each.entries, "intact": each.intact, "broken at": each.broken_at}
            for name, each in found.chains.items()
        ]
        show(rows, output)
        if not found.intact:
            raise Conflict("the export is not as it was written" if found.checkpoints else "the export has no checkpoint")
        say(f"Intact up to the checkpoint of {found.newest_at}, the newest of {found.checkpoints}.")
        if public_key is None:
            say("Checked with the key that the export itself names: give --public-key to know that it is the platform's.")
        return
    answer = of(context).connection().audit.verify()
    if output is Output.TABLE:
        rights = {"chain": "rights", "entries": answer["entries"], "intact": answer["broken_at"] is None, "broken at": answer["broken_at"]}
        chains = [
            {"chain": c["chain"], "entries": c["entries"], "intact": c["intact"], "broken at": c["broken_at"]} for c in answer["chains"]
        ]
        show([rights, *chains], output)
    else:
        show_one(answer, output)
    if not answer["intact"]:
        raise Conflict("the audit is not as it was written")
    if answer["away"]:
        raise Unavailable(f"not all was checked: the chains of {', '.join(answer['away'])} cannot be read at this moment")


@app.command("export")
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="where the export goes")],
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write the audit to a file that can be checked offline: a project's (owners), or all (administrators)."""
    columns = (TextColumn("{task.description}"), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("audit", total=None)
        size = of(context).connection().audit.export(file, project=project, progress=lambda part: bar.advance(task, part))
    show_one({"file": file, "bytes": size}, output)


@app.command("public-key")
def public_key_(context: typer.Context) -> None:
    """Print the key that the audit's checkpoints are signed with (PEM)."""
    typer.echo(of(context).connection().audit.public_key(), nl=False)
