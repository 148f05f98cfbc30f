"""JSON records as Avro values, by the topic's schema; each record that does not fit is named with the reason.

Times may be given as ISO 8601 text or as the number that Avro writes; bytes as Avro's JSON has them, one character for each.
The first branch of a union that fits is taken.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import fastavro
import orjson

from wardstream.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BITS = {"int": 31, "long": 63}
_MOST_NAMES = 20


@dataclass(frozen=True)
class Misfit:
    """A record that cannot be written: its index, and why, without its values."""

    index: int
    reason: str


@dataclass(frozen=True)
class Encoded:
    """`values[i]` is the record `rows[i]` of those handed in; every record is there or among the misfits."""

    values: list[bytes]
    rows: list[int]
    misfits: list[Misfit]


class _DoesNotFit(Exception):
    pass


def encode_records(records: Sequence[object], schema_id: int, schema: str) -> Encoded:
    """Return the records as values in the registry's wire format; raises `Invalid` only where the schema itself cannot be used."""
    names: dict[str, Any] = {}
    try:
        parsed = fastavro.parse_schema(orjson.loads(schema), names)
        written = fastavro.parse_schema(_without_logical(parsed))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Invalid(f"schema id {schema_id} cannot be used for JSON records") from error
    prefix = b"\x00" + schema_id.to_bytes(4, "big")
    made = Encoded([], [], [])
    for index, record in enumerate(records):
        out = io.BytesIO()
        out.write(prefix)
        try:
            fastavro.schemaless_writer(out, written, _fit(parsed, record, "", names))
        except _DoesNotFit as error:
            made.misfits.append(Misfit(index, str(error)))
            continue
        except RecursionError:
            made.misfits.append(Misfit(index, "the record is nested too deeply"))
            continue
        made.values.append(out.getvalue())
        made.rows.append(index)
    return made


def _fit(schema: Any, value: Any, where: str, names: Mapping[str, Any]) -> Any:
    """Return `value` as fastavro writes it; raises `_DoesNotFit` naming the place."""
    if isinstance(schema, list):
        return _fit_union(schema, value, where, names)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        return _fit(kind, value, where, names)
    if kind in names and kind not in _CHECKS:
        return _fit(names[kind], value, where, names)
    if kind in ("record", "error"):
        return _fit_record(schema, value, where, names)
    if kind == "array":
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return [_fit(schema["items"], item, f"{where}[{number}]", names) for number, item in enumerate(value)]
    if kind == "map":
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        inner = f"{where}.*"
        return {_string(key, inner): _fit(schema["values"], item, inner, names) for key, item in value.items()}
    if kind == "enum":
        if value not in schema["symbols"]:
            raise _wrong(where, f"one of {', '.join(schema['symbols'][:_MOST_NAMES])}", value)
        return value
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    if logical in _LOGICAL and not (logical != "decimal" and isinstance(value, int) and not isinstance(value, bool)):
        return _LOGICAL[logical](schema, value, where)
    if kind == "fixed":
        raw = _bytes(value, where)
        if len(raw) != schema["size"]:
            raise _wrong(where, f"{schema['size']} bytes, one character for each", value)
        return raw
    return _CHECKS[kind](value, where)


