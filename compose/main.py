"""The command `wardstream-server`: one stack on this machine."""

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compose.doctor import examine
from compose.parts import MARK, NAMES, base_environment, import_commands
from compose.stack import START_SECONDS, PartState, Stack
from wardstream.errors import Invalid, Unavailable, WardstreamError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Start, watch and stop the platform on this machine.")


class Output(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


Home = Annotated[Path, typer.Option("--home", help="folder of the stack: its data, keys, logs and ports", envvar="WARDSTREAM_HOME")]
Format = Annotated[Output, typer.Option("--output", help="table for people, json for programs")]

_HOME = Path(".wardstream")
_COLOURS = {"ready": "green", "ok": "green", "running": "green", "starting": "yellow", "warning": "yellow", "died": "red", "failed": "red"}


@app.command()
def up(
    home: Home = _HOME,
    only: Annotated[str, typer.Option(help=f"start these parts alone, separated by commas: {', '.join(NAMES)}")] = "",
    repick: Annotated[bool, typer.Option("--repick", help="choose other ports; the stack must be down")] = False,
    seconds: Annotated[float, typer.Option(help="how long parts may take to become ready")] = START_SECONDS,
) -> None:
    """Start the platform; harmless when it runs already."""
    console = Console(highlight=False)
    stack = Stack(home)
    with _errors():
        took = stack.up(_reporter(console), only=[name.strip() for name in only.split(",") if name.strip()], repick=repick, seconds=seconds)
        console.print(f"[bold green]The platform is ready[/] after {took:.1f} s, in {escape(str(stack.home))}")
        if only:
            return
        url = stack.environment()["WARDSTREAM_URL"]
        link = stack.login_link()
        option = "" if home == _HOME else f" --home {quote(str(home))}"
        server, client = escape(_called("wardstream-server")), escape(_called("wardstream"))
        # Unwrapped: an address broken over two lines cannot be opened.
        console.print(f"\n  Console      {escape(link or url + '/console/')}" + (" (opens once)" if link else ""), soft_wrap=True)
        console.print(f'  This shell   eval "$({server} env{escape(option)})"', soft_wrap=True)
        console.print(f"  Then         {client} project list", soft_wrap=True)
        console.print(f"  Stop         {server} down{escape(option)}", soft_wrap=True)


@app.command()
def down(home: Home = _HOME) -> None:
    """Stop the platform; afterwards no process of it runs and no port is held."""
    console = Console(highlight=False)
    stack = Stack(home)
    with _errors():
        stack.down(_reporter(console))
        console.print("The platform is down")


@app.command()
def prepare() -> None:
    """Do beforehand what a first start would do once: compile the processes' modules, archive the broker's classes.

    Set-up ends with it. The broker runs for that in a folder that is removed; where it does not start, no stack would.
    """
    console = Console(highlight=False)
    # Ends as every error does, so that nothing that was started stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _errors(), tempfile.TemporaryDirectory(prefix="ws-prepare-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder))
        # Without the mark of this stack, whose launcher ends what it did not start itself.
        environment = {name: value for name, value in base_environment(stack.home).items() if name != MARK}
        compiling = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) for command in import_commands()]
        try:
            stack.up(_reporter(console), only=["kafka"])
            stack.down(_reporter(console))
            if any(code != 0 for code in [process.wait() for process in compiling]):
                raise Unavailable("the modules of the platform cannot be loaded, the reason stands above: run `make setup` again")
        finally:
            for process in compiling:
                process.kill()
                process.wait()
            stack.down(_reporter(console))
        console.print("The next start is quick")


@app.command()
def status(home: Home = _HOME, output: Format = Output.TABLE) -> None:
    """Show each part; the exit code is 1 when one that should run does not answer."""
    with _errors():
        states = Stack(home).status()
        if output is Output.JSON:
            _print_json([_state(part) for part in states])
        else:
            Console(highlight=False).print(_status_table(states))
    if any(part.state not in {"ready", "running"} for part in states):
        raise typer.Exit(1)


@app.command()
def logs(
    process: Annotated[str | None, typer.Argument(help="one part; all of them when left out")] = None,
    home: Home = _HOME,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on with what is written from now on")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="how many lines of the past")] = 20,
) -> None:
    """Print the end of the logs."""
    with _errors():
        folder = Stack(home).logs
        found = sorted(folder.glob("*.log"))
        chosen = [path for path in found if process in (None, path.stem)]
        if not chosen:
            names = ", ".join(path.stem for path in found) or "none yet"
            raise Invalid(f"there is no log of {process!a}: logs are {names}" if process else f"there are no logs in {folder}")
        places = {path: _print_tail(path, lines, alone=process is not None) for path in chosen}
        try:
            while follow:
                time.sleep(0.2)
                for path in chosen:
                    places[path] = _print_new(path, places[path], alone=process is not None)
        except KeyboardInterrupt:
            return


@app.command()
def doctor(home: Home = _HOME, output: Format = Output.TABLE) -> None:
    """Look whether this machine can run the platform; the exit code is 1 when something must be changed first."""
    console = Console(highlight=False)
    findings = []
    for finding in examine(Stack(home)):
        findings.append(finding)
        if output is Output.TABLE:
            console.print(f"[{_COLOURS[finding.state]}]{finding.state:8}[/] {finding.name:13} {escape(finding.detail)}", soft_wrap=True)
    if output is Output.JSON:
        _print_json([vars(finding) for finding in findings])
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


