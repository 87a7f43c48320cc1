"""The model page's plots as inline SVG, in the report's axes and colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from lwplugin.registry import Listed
from lwplugin.report.charts import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Axis
from lwplugin.report.units import of_metric, of_score
from lwplugin.serve.pages.survey import front

MOST_POINTS = 400
_LEFT = 64


@dataclass(frozen=True)
class Plot:
    """A drawn figure; ``note`` says what was left out."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    label: str
    marked: bool = False


def plots(versions: Sequence[Listed], score: str) -> list[Plot]:
    """Of one target's light versions, newest first; figures that nothing was measured for are left out."""
    drawn = [
        _over_versions(versions, "size_bytes", "Size over versions"),
        _over_versions(versions, "p95_ms", "Latency (95th percentile) over versions"),
        _pareto(versions, "size_bytes", score, "size"),
        _pareto(versions, "p95_ms", score, "latency"),
    ]
    return [plot for plot in drawn if plot is not None]


def _over_versions(versions: Sequence[Listed], metric: str, title: str) -> Plot | None:
    measured = [(v.version, value) for v in versions if (value := v.number(metric)) is not None]
    if not measured:
        return None
    shown = sorted(measured[:MOST_POINTS])
    points = [
        _Point(number, value, f"version {number}: {of_metric(metric, value)}") for number, value in shown
    ]
    left_out = len(measured) - len(shown)
    return Plot(
        title,
        _draw(
            points,
            "version",
            lambda value: f"{value:.0f}" if value == int(value) else "",
            lambda value: of_metric(metric, value),
            f"{title}: {points[-1].label} is the newest of {len(measured)}.",
            line=points,
        ),
        f"The newest {len(shown)}; {left_out} older ones are left out." if left_out else "",
    )


def _pareto(versions: Sequence[Listed], metric: str, score: str, what: str) -> Plot | None:
    measured = [
        (v, x, y)
        for v in versions
        if (x := v.number(metric)) is not None and (y := v.number(score)) is not None
    ]
    if not measured:
        return None
    best = front([(x, y) for _, x, y in measured])
    shown = sorted({*best[:MOST_POINTS], *range(min(len(measured), MOST_POINTS))})
    marked = set(best)

    def point(index: int) -> _Point:
        version, x, y = measured[index]
        label = f"version {version.version}: {of_metric(metric, x)}, {score} {of_score(score, y)}"
        return _Point(x, y, label, index in marked)

    title = f"{score.replace('_', ' ').capitalize()} against {what}"
    left_out = len(measured) - len(shown)
    return Plot(
        title,
        _draw(
            [point(index) for index in shown],
            what,
            lambda value: of_metric(metric, value),
            lambda value: of_score(score, value),
            f"{title}; on the Pareto front: " + "; ".join(point(index).label for index in best[:10]) + ".",
            line=_stairs([point(index) for index in best[:MOST_POINTS]]),
        ),
        f"The front and the newest {MOST_POINTS}; {left_out} others are left out." if left_out else "",
    )


def _stairs(points: Sequence[_Point]) -> list[_Point]:
    """Between two points of a front nothing better than the left one is there."""
    corners = [_Point(right.x, left.y, "") for left, right in pairwise(points)]
    mixed = [one for pair in zip(points, corners, strict=False) for one in pair]
    return [*mixed, *points[-1:]]


def _draw(
    points: Sequence[_Point],
    x_name: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    description: str,
    *,
    line: Sequence[_Point],
) -> Markup:
    across = _axis([point.x for point in points], _LEFT, WIDTH - RIGHT)
    up = _axis([point.y for point in points], HEIGHT - BOTTOM, TOP)
    base = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for tick in up.ticks(4):
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 3.5, y_text(tick), "end"))
    last = -math.inf
    for tick in across.ticks(5):
        x, text = across(tick), x_text(tick)
        if not text or x - last < 60:
            continue
        last = x
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(_text(x, base + 16, text, "middle"))
    parts.append(_text((_LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_name, "middle"))
    path = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in line)
    parts.append(f'<polyline class="line light" points="{path}"/>')
    for point in points:
        style = "point front" if point.marked else "point"
        parts.append(
            f'<circle class="{style}" cx="{across(point.x):.1f}" cy="{up(point.y):.1f}" '
            f'r="{4.5 if point.marked else 3}"><title>{escape(point.label)}</title></circle>'
        )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or max(abs(high), 1e-9) * 0.05
    return Axis(low - margin, high + margin, start, end)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
