"""Small pieces of SVG: axes, marks, lines. Knows pixels and text, nothing of boards or faults.

Colours come from the page's style sheet by class, so that one drawing serves light and dark. Everything that is text
from outside goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 1040  # of every figure, in user units; the page scales it
GUTTER = 132  # on the left, for names
RIGHT = 16


def nice_step(span: float, at_most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that cuts `span` into at most that many parts."""
    if span <= 0:
        return 1.0
    raw = span / max(1, at_most)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10):
        if factor * power >= raw * 0.999999:
            return float(factor * power)
    return 10 * power


@dataclass(frozen=True)
class Scale:
    """Maps a range of values to a range of pixels, linearly, or by logarithm of ten."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = (math.log10(max(part, 1e-9)) for part in (value, low, high))
        share = (value - low) / (high - low) if high > low else 0.0
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)

    def ticks(self, at_most: int = 10) -> list[float]:
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1,) if last - first > 3 else (1, 2, 5)
            values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
        step = nice_step(self.high - self.low, at_most)
        first_tick = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first_tick, math.floor(self.high / step + 1e-9) + 1)]


def time_scale(ended_ns: int) -> Scale:
    """Seconds of the run over the width right of the gutter; the same in every figure, so that they line up."""
    return Scale(0.0, max(ended_ns / 1e9, 0.001), GUTTER, WIDTH - RIGHT)


def number(value: float) -> str:
    """A tick's label: no needless decimals."""
    return f"{value:g}"


def text(x: float, y: float, content: object, style: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(x, y, style, anchor, content)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(x1, y1, x2, y2, style)


def box(x: float, y: float, width: float, height: float, style: str, title: str = "", radius: float = 0) -> Markup:
    """A rectangle, with a tooltip where it has a title; never thinner than a pixel."""
    inner = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="{}" class="{}">{}</rect>').format(
        round(x, 1), y, round(max(1.0, width), 1), height, radius, style, inner
    )


def ticks_path(positions: Iterable[float], top: float, height: float, style: str) -> Markup:
    """Many vertical marks as one path. They fall onto whole pixels: more cannot be seen, and the file stays small."""
    columns = sorted({round(position) for position in positions})
    if not columns:
        return Markup("")
    path = "".join(f"M{column} {top:g}v{height:g}" for column in columns)
    return Markup('<path d="{}" class="{}"/>').format(path, style)


def dots(positions: Iterable[float], y: float, radius: float, style: str) -> Markup:
    """Many round marks as one path of zero length strokes with round caps, one a pixel at most."""
    columns = sorted({round(position) for position in positions})
    if not columns:
        return Markup("")
    path = "".join(f"M{column} {y:g}h0" for column in columns)
    return Markup('<path d="{}" class="{}" stroke-width="{}" stroke-linecap="round"/>').format(path, style, 2 * radius)


def polyline(points: Sequence[tuple[float, float]], style: str, title: str = "") -> Markup:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    inner = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<polyline points="{}" class="{}">{}</polyline>').format(path, style, inner)


def time_axis(scale: Scale, top: float, bottom: float) -> Markup:
    """Faint vertical lines at round seconds, with labels below."""
    parts = []
    for tick in scale.ticks(12):
        parts.append(line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(text(scale(tick), bottom + 16, f"{number(tick)} s", "tick", "middle"))
    return Markup("").join(parts)


def figure(height: float, title: str, parts: Iterable[Markup]) -> Markup:
    """One drawing; the title is what a screen reader says."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    ).format(WIDTH, round(height), title, Markup("").join(parts))


__all__ = [
    "GUTTER",
    "RIGHT",
    "WIDTH",
    "Scale",
    "box",
    "dots",
    "escape",
    "figure",
    "line",
    "number",
    "polyline",
    "text",
    "ticks_path",
    "time_axis",
    "time_scale",
]
