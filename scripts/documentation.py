"""Print a generated page of documentation: `cli`, the command line's commands, or `rest`, the routes of the REST interface."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from featurestore import api as featurestore_api
from gateway.description import describe, table
from streams import api as streams_api
from tenancy import api as tenancy_api
from wardstream.cli.main import app

_CLI = """# The command line

`wardstream` works with the platform over REST. Where the platform is and who asks come from the environment, which
`wardstream-server env` prints for the stack on this machine, or from the options below. Exit codes: 0 done, 1 failed,
2 invalid, 3 not found, 4 not allowed or not known, 5 conflict, 6 limit, 7 unavailable.
"""
_REST = """# The REST interface

Each door serves these routes, and their whole description at `/api/openapi.json`. An API key goes as
`Authorization: Bearer <key>`; on the doors for certificates the certificate is the proof. An error is
`{"code": ..., "message": ...}`.
"""


def main() -> int:
    """Print the page that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", choices=("cli", "rest"))
    if parser.parse_args().page == "cli":
        print(_CLI)
        print("\n".join(_command_line()))
    else:
        print(_REST)
        print(table(describe([tenancy_api.public, featurestore_api.public, streams_api.public])))
    return 0


def _command_line() -> Iterator[str]:
    root: Any = typer.main.get_command(app)
    yield "| option | what it is |"
    yield "|---|---|"
    yield from (_option(parameter) for parameter in _options(root))
    yield ""
    yield "| command | what it does |"
    yield "|---|---|"
    yield from _commands("wardstream", root)


def _commands(words: str, command: Any) -> Iterator[str]:
    """Yield a line for each command below this one, in the order of its help."""
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from _commands(f"{words} {name}", inner)
        else:
            yield f"| `{_usage(f'{words} {name}', inner)}` | {_cell(inner.help)} |"


def _usage(words: str, command: Any) -> str:
    parts = [words]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = parameter.name.upper().rstrip("_") + ("..." if parameter.nargs == -1 else "")
            parts.append(shown if parameter.required else f"[{shown}]")
    # Optional ones are in the command's own --help.
    parts += [f"{parameter.opts[0]} {parameter.name.upper()}" for parameter in _options(command) if parameter.required]
    return " ".join(parts)


def _options(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "option" and each.help and "completion" not in each.name]


def _option(parameter: Any) -> str:
    return f"| `{parameter.opts[0]}` | {_cell(parameter.help)} |"


def _cell(text: str | None) -> str:
    return (text or "").partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
