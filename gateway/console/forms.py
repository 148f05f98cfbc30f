"""Forms as values: what is asked, what was sent, and both together when something has to be put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from starlette.datastructures import FormData

from wardstream.errors import Invalid


@dataclass(frozen=True)
class Field:
    """One question. `kind` is text, secret, area, time, mark, choice or several; the last two have `options` of value and label."""

    name: str
    label: str
    kind: str = "text"
    value: str = ""
    chosen: frozenset[str] = frozenset()
    """Of `several`: what is marked."""
    options: Sequence[tuple[str, str]] = ()
    help: str = ""
    required: bool = False
    longest: int = 200


@dataclass(frozen=True)
class Form:
    """A page that asks before something is done; `says` tells what will happen."""

    title: str
    button: str
    back: str
    fields: Sequence[Field] = ()
    says: Sequence[str] = ()
    danger: bool = False

    def filled(self, sent: Sent) -> Form:
        """Return the form with what was entered, secrets left out."""
        fields = [
            field if field.kind == "secret" else replace(field, value=sent.text(field.name), chosen=frozenset(sent.all(field.name)))
            for field in self.fields
        ]
        return replace(self, fields=fields)


class Sent:
    """What came with a form."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str) -> str:
        """Return a field without spaces around it, or nothing."""
        return self.raw(name).strip()

    def raw(self, name: str) -> str:
        """Return a field as it came, or nothing."""
        return next(iter(self.all(name)), "")

    def optional(self, name: str) -> str | None:
        """Return a field, or None where it was left empty."""
        return self.text(name) or None

    def all(self, name: str) -> list[str]:
        """Return all values of a field that may have several."""
        return [value for value in self._data.getlist(name) if isinstance(value, str)]

    def time(self, name: str, label: str) -> str | None:
        """Return a time that was entered in UTC; raises `Invalid` for what is none."""
        text = self.text(name)
        if not text:
            return None
        try:
            return f"{datetime.fromisoformat(text.removesuffix('Z')).replace(tzinfo=None).isoformat()}+00:00"
        except ValueError as error:
            raise Invalid(f"{label}: a time looks like 2026-12-31T18:00, got {text[:30]!a}") from error

    def columns(self, name: str) -> list[dict[str, object]]:
        """Return lines of `dataset: column, column` as control takes them; raises `Invalid` for other lines."""
        found: list[dict[str, object]] = []
        for line in filter(None, map(str.strip, self.text(name).splitlines())):
            dataset, colon, columns = line.partition(":")
            names = columns.replace(",", " ").split()
            if not colon or not names:
                raise Invalid(f"columns are given as `dataset: column, column`, a dataset a line; got {line[:60]!a}")
            found.append({"dataset": dataset.strip(), "names": names})
        return found
