"""Curves of a quantity against another, as SVG coloured by the page's theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lwplugin.report.charts import Axis

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 34


@dataclass(frozen=True)
class Curve:
    """Points from left to right; ``style`` is a CSS class, ``name`` what a pointer is told, ``marks`` the
    points that get a dot."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float]] = ()


def curves(
    drawn: Sequence[Curve],
    *,
    x_ticks: Sequence[tuple[float, str]],
    y_low: float,
    y_high: float,
    x_name: str,
    y_format: Callable[[float], str],
    description: str,
    log: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    """All curves over one pair of axes, ``x_ticks`` (value, label) from end to end; ``log`` is of the y axis,
    on which decades are marked."""
    right, base = width - RIGHT, height - BOTTOM
    x = Axis(x_ticks[0][0], x_ticks[-1][0], LEFT, right)
    y = Axis(y_low, y_high, base, TOP, log)
    parts = []
    for tick in y.ticks(4):
        if log and not math.log10(tick).is_integer():
            continue
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{escape(y_format(tick))}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    for value, label in x_ticks:
        at = x(value)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{base + 14}" text-anchor="middle">{escape(label)}</text>'
        )
    parts += _lines(drawn, x, y)
    parts.append(
        f'<text class="tick" x="{(LEFT + right) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_name)}</text>'
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def sparkline(curve: Curve, *, y_low: float, y_high: float, description: str) -> Markup:
    """One curve from 0 to 1 without axes, logarithmic upwards, for a table's cell."""
    x, y = Axis(0.0, 1.0, 3.0, 127.0), Axis(y_low, y_high, 27.0, 3.0, log=True)
    return Markup(
        f'<svg class="spark" viewBox="0 0 130 30" role="img" aria-label="{escape(description)}">'
        f'<line class="grid" x1="3" x2="127" y1="27" y2="27"/>{"".join(_lines([curve], x, y))}</svg>'
    )


def _lines(drawn: Sequence[Curve], x: Axis, y: Axis) -> list[str]:
    parts = []
    for curve in drawn:
        points = " ".join(f"{x(a):.1f},{_inside(y, b):.1f}" for a, b in curve.points)
        title = f"<title>{escape(curve.name)}</title>" if curve.name else ""
        parts.append(f'<g><polyline class="line {curve.style}" points="{points}"/>{title}</g>')
        parts += [
            f'<circle class="mark {curve.style}" cx="{x(a):.1f}" cy="{_inside(y, b):.1f}" r="2.8"/>'
            for a, b in curve.marks
        ]
    return parts


def _inside(axis: Axis, value: float) -> float:
    return axis(min(max(value, axis.low), axis.high))
