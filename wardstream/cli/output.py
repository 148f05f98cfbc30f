"""How results are shown: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Spreadsheets run cells that begin so as formulas.
_FORMULA = ("=", "+", "-", "@", "\t")


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def show(rows: Sequence[Mapping[str, Any]], output: Output, *, empty: str = "nothing to show") -> None:
    """Print `rows`, all with the keys of the first."""
    if output is Output.JSON:
        sys.stdout.write(_json([dict(row) for row in rows]))
    elif output is Output.CSV:
        writer = csv.writer(sys.stdout)
        if rows:
            writer.writerow(rows[0])
        for row in rows:
            writer.writerow([_cell(value) for value in row.values()])
    elif not rows:
        Console(stderr=True).print(empty)
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in rows[0]:
            table.add_column(Text(name), overflow="fold")
        for row in rows:
            table.add_row(*(Text(_text(value)) for value in row.values()))
        _console().print(table)


def show_one(row: Mapping[str, Any], output: Output) -> None:
    """Print one thing: its fields below each other, or one JSON object."""
    if output is Output.JSON:
        sys.stdout.write(_json(dict(row)))
    elif output is Output.CSV:
        show([row], output)
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column()
        for name, value in row.items():
            table.add_row(Text(name), Text(_text(value)))
        _console().print(table)


def show_arrow(result: pa.Table, output: Output) -> None:
    """Print the rows of an Arrow table; an empty one still shows its columns."""
    if output is Output.TABLE and result.num_rows == 0:
        _console().print(Text(f"no rows; columns: {', '.join(result.column_names)}"))
    elif output is Output.CSV and result.num_rows == 0:
        csv.writer(sys.stdout).writerow(result.column_names)
    else:
        show(result.to_pylist(), output)


def say(text: str) -> None:
    """Print a remark for a person, on standard error so that results stay clean."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _console() -> Console:
    """A terminal decides its own width; in a file or a pipe nothing has to fold."""
    return Console() if sys.stdout.isatty() else Console(width=400)


def _json(value: object) -> str:
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """Return `value` with null for numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
