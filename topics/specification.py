"""topics.yaml: a list of topics under `topics`, each with a name, and settings that have defaults.

```yaml
topics:
  - name: ecg
    partitions: 3
    permission: editable-by-owners        # read-only, editable-by-owners, editable
    config: {retention.ms: 604800000}
    schema: {type: record, name: Ecg, fields: [{name: patient, type: string}]}     # or JSON text
    grow: true                            # allows more partitions on a topic that has some
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import yaml

from tenancy.model import DatasetPermission
from tenancy.topic_config import checked_config
from topics.model import TopicSpec
from wardstream.errors import Invalid, WardstreamError
from wardstream.names import parse_dataset

_KEYS = ("name", "partitions", "permission", "config", "schema", "grow")
_MOST_BYTES = 1024 * 1024
_MOST_TOPICS = 500
_DEFAULT_PARTITIONS = 1
# A 64-bit number has 20 digits; reading one of a hundred thousand takes seconds, and Python shows none of more than 4300.
_MOST_DIGITS = 40
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Plain(yaml.SafeLoader):
    """YAML without aliases, of which a few hundred characters stand for megabytes, and without endless numbers."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias, where the loader would repeat what it names, and a number that takes long to read."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave it out
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise yaml.MarkedYAMLError(problem=f"a number has at most {_MOST_DIGITS} digits", problem_mark=node.start_mark)
        return node


def load(text: str) -> list[TopicSpec]:
    """Return the topics that `text` asks for, in its order.

    Raises `Invalid` naming every fault, with its place and what would be right. A schema stands in the text itself: this runs
    where specifications arrive, and a server must not read files that a caller names.
    """
    if len(text) > _MOST_BYTES:
        raise Invalid(f"a specification may have {_MOST_BYTES} characters")
    try:
        content = yaml.load(text, _Plain)  # noqa: S506  # a safe loader, less aliases
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Invalid(f"the specification is not YAML{place}: {getattr(error, 'problem', None) or 'unreadable'}") from error
    except RecursionError as error:
        raise Invalid("the specification is nested too deeply") from error
    except Exception as error:  # a parser of foreign text: whatever it trips over is the text's fault
        raise Invalid("the specification has a date, number or tag that cannot be read: write it in quotes") from error
    if not isinstance(content, dict) or not isinstance(content.get("topics"), list):
        raise Invalid("a specification begins with `topics:` and a list of topics")
    faults = [f"{key!a} is not known at the top: only `topics` is" for key in content if key != "topics"]
    if len(content["topics"]) > _MOST_TOPICS:
        raise Invalid(f"a specification may have {_MOST_TOPICS} topics")
    specs: list[TopicSpec] = []
    for number, entry in enumerate(content["topics"], 1):
        spec = _topic(entry, number, faults)
        if spec is not None:
            specs.append(spec)
    names = [spec.name for spec in specs]
    faults += [f"topic {name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if faults:
        raise Invalid("; ".join(faults))
    return specs


def _topic(entry: object, number: int, faults: list[str]) -> TopicSpec | None:
    place = f"topic {number}"
    if not isinstance(entry, dict):
        faults.append(f"{place} is not a list of settings: write `- name: …`")
        return None
    if isinstance(entry.get("name"), str):
        place = f"topic {entry['name'][:60]!a}"
    before = len(faults)
    faults += [f"{place}: {str(key)[:60]!a} is not known; known are {', '.join(_KEYS)}" for key in entry if key not in _KEYS]
    name = _checked(lambda: parse_dataset(_text(entry, "name")), place, faults)
    partitions = entry.get("partitions", _DEFAULT_PARTITIONS)
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        faults.append(f"{place}: partitions must be a whole number of at least 1, got {str(partitions)[:20]!a}")
        partitions = _DEFAULT_PARTITIONS
    permission = _checked(lambda: _permission(entry.get("permission")), place, faults)
    config = _checked(lambda: checked_config(_config(entry.get("config"))), place, faults)
    schema = _checked(lambda: _schema(entry.get("schema")), place, faults)
    grow = entry.get("grow", False)
    if not isinstance(grow, bool):
        faults.append(f"{place}: grow must be true or false")
    if len(faults) > before or name is None or permission is None or config is None:
        return None
    return TopicSpec(name, partitions, permission, config, schema, bool(grow))


def _checked(make: Callable[[], Any], place: str, faults: list[str]) -> Any:
    try:
        return make()
    except WardstreamError as error:
        faults.append(f"{place}: {error.message}")
        return None


def _text(entry: Mapping[Any, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise Invalid(f"{key} is missing" if value is None else f"{key} must be text: write it in quotes")
    return value


def _permission(value: Any) -> DatasetPermission:
    if value is None:
        return DatasetPermission.EDITABLE_BY_OWNERS
    try:
        return DatasetPermission(value)
    except ValueError as error:
        raise Invalid(f"permission must be one of {', '.join(DatasetPermission)}, got {str(value)[:40]!a}") from error


def _config(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid("config must be settings with values, such as `retention.ms: 604800000`")
    return {str(key): _setting(inner) for key, inner in value.items()}


def _setting(value: object) -> str:
    # YAML reads numbers and truth values; Kafka writes them as text.
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict | list):
        try:
            return _json(_with_null(value))
        except RecursionError as error:
            raise Invalid("schema is nested too deeply") from error
    if not isinstance(value, str):
        raise Invalid("schema must be an Avro schema, as YAML or as JSON text")
    text = value.strip()
    if not text.startswith(("{", "[", '"')):
        raise Invalid(f"schema is {text[:60]!a}, which is no schema; where it names a file, write what the file holds")
    try:
        return _json(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise Invalid(f"schema is not JSON: {error.msg} in line {error.lineno}") from error
    except RecursionError as error:
        raise Invalid("schema is nested too deeply") from error


def _with_null(value: Any) -> Any:
    """Where a type stands, YAML's null means the type of that name: `[null, int]`."""
    if isinstance(value, list):
        return ["null" if inner is None else _with_null(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    types = {key: _with_null([value[key]])[0] for key in ("type", "items", "values") if key in value}
    fields = {"fields": [_with_null(field) for field in value["fields"]]} if isinstance(value.get("fields"), list) else {}
    return {**value, **types, **fields}


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
    except TypeError as error:
        # YAML has dates, sets and keys that are not text.
        raise Invalid("schema has something that JSON cannot hold, such as a date: write it in quotes") from error
