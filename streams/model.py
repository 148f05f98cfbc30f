"""Processors as values: what is read, how it is cut into windows, what is written, and by which runtime.

A `ProcessorKind` is code that the platform brings; a `ProcessorSpec` is one processor of one project. A spec names its
functions instead of holding them, so it can be stored, sent to a worker and shown.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from wardstream.errors import Invalid, NotFound
from wardstream.names import (
    DatasetName,
    MemberName,
    ProjectName,
    TopicName,
    dead_letter_topic,
    internal_prefix,
    parse_any_dataset,
    parse_member,
    parse_project,
    topic_of,
)

Parameter = str | int | float | bool | tuple[str, ...]
Key = tuple[str, ...]


class Runtime(StrEnum):
    """What runs a processor; the values are the same, the rates are not."""

    FAUST = "faust"
    FLINK = "flink"


@dataclass(frozen=True)
class Column:
    """One feature of the result, or one value that a row function takes out of a record; `type` is a feature type's name."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class Aggregate:
    """`feature` = `function` (see `streams.aggregates`) over the measured `columns` of one window."""

    feature: str
    function: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowShape:
    """Tumbling windows of event time, aligned to 1970-01-01.

    A window is closed when no record of its partition is expected that lies `lateness_ms` behind the newest one. Its function
    also sees what lies `before_ms` before and `after_ms` after it, such as the signal around a beat at its border.
    """

    size_ms: int
    lateness_ms: int
    before_ms: int = 0
    after_ms: int = 0

    def __post_init__(self) -> None:
        if self.size_ms < 1:
            raise Invalid(f"a window must last at least 1 ms, got {self.size_ms}")
        if min(self.lateness_ms, self.before_ms, self.after_ms) < 0:
            raise Invalid("lateness and context of a window cannot be negative")


@dataclass(frozen=True)
class Measurement:
    """What a row function takes out of one record.

    `identity` makes repeats of a record within one window recognisable. A record that covers time (a second of signal) has a
    `span_ms`. A `closing` one carries no values: it ends a replay, and closes every window that begins at or before its time.
    `arrived_ms` is the broker's time of the record; row functions do not know it.
    """

    key: Key
    event_ms: int
    identity: str = ""
    span_ms: int = 0
    closing: bool = False
    values: Any = None
    arrived_ms: int | None = None

    @property
    def reached_ms(self) -> int:
        """How far the record shows that event time has come: never further than the broker's, or one fast clock would make all others late."""
        return self.event_ms if self.arrived_ms is None else min(self.event_ms, self.arrived_ms)


class Unusable(Exception):  # a verdict on a record, not a fault of the program
    """This record cannot be used; the text is the reason in its dead letter and never contains the record's values."""


