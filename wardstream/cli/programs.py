"""`wardstream processor` and `wardstream program`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, say, show, show_one
from wardstream.client.programs import Execution
from wardstream.errors import Invalid

app = typer.Typer(help="Run programs in the project's sandbox.", no_args_is_help=True)
processors = typer.Typer(help="Deploy and watch processors.", no_args_is_help=True)


@processors.command("deploy")
def deploy(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="member name of the processor")],
    kind: Annotated[str, typer.Option(help="built-in kind: ecg_10s or reads_1m")],
    source: Annotated[str, typer.Option(help="dataset it reads")],
    result: Annotated[str, typer.Option(help="dataset of the feature group it fills")],
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a processor (owners, scientists)."""
    show_one(of(context).project(project).processors.deploy(name, kind=kind, source=source, result=result), output)


@processors.command("list")
def processor_list(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the processors with their state."""
    found = of(context).project(project).processors.list()
    if output is Output.TABLE:
        found = [
            {name: each[name] for name in ("name", "kind", "runtime", "source", "result", "state", "restarts", "reason")} for each in found
        ]
    show(found, output, empty="no processors")


@processors.command("describe")
def describe(context: typer.Context, name: str, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show one processor."""
    show_one(of(context).project(project).processors.describe(name), output)


@processors.command("pause")
def pause(context: typer.Context, name: str, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Stop a processor and keep its position."""
    show_one(of(context).project(project).processors.pause(name), output)


@processors.command("resume")
def resume(context: typer.Context, name: str, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Start a paused processor where it stopped."""
    show_one(of(context).project(project).processors.resume(name), output)


@processors.command("remove")
def remove(context: typer.Context, name: str, project: ProjectOption = None) -> None:
    """Stop a processor and take its rights; its table stays."""
    of(context).project(project).processors.remove(name)
    say(f"{name} is removed")


@processors.command("logs")
def processor_logs(context: typer.Context, name: str, tail: int = 100, project: ProjectOption = None) -> None:
    """Print the last lines of a processor's log."""
    sys.stdout.write(of(context).project(project).processors.logs(name, tail=tail))


@app.command("run")
def run(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(help="Python file")],
    arguments: Annotated[list[str] | None, typer.Argument(help="arguments of the script, after --")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", help="further file to lie beside the script; repeatable")] = None,
    run_as: Annotated[str | None, typer.Option("--as", help="service in whose name it runs; left out: yours")] = None,
    memory_mb: Annotated[int, typer.Option(help="address space of each process")] = 2048,
    wait: Annotated[bool, typer.Option(help="wait for the end and print what the program printed")] = True,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a Python script in the sandbox; with waiting, exit code 1 when it fails."""
    programs = of(context).project(project).programs
    execution = programs.run(script, arguments=arguments or (), files=file or (), run_as=run_as, memory_mb=memory_mb)
    if not wait:
        show_one(_row(execution), output)
        return
    execution = programs.wait(execution.id)
    if output is Output.TABLE:
        sys.stdout.write(programs.logs(execution.id))
        say(f"execution {execution.id} {execution.state}" + (f": {execution.reason}" if execution.reason else ""))
    else:
        show_one({**_row(execution), "log": programs.logs(execution.id)}, output)
    if execution.state != "succeeded":
        raise typer.Exit(1)


@app.command("list")
def list_(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the executions, newest first."""
    show([_row(each) for each in of(context).project(project).programs.list()], output, empty="no executions")


@app.command("logs")
def logs(context: typer.Context, execution: str, tail: int = 1000, project: ProjectOption = None) -> None:
    """Print what an execution printed."""
    sys.stdout.write(of(context).project(project).programs.logs(execution, tail=tail))


@app.command("fetch")
def fetch(
    context: typer.Context,
    execution: str,
    name: Annotated[str, typer.Argument(help="file that the program wrote to /out")],
    to: Annotated[Path | None, typer.Option(help="where it goes; left out: the same name here")] = None,
    project: ProjectOption = None,
) -> None:
    """Fetch a file that an execution wrote."""
    target = to or Path(Path(name).name)
    if target.exists():
        raise Invalid(f"{target} exists already; name another with --to")
    target.write_bytes(of(context).project(project).programs.file(execution, name))
    say(f"{target} written")


@app.command("stop")
def stop(context: typer.Context, execution: str, project: ProjectOption = None) -> None:
    """End a running execution."""
    of(context).project(project).programs.stop(execution)
    say(f"execution {execution} is stopped")


def _row(execution: Execution) -> dict[str, object]:
    return {
        "execution": execution.id,
        "program": execution.name,
        "principal": execution.principal,
        "state": execution.state,
        "exit_code": execution.exit_code,
        "reason": execution.reason,
        "files": list(execution.files),
    }