def _fit_record(schema: Mapping[str, Any], value: Any, where: str, names: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    known = {field["name"] for field in schema["fields"]}
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        listed = ", ".join(sorted(known)[:_MOST_NAMES])
        raise _DoesNotFit(f"{_place(where)}field {unknown[0][:60]!a} is not in the schema; its fields are {listed}")
    made = {}
    for field in schema["fields"]:
        name = field["name"]
        if name not in value and "default" not in field:
            raise _DoesNotFit(f"{_place(where)}field {name} is missing")
        made[name] = _fit(field["type"], value.get(name, field.get("default")), f"{where}.{name}" if where else name, names)
    return made


def _fit_union(branches: Sequence[Any], value: Any, where: str, names: Mapping[str, Any]) -> Any:
    reasons = []
    for branch in branches:
        try:
            return _branch(branch, _fit(branch, value, where, names), names)
        except _DoesNotFit as error:
            if branch != "null":
                reasons.append(str(error))
    # With null and one other type, the other type's reason says more than a list of all.
    raise _DoesNotFit(reasons[0]) if len(reasons) == 1 else _wrong(where, "a value of one of its types", value)


def _branch(branch: Any, value: Any, names: Mapping[str, Any]) -> Any:
    """Name the branch for fastavro where it could take another one for the same Python value."""
    resolved = names.get(branch, branch) if isinstance(branch, str) else branch
    return (resolved["name"], value) if isinstance(resolved, dict) and resolved.get("type") in ("record", "error") else value


def _without_logical(schema: Any) -> Any:
    """The schema as it is written: values are already numbers and bytes."""
    if isinstance(schema, list):
        return [_without_logical(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key not in ("logicalType", "precision", "scale") and not key.startswith("__")}
    for key in ("type", "items", "values"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = _without_logical(kept[key])
    if "fields" in kept:
        kept["fields"] = [{**field, "type": _without_logical(field["type"])} for field in kept["fields"]]
    return kept


def _number(kind: str) -> Callable[[Any, str], Any]:
    limit = 2 ** _BITS[kind]

    def check(value: Any, where: str) -> int:
        # JSON has one kind of number: 5.0 is a whole one.
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, bool) or not isinstance(whole, int):
            raise _wrong(where, "a whole number", value)
        if not -limit <= whole < limit:
            raise _DoesNotFit(f"{_place(where)}the number is too large for {kind}")
        return whole

    return check


def _float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, "a number", value)
    try:
        number = float(value)
    except OverflowError as error:
        raise _DoesNotFit(f"{_place(where)}the number is too large") from error
    if not math.isfinite(number):
        raise _DoesNotFit(f"{_place(where)}not a finite number")
    return number


def _float32(value: Any, where: str) -> float:
    number = _float(value, where)
    # The largest 32-bit float; beyond it the writer would fail.
    if abs(number) > 3.4028234663852886e38:
        raise _DoesNotFit(f"{_place(where)}the number is too large for float")
    return number


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _DoesNotFit(f"{_place(where)}text with half of a surrogate pair") from error
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _null(value: Any, where: str) -> None:
    if value is not None:
        raise _wrong(where, "null", value)


def _bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or any(ord(character) > 255 for character in value):
        raise _wrong(where, "text with one character (U+0000 to U+00FF) for each byte", value)
    return value.encode("latin-1")


def _instant(unit: timedelta, *, local: bool) -> Callable[[Any, Any, str], int]:
    def check(_: Any, value: Any, where: str) -> int:
        if not isinstance(value, str):
            raise _wrong(where, "a time as ISO 8601 text or a number", value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise _wrong(where, "a time as ISO 8601 text or a number", value) from error
        if local != (moment.tzinfo is None):
            raise _DoesNotFit(f"{_place(where)}the time must {'not ' if local else ''}say its zone, such as Z")
        return ((moment.replace(tzinfo=UTC) if local else moment) - _EPOCH) // unit

    return check


def _date(_: Any, value: Any, where: str) -> int:
    try:
        return (date.fromisoformat(value) - _EPOCH.date()).days
    except (ValueError, TypeError) as error:
        raise _wrong(where, "a date such as 2026-11-24", value) from error


def _time_of_day(unit: timedelta) -> Callable[[Any, Any, str], int]:
    def check(_: Any, value: Any, where: str) -> int:
        try:
            moment = time.fromisoformat(value)
        except (ValueError, TypeError) as error:
            raise _wrong(where, "a time of day such as 13:45:00", value) from error
        return timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond) // unit

    return check


def _decimal(schema: Any, value: Any, where: str) -> bytes:
    precision, scale = schema.get("precision", 0), schema.get("scale", 0)
    try:
        number = Decimal(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite():
        raise _wrong(where, "a number, best as text so that no digit is lost", value)
    parts = number.as_tuple()
    shift = int(parts.exponent) + scale
    # Beyond these bounds nothing fits; they also keep digits and 10**shift from growing with the input. From a decimal, since Python
    # makes no number of a text of more than 4300 digits.
    fits = abs(shift) <= precision + scale and len(parts.digits) <= 2 * precision + scale
    digits = int(Decimal((0, parts.digits, 0))) if fits else 0
    fits = fits and (shift >= 0 or digits % 10**-shift == 0)
    unscaled = (digits * 10**shift if shift >= 0 else digits // 10**-shift) if fits else None
    if unscaled is None or unscaled >= 10**precision:
        raise _DoesNotFit(f"{_place(where)}a number of at most {precision} digits, {scale} of them behind the point")
    signed = -unscaled if parts.sign else unscaled
    size = schema["size"] if schema["type"] == "fixed" else signed.bit_length() // 8 + 1
    try:
        return int(signed).to_bytes(int(size), "big", signed=True)
    except OverflowError as error:
        raise _DoesNotFit(f"{_place(where)}the number needs more than {size} bytes") from error


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _number("int"),
    "long": _number("long"),
    "float": _float32,
    "double": _float,
    "string": _string,
    "bytes": _bytes,
}
_LOGICAL: dict[str, Callable[[Any, Any, str], Any]] = {
    "timestamp-millis": _instant(timedelta(milliseconds=1), local=False),
    "timestamp-micros": _instant(timedelta(microseconds=1), local=False),
    "local-timestamp-millis": _instant(timedelta(milliseconds=1), local=True),
    "local-timestamp-micros": _instant(timedelta(microseconds=1), local=True),
    "date": _date,
    "time-millis": _time_of_day(timedelta(milliseconds=1)),
    "time-micros": _time_of_day(timedelta(microseconds=1)),
    "decimal": _decimal,
}
_JSON_WORDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    type(None): "null",
    int: "a number",
    float: "a number",
}


def _wrong(where: str, wanted: str, value: object) -> _DoesNotFit:
    return _DoesNotFit(f"{_place(where)}{wanted} is wanted, not {_JSON_WORDS.get(type(value), 'this')}")


def _place(where: str) -> str:
    return f"{where}: " if where else ""