@app.command()
def reconcile(
    home: Home = _HOME,
    once: Annotated[bool, typer.Option("--once", help="now, and return; by itself the platform does it every minute")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="change nothing; the exit code is 3 when there is a difference")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Make topics, rights, quotas and users what the database says, and print what differed; control does it and holds the rights for it."""
    with _errors():
        if not once:
            raise Invalid("the platform reconciles by itself every minute: say --once to have it done now")
        found = Stack(home).reconcile(dry_run=dry_run)
    differences, failed = found["differences"], found["failed"]
    if output is Output.JSON:
        _print_json(found)
    else:
        console = Console(highlight=False)
        for each in differences:
            detail = f" ({each['detail']})" if each["detail"] else ""
            console.print(f"{each['change']:7}{each['kind']:11}{escape(each['subject'] + detail)}", soft_wrap=True)
        for each in failed:
            console.print(f"[red]failed[/]  {escape(each)}", soft_wrap=True)
        if not differences:
            console.print("Nothing differs")
    if failed:
        raise typer.Exit(1)
    if dry_run and differences:
        raise typer.Exit(3)


@app.command()
def env(home: Home = _HOME, output: Format = Output.TABLE) -> None:
    """Print where programs find the platform, as lines for a shell: eval "$(wardstream-server env)"."""
    with _errors():
        found = Stack(home).environment()
    if output is Output.JSON:
        _print_json(found)
    else:
        for name, value in found.items():
            print(f"export {name}={quote(value)}")


@app.command()
def settings(home: Home = _HOME, output: Format = Output.TABLE) -> None:
    """Print every setting with its meaning and its value, in the form of <home>/settings.toml, where one is changed."""
    with _errors():
        rows = [
            {"process": name, "setting": setting, "value": value, "meaning": meaning}
            for name, values in Stack(home).settings().items()
            for setting, value, meaning in _settings(values)
        ]
    if output is Output.JSON:
        _print_json(rows)
        return
    section = ""
    for row in rows:
        if row["process"] != section:
            section = row["process"]
            print(f"\n[{section}]")
        if row["meaning"]:
            print(f"# {row['meaning']}")
        print(f"# {row['setting']} is not set" if row["value"] is None else f"{row['setting']} = {json.dumps(row['value'])}")


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _errors() -> Iterator[None]:
    """Say an error in one sentence and end with its exit code."""
    try:
        yield
    except WardstreamError as error:
        Console(stderr=True, highlight=False).print(f"[red]{escape(error.message)}[/]", soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except PermissionError as error:
        print(f"this user may not use {error.filename}: run the command as the user that started the stack", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        print("interrupted; what runs already goes on, and the next `wardstream-server up` or `down` picks it up", file=sys.stderr)
        raise typer.Exit(130) from error


def _called(command: str) -> str:
    """Return how a shell in this folder calls our `command`: by its name where that leads to this installation, else by its path."""
    own = Path(sysconfig.get_path("scripts")) / command
    found = shutil.which(command)
    if not own.exists() or (found is not None and own.samefile(found)):
        return command
    return quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))


class _Reporter:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, name: str, sentence: str, seconds: float) -> None:
        self._console.print(f"{seconds:6.1f} s  [bold]{escape(name):15}[/] {escape(sentence)}")


def _reporter(console: Console) -> _Reporter:
    return _Reporter(console)


def _status_table(states: list[PartState]) -> Table:
    table = Table("part", "state", "pid", "since", "memory", "ports", "what for", box=None, pad_edge=False)
    for part in states:
        since = "" if part.started_at is None else _ago(part.started_at)
        ports = " ".join(
            str(port) if name == part.name else f"{name.removeprefix(part.name + '-')}:{port}" for name, port in part.listeners.items()
        )
        memory = "" if part.memory_mb is None else f"{part.memory_mb} MB"
        state = f"[{_COLOURS.get(part.state, 'white')}]{part.state}[/]"
        table.add_row(part.name, state, str(part.pid or ""), since, memory, ports, escape(part.detail or part.serves))
    return table


def _state(part: PartState) -> dict[str, Any]:
    started_at = None if part.started_at is None else part.started_at.isoformat(timespec="milliseconds")
    return {**vars(part), "started_at": started_at, "log": str(part.log), "listeners": dict(part.listeners)}


def _ago(moment: datetime) -> str:
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def _print_tail(path: Path, lines: int, *, alone: bool) -> int:
    """Print the last `lines` lines of the log and return how far it was read."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        # A megabyte holds any number of lines that a person wants to see.
        file.seek(max(0, end - (1 << 20)))
        raw = file.read(end - file.tell())
    for line in raw.decode(errors="replace").splitlines()[-lines:] if lines else []:
        _print_line(path, line, alone=alone)
    return end


def _print_new(path: Path, place: int, *, alone: bool) -> int:
    """Print what was written after `place`, whole lines only, and return how far it was read."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        # A log that became shorter was begun anew.
        file.seek(place if place <= end else 0)
        begin = file.tell()
        raw = file.read()
    whole = raw[: raw.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        _print_line(path, line, alone=alone)
    return begin + len(whole)


def _print_line(path: Path, line: str, *, alone: bool) -> None:
    print(line if alone else f"{path.stem:15} {line}", flush=True)


def _settings(values: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and meaning of each setting, groups in groups included; secrets are not shown."""
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{name}.{key}", inner, field.description or "") for key, inner in value.items())
        else:
            shown = "********" if isinstance(value, SecretStr) else str(value) if isinstance(value, Path) else value
            yield prefix + name, shown, field.description or ""


if __name__ == "__main__":
    main()