@dataclass(frozen=True)
class InternalTopic:
    """A topic that the runtime needs under the processor's own prefix."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class ProcessorSpec:
    """One processor of one project."""

    project: ProjectName
    name: MemberName
    kind: str
    source: DatasetName
    result: DatasetName
    runtime: Runtime
    window: WindowShape
    partitions: int = 1
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    # Part of every internal name: a processor whose state cannot be continued gets the next one and reads its sources anew.
    state_version: int = 1

    @property
    def source_topic(self) -> TopicName:
        """What is read."""
        return topic_of(self.project, self.source)

    @property
    def result_topic(self) -> TopicName:
        """What is written: the feature group's topic."""
        return topic_of(self.project, self.result)

    @property
    def dead_letter_topic(self) -> TopicName:
        """Where records of the source go that cannot be used."""
        return dead_letter_topic(self.source_topic)

    @property
    def internals(self) -> str:
        """What names of groups, internal topics and transactional ids begin with."""
        return f"{internal_prefix(self.project, self.name)}{self.state_version}."

    @property
    def app_id(self) -> str:
        """Faust's application id, which is also its consumer group."""
        return f"{self.internals}app"

    @property
    def group(self) -> str:
        """The consumer group whose committed offsets show how far the processor is."""
        return self.app_id if self.runtime is Runtime.FAUST else f"{self.internals}source"

    def internal_topics(self) -> Sequence[InternalTopic]:
        """Return what must exist before the processor starts."""
        if self.runtime is Runtime.FLINK:
            return ()
        # Faust looks for its leader topic even when it is told to elect none.
        return (InternalTopic(f"{self.app_id}-__assignor-__leader", 1, {"cleanup.policy": "delete"}),)

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` makes this spec again."""
        return {
            "project": self.project,
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "result": self.result,
            "runtime": self.runtime.value,
            "window": asdict(self.window),
            "partitions": self.partitions,
            "parameters": {name: list(v) if isinstance(v, tuple) else v for name, v in self.parameters.items()},
            "state_version": self.state_version,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ProcessorSpec:
        """Return the spec that `to_json` described; raises `Invalid` for anything else."""
        try:
            kind = kind_named(values["kind"])
            return ProcessorSpec(
                project=parse_project(values["project"]),
                name=parse_member(values["name"]),
                kind=kind.name,
                source=parse_any_dataset(values["source"]),
                result=parse_any_dataset(values["result"]),
                runtime=Runtime(values["runtime"]),
                window=WindowShape(**values["window"]),
                partitions=int(values["partitions"]),
                parameters=kind.checked(values["parameters"]),
                state_version=int(values["state_version"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"not a processor's description: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class ProcessorKind:
    """What a built-in processor does.

    `row_function` and `source_schema` are references `module:name` into `streams.processors`. A kind has either `aggregates`,
    which every runtime can run, or a `window_function` for what no aggregate can say, which only Faust runs.
    """

    name: str
    summary: str
    runtime: Runtime
    source_schema: str
    row_function: str
    primary_key: tuple[Column, ...]
    features: tuple[Column, ...]
    window: WindowShape
    event_time: str = "event_time"
    values: tuple[Column, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    window_function: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """By what it can be run."""
        return (Runtime.FAUST,) if self.window_function else (Runtime.FLINK, Runtime.FAUST)

    def spec(
        self,
        *,
        project: ProjectName,
        name: MemberName,
        source: DatasetName,
        result: DatasetName,
        partitions: int = 1,
        parameters: Mapping[str, Any] | None = None,
    ) -> ProcessorSpec:
        """Return one processor of this kind that reads `source` (of so many partitions) and fills the feature group's dataset `result`.

        Raises `Invalid` for a parameter that this kind does not have, naming those it has.
        """
        if partitions < 1:
            raise Invalid(f"partitions must be at least 1, got {partitions}")
        checked = self.checked(parameters or {})
        runtime = Runtime(str(checked.get("runtime", self.runtime)))
        window = WindowShape(self.window.size_ms, int(str(checked["lateness_ms"])), self.window.before_ms, self.window.after_ms)
        return ProcessorSpec(project, name, self.name, source, result, runtime, window, partitions, checked)

    def checked(self, given: Mapping[str, Any]) -> Mapping[str, Parameter]:
        """Return the parameters with defaults filled in; raises `Invalid` for an unknown one or one of another type."""
        known: dict[str, Parameter] = {
            "lateness_ms": self.window.lateness_ms,
            "max_ahead_ms": 300_000,
            "idle_ms": 30_000,
            "runtime": self.runtime.value,
            **self.parameters,
        }
        for name, value in given.items():
            if name not in known:
                raise Invalid(f"{ascii(name)[:60]} is no parameter of {self.name}; it has {', '.join(sorted(known))}")
            known[name] = _parameter(name, value, known[name])
        if str(known["runtime"]) not in {runtime.value for runtime in self.runtimes}:
            raise Invalid(
                f"{self.name} runs on {' or '.join(runtime.value for runtime in self.runtimes)}, not on {ascii(known['runtime'])[:30]}"
            )
        for name in ("lateness_ms", "max_ahead_ms", "idle_ms"):
            if int(str(known[name])) < 0:
                raise Invalid(f"{name} must be at least 0, got {known[name]}")
        return MappingProxyType(known)

    def check_result(self, primary_key: Sequence[str], event_time: str, features: Mapping[str, str]) -> None:
        """Raise `Invalid` unless a feature group with these columns (name -> type) can take the results."""
        if set(primary_key) != {column.name for column in self.primary_key} or event_time != self.event_time:
            wanted = ", ".join(column.name for column in self.primary_key)
            raise Invalid(f"{self.name} needs a feature group with primary key {wanted} and event time {self.event_time}")
        wanted_types = {column.name: column.type for column in (*self.primary_key, *self.features)} | {self.event_time: "timestamp"}
        for name, kind in wanted_types.items():
            if features.get(name) != kind:
                raise Invalid(f"{self.name} needs a feature {name} of type {kind} in its result, got {features.get(name, 'none')}")
        extra = sorted(set(features) - set(wanted_types))
        if extra:
            raise Invalid(f"{self.name} does not fill {', '.join(extra)}; leave such features out of its feature group")


def resolve(reference: str) -> Any:
    """Return what `module:name` names; raises `Invalid` outside `streams.processors`, since a spec may have come from a file."""
    module, _, name = reference.partition(":")
    if not module.startswith("streams.processors."):
        raise Invalid(f"{ascii(reference)[:80]} is not a function of a built-in processor")
    return getattr(importlib.import_module(module), name)


def row_function(kind: ProcessorKind) -> Callable[[Mapping[str, Any], Mapping[str, Parameter]], Measurement]:
    """Return the function that takes a measurement out of one decoded record, or raises `Unusable`."""
    found: Callable[[Mapping[str, Any], Mapping[str, Parameter]], Measurement] = resolve(kind.row_function)
    return found


def kind_named(name: str) -> ProcessorKind:
    """Return a built-in kind; raises `NotFound` with those that exist."""
    try:
        return PROCESSOR_KINDS[name]
    except KeyError:
        raise NotFound(f"there is no processor kind {ascii(name)[:60]}; there are {', '.join(sorted(PROCESSOR_KINDS))}") from None


def _parameter(name: str, value: Any, default: Parameter) -> Parameter:
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
            raise Invalid(f"{name} must be a list of names")
        return tuple(value)
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            raise Invalid(f"{name} must be {'true or false' if isinstance(default, bool) else 'a number or text'}")
        return value
    if isinstance(default, int) and isinstance(value, int):
        return value
    if isinstance(default, float) and isinstance(value, (int, float)):
        return float(value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    raise Invalid(f"{name} must be of the same type as its default {default!r}")


_DEVICES = {"devices": ()}

PROCESSOR_KINDS: Mapping[str, ProcessorKind] = MappingProxyType(
    {
        "ecg_10s": ProcessorKind(
            name="ecg_10s",
            summary="heart rate and its variability, per device and 10 s, from one-second records of an ECG or a pulse curve",
            runtime=Runtime.FAUST,
            source_schema="streams.processors.waveform:SCHEMA",
            row_function="streams.processors.ecg:measure",
            window_function="streams.processors.ecg:summarise",
            primary_key=(Column("device", "string", "the device's name"),),
            features=(
                Column("heart_rate", "double", "beats per minute: 60,000 over the mean interval; null with fewer than two beats"),
                Column("rmssd", "double", "root mean square of successive differences of intervals, ms; null with fewer than three beats"),
                Column("sdnn", "double", "standard deviation of intervals, ms; null with fewer than three beats"),
                Column("pnn50", "double", "share of successive differences above 50 ms, percent; null with fewer than three beats"),
                Column("quality", "double", "0 to 1: share of the signal that was received times the share of plausible intervals"),
                Column("beats", "bigint", "beats found in the window"),
            ),
            # The detector needs signal on both sides of a beat: 10 s to settle its thresholds, 2 s to see the beat whole.
            window=WindowShape(size_ms=10_000, lateness_ms=5_000, before_ms=10_000, after_ms=2_000),
            parameters=_DEVICES,
        ),
        "reads_1m": ProcessorKind(
            name="reads_1m",
            summary="yield and quality of a sequencer, per device, channel group and minute",
            runtime=Runtime.FLINK,
            source_schema="streams.processors.reads:SCHEMA",
            row_function="streams.processors.reads:measure",
            primary_key=(
                Column("device", "string", "the sequencer's name"),
                Column("channel_group", "string", "first and last channel of the group"),
            ),
            features=(
                Column("reads", "bigint", "reads that began in the minute"),
                Column("bases", "bigint", "bases in them"),
                Column("n50", "bigint", "length at which half of all bases lie in reads at least as long"),
                Column("mean_quality", "double", "Phred quality of the mean error probability of all bases"),
                Column("gc", "double", "share of G and C among A, C, G and T"),
            ),
            values=(
                Column("length", "bigint", "bases"),
                Column("mean_quality", "double", "Phred quality by error probability"),
                Column("gc_bases", "bigint", "G and C"),
                Column("acgt_bases", "bigint", "A, C, G and T"),
            ),
            aggregates=(
                Aggregate("reads", "count"),
                Aggregate("bases", "sum", ("length",)),
                Aggregate("n50", "n50", ("length",)),
                Aggregate("mean_quality", "mean_quality", ("length", "mean_quality")),
                Aggregate("gc", "ratio", ("gc_bases", "acgt_bases")),
            ),
            window=WindowShape(size_ms=60_000, lateness_ms=60_000),
            parameters={**_DEVICES, "channels_per_group": 128},
        ),
    }
)
