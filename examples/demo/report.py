"""The demo's report: one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from examples.demo.drawing import Axes, Line, bars, chart


@dataclass(frozen=True)
class Strip:
    """Some seconds of a signal, with the times of its beats; times in seconds from the strip's start."""

    rate_hz: float
    samples: Sequence[float]
    beats: Sequence[float]
    unit: str


@dataclass(frozen=True)
class Wall:
    """One thing that was tried from outside, and what came back."""

    attempt: str
    refused: bool
    answer: str


@dataclass(frozen=True)
class Findings:
    """Everything that the report shows, read back from the platform."""

    made_at: datetime
    seconds: float
    strip: Strip
    heart_rate: Mapping[str, Sequence[tuple[datetime, float]]]
    read_lengths: Sequence[int]
    read_windows: int
    model: Mapping[str, Any]
    walls: Sequence[Wall]
    removal: str
    dead_letters: Sequence[Mapping[str, str]]
    reconciliation: Sequence[Mapping[str, Any]]


def write(findings: Findings, file: Path) -> None:
    """Write the page to `file`, replacing what is there."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))
    models = (("Keras, first-day values", findings.model["keras"]), ("logistic regression on APACHE alone", findings.model["apache"]))
    page = environment.get_template("report.html").render(
        made_at=f"{findings.made_at:%Y-%m-%d %H:%M} UTC",
        seconds=findings.seconds,
        ecg=_drawn(_strip(findings.strip)),
        rate=_drawn(_rate(findings.heart_rate)),
        reads=len(findings.read_lengths),
        minutes=findings.read_windows,
        lengths=_drawn(_lengths(findings.read_lengths)),
        model=findings.model,
        models=models,
        roc=_drawn(_roc(models)),
        calibration=_drawn(_calibration(models)),
        walls=findings.walls,
        removal=findings.removal,
        dead_letters=findings.dead_letters,
        reconciliation=findings.reconciliation,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page)


def _drawn(svg: str) -> Markup:
    # Made by examples.demo.drawing, which escapes every text it is given.
    return Markup(svg)  # noqa: S704


def _strip(strip: Strip) -> str:
    signal = [(number / strip.rate_hz, value) for number, value in enumerate(strip.samples)]
    beats = [(at, strip.samples[min(round(at * strip.rate_hz), len(strip.samples) - 1)]) for at in strip.beats]
    lines = [Line("signal", signal, 1), Line("beat found", beats, 2, marks=True)]
    return chart(lines, Axes("time (s)", strip.unit), title="ECG with the beats found")


def _rate(series: Mapping[str, Sequence[tuple[datetime, float]]]) -> str:
    lines = []
    for number, (device, values) in enumerate(sorted(series.items()), start=1):
        if values:
            start = values[0][0]
            lines.append(Line(device, [((at - start).total_seconds() / 60, rate) for at, rate in values], number))
    return chart(lines, Axes("minutes from the start of each recording", "beats per minute"), title="Heart rate over time")


def _lengths(lengths: Sequence[int]) -> str:
    capped = np.minimum(np.asarray(lengths, dtype=float) / 1000, 20)
    counts, edges = np.histogram(capped, bins=60, range=(0, 20))
    return bars(
        [float(edge) for edge in edges],
        [int(count) for count in counts],
        Axes("read length (kb; 20 and more in the last bar)", "reads"),
        title="Read lengths",
    )


def _roc(models: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = [Line(name, [(x, y) for x, y in found["roc"]], number) for number, (name, found) in enumerate(models, start=1)]
    axes = Axes("1 - specificity", "sensitivity", (0, 1), (0, 1))
    return chart([*lines, Line("chance", [(0, 0), (1, 1)], 3)], axes, height=380, title="ROC curves")


def _calibration(models: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = [
        Line(name, [(fifth["predicted"], fifth["observed"]) for fifth in found["calibration"]], number)
        for number, (name, found) in enumerate(models, start=1)
    ]
    axes = Axes("predicted risk", "observed risk", (0, 0.8), (0, 0.8))
    return chart([*lines, Line("perfect", [(0, 0), (0.8, 0.8)], 3)], axes, height=320, title="Calibration")
