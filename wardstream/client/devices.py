"""Lists of devices to be added at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wardstream.errors import Invalid, InvalidName
from wardstream.names import parse_any_dataset, parse_member

_COLUMNS = ("name", "writes")
_MOST = 1000


@dataclass(frozen=True)
class DeviceRow:
    """A device and what it is to write, with its line in the file."""

    line: int
    name: str
    writes: tuple[str, ...]


def read_devices(file: Path) -> list[DeviceRow]:
    """Return the devices that a CSV file names; raises `Invalid` naming every line that cannot be used."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read as UTF-8 text") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows: list[DeviceRow] = []
    faults: list[str] = []
    try:
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise Invalid(f"{file} has the columns {', '.join(reader.fieldnames or ()) or 'none'}: right are {', '.join(_COLUMNS)}")
        for found in reader:
            line = reader.line_num
            if None in found or None in found.values():
                faults.append(f"line {line}: not two values")
                continue
            try:
                writes = tuple(parse_any_dataset(each.strip()) for each in found["writes"].split(";") if each.strip())
                row = DeviceRow(line, parse_member(found["name"].strip()), writes)
            except InvalidName as error:
                faults.append(f"line {line}: {error.message}")
                continue
            if not writes:
                faults.append(f"line {line}: {row.name} writes nothing: name a dataset")
            if row.name in {each.name for each in rows}:
                faults.append(f"line {line}: {row.name} is there twice")
            rows.append(row)
    except csv.Error as error:
        raise Invalid(f"{file} is no CSV: line {reader.line_num}: {error}") from error
    if len(rows) > _MOST:
        faults.append(f"{len(rows)} devices are more than the {_MOST} that are added at once")
    if faults or not rows:
        raise Invalid(f"{file} was not used: " + ("; ".join(faults[:20]) or "it names no device"))
    return rows


def device_tokens(made: Sequence[tuple[str, str, str, str]]) -> str:
    """Return name, principal, token and end of each device as CSV; each token works once."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(("name", "principal", "token", "expires_at"))
    writer.writerows(made)
    return target.getvalue().rstrip("\n")
