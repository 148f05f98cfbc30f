"""Which settings a dataset's topic may have. Pure; what passes here the broker accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wardstream.errors import Invalid

_POLICIES = frozenset({"delete", "compact", "compact,delete", "delete,compact"})
_COMPRESSIONS = frozenset({"producer", "uncompressed", "none", "gzip", "snappy", "lz4", "zstd"})
_FOREVER = 2**63 - 1

Check = Callable[[str], str | None]


def _between(low: int, high: int) -> Check:
    def check(text: str) -> str | None:
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= 19 and low <= int(text) <= high:
            return None
        return f"a whole number from {low} to {high}"

    return check


def _one_of(words: frozenset[str]) -> Check:
    return lambda text: None if text in words else "one of " + ", ".join(sorted(words))


# Replication, acknowledgements and broker time are the platform's, so that no project can weaken them.
_CHECKS: dict[str, Check] = {
    "cleanup.policy": _one_of(_POLICIES),
    "compression.type": _one_of(_COMPRESSIONS - {"none"}),
    "delete.retention.ms": _between(0, _FOREVER),
    "max.compaction.lag.ms": _between(1, _FOREVER),
    "max.message.bytes": _between(1024, 16 * 1024 * 1024),
    "min.compaction.lag.ms": _between(0, _FOREVER),
    "retention.bytes": _between(-1, _FOREVER),
    "retention.ms": _between(-1, _FOREVER),
    "segment.bytes": _between(1024 * 1024, 2**31 - 1),
    "segment.ms": _between(1, _FOREVER),
}
# Said by those who write topics by hand, and always so here.
_FIXED = {"message.timestamp.type": "LogAppendTime"}


def checked_config(config: Mapping[str, str]) -> dict[str, str]:
    """Return `config` with the values that a topic may have; raises `Invalid` naming every fault and what would be right."""
    faults: list[str] = []
    kept: dict[str, str] = {}
    for key, value in sorted(config.items()):
        if key in _FIXED:
            if value != _FIXED[key]:
                faults.append(f"{key} is always {_FIXED[key]} here: event time belongs into the value")
            continue
        check = _CHECKS.get(key)
        if check is None:
            faults.append(f"{key[:60]!a} is not a setting of a dataset: known are {', '.join(sorted(_CHECKS))}")
        elif (right := check(value)) is not None:
            faults.append(f"{key} must be {right}")
        else:
            kept[key] = _canonical(value)
    if not faults and int(kept.get("min.compaction.lag.ms", 0)) > int(kept.get("max.compaction.lag.ms", _FOREVER)):
        faults.append("min.compaction.lag.ms must not be larger than max.compaction.lag.ms")
    if faults:
        raise Invalid("; ".join(faults))
    return kept


def _canonical(value: str) -> str:
    """Numbers as the broker writes them, so that what is wanted and what is found can be equal."""
    try:
        return str(int(value))
    except ValueError:
        return value
