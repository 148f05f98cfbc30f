"""Small drawings as SVG text: enough for a report that needs no script and no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named line; `marks` draws points instead."""

    name: str
    points: Sequence[Point]
    colour: int
    marks: bool = False


@dataclass(frozen=True)
class Axes:
    """What is drawn along which axis, with units in the labels; limits left out follow the data."""

    x: str
    y: str
    x_limits: Point | None = None
    y_limits: Point | None = None


def chart(lines: Sequence[Line], axes: Axes, *, height: int = _HEIGHT, title: str) -> str:
    """Return a chart of lines and marks."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        return '<p class="quiet">nothing to draw</p>'
    frame = _Frame(axes.x_limits or (min(xs), max(xs)), axes.y_limits or _padded(min(ys), max(ys)), height)
    parts = [frame.grid(axes)]
    for line in lines:
        if line.marks:
            parts += [f'<circle class="c{line.colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5"/>' for x, y in line.points]
        else:
            path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
            parts.append(f'<polyline class="l{line.colour}" points="{path}"/>')
    return frame.svg(parts, title) + _legend(lines)


def bars(edges: Sequence[float], counts: Sequence[int], axes: Axes, *, title: str) -> str:
    """Return a histogram; `edges` has one entry more than `counts`."""
    if not counts:
        return '<p class="quiet">nothing to draw</p>'
    frame = _Frame((edges[0], edges[-1]), (0, max(counts) * 1.05), _HEIGHT)
    parts = [frame.grid(axes)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        x, y = frame.x(low), frame.y(count)
        parts.append(
            f'<rect class="b1" x="{x:.1f}" y="{y:.1f}" width="{max(frame.x(high) - x - 1, 1):.1f}" height="{frame.y(0) - y:.1f}"/>'
        )
    return frame.svg(parts, title)


class _Frame:
    def __init__(self, x_limits: Point, y_limits: Point, height: int) -> None:
        self._x, self._y, self._height = x_limits, y_limits, height

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / ((high - low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._height - _BOTTOM - (value - low) / ((high - low) or 1) * (self._height - _TOP - _BOTTOM)

    def grid(self, axes: Axes) -> str:
        parts = []
        for value in _ticks(*self._y):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
        for value in _ticks(*self._x):
            parts.append(f'<text x="{self.x(value):.1f}" y="{self._height - _BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="label" x="{middle}" y="{self._height - 6}" text-anchor="middle">{escape(axes.x)}</text>')
        at = (self._height - _BOTTOM + _TOP) / 2
        parts.append(f'<text class="label" transform="translate(13 {at}) rotate(-90)" text-anchor="middle">{escape(axes.y)}</text>')
        return "".join(parts)

    def svg(self, parts: Sequence[str], title: str) -> str:
        body = "".join(parts)
        return f'<svg viewBox="0 0 {_WIDTH} {self._height}" role="img"><title>{escape(title)}</title>{body}</svg>'


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    items = "".join(f'<li><span class="k{line.colour}"></span>{escape(line.name)}</li>' for line in lines)
    return f'<ul class="legend">{items}</ul>'


def _padded(low: float, high: float) -> Point:
    margin = (high - low) * 0.08 or 1
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return some three to eight round numbers (1, 2 or 5 times a power of ten) between the limits."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (2, 1, 0.5, 0.2, 0.1) if span / (power * factor) >= 3)
    return [round(number * step, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:g}"
