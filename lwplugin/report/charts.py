"""The page's plots, drawn as SVG by hand: sharp at any size, coloured by the page's own theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from lwplugin.report.units import significant

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 14, 40
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Samples of one model; ``style`` is its CSS class, parent or light."""

    name: str
    style: str
    samples: Floats


@dataclass(frozen=True)
class Axis:
    """Data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(max(value, 1e-300)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the axis, about ``count`` of them."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / count
            base = 10.0 ** math.floor(math.log10(rough))
            step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
            found = [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low <= tick <= self.high]


def latency_axis(series: Sequence[Series]) -> Axis:
    """One axis for all: up to the 99th percentile of the slower, logarithmic where the range is wide."""
    everything = np.concatenate([one.samples for one in series])
    low = float(everything.min())
    high = max(float(np.quantile(one.samples, 0.99)) for one in series)
    log = low > 0 and high / low > 8
    margin = (high - low) * 0.04 or max(abs(high), 1e-9) * 0.05
    if log:
        return Axis(low / 1.08, high * 1.08, LEFT, WIDTH - RIGHT, log=True)
    return Axis(max(0.0, low - margin), high + margin, LEFT, WIDTH - RIGHT)


def histogram(series: Sequence[Series], *, unit: str) -> Markup:
    """Overlaid histograms, each normed to its own peak, with medians marked."""
    axis = latency_axis(series)
    edges = np.geomspace(axis.low, axis.high, 49) if axis.log else np.linspace(axis.low, axis.high, 49)
    base, top = HEIGHT - BOTTOM, TOP + 14
    parts = []
    for one in series:
        counts, _ = np.histogram(np.clip(one.samples, axis.low, axis.high), bins=edges)
        peak = max(int(counts.max()), 1)
        points = [f"M{axis(float(edges[0])):.1f} {base}"]
        for k, count in enumerate(counts):
            y = base - (base - top) * count / peak
            points.append(f"L{axis(float(edges[k])):.1f} {y:.1f}L{axis(float(edges[k + 1])):.1f} {y:.1f}")
        points.append(f"L{axis(float(edges[-1])):.1f} {base}Z")
        parts.append(f'<path class="area {one.style}" d="{"".join(points)}"/>')
    for one in series:
        x = axis(float(np.median(one.samples)))
        parts.append(f'<line class="median {one.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{base}"/>')
    return _frame(parts, axis, unit, "How often each latency was seen; dashed lines are the medians.")


def ecdf(series: Sequence[Series], *, unit: str) -> Markup:
    """Share of runs at most this slow; the 95 % line shows the tails."""
    axis = latency_axis(series)
    height = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 0.95):
        y = height(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    for one in series:
        ordered = np.sort(one.samples)
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        inside = ordered <= axis.high
        keep = np.unique(np.linspace(0, int(inside.sum()) - 1, min(int(inside.sum()), 300)).astype(int))
        points = " ".join(f"{axis(float(ordered[k])):.1f},{height(float(shares[k])):.1f}" for k in keep)
        parts.append(f'<polyline class="line {one.style}" points="{points}"/>')
    return _frame(parts, axis, unit, "Share of runs that took at most this long.")


def interval_cell(
    *,
    estimate: float | None,
    low: float | None,
    high: float | None,
    limit: float | None,
    span: tuple[float, float],
    status: str,
) -> Markup:
    """An interval with its limit as a strip in percent of the cell's width, so that rows line up."""
    axis = Axis(span[0], span[1], 2.0, 98.0)

    def at(value: float) -> str:
        return f"{min(max(axis(value), 0.5), 99.5):.2f}%"

    parts = [f'<line class="zero" x1="{at(0.0)}" x2="{at(0.0)}" y1="0" y2="100%"/>']
    if limit is not None:
        parts.append(f'<line class="limit" x1="{at(limit)}" x2="{at(limit)}" y1="0" y2="100%"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="whisker {status}" x1="{at(low)}" x2="{at(high)}" y1="50%" y2="50%"/>')
    if estimate is not None:
        parts.append(f'<circle class="dot {status}" cx="{at(estimate)}" cy="50%" r="4"/>')
    spoken = ", ".join(
        f"{name} {significant(value)}"
        for name, value in (("estimate", estimate), ("low", low), ("high", high), ("limit", limit))
        if value is not None
    )
    return Markup(f'<svg class="strip" role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>')


def _frame(parts: list[str], axis: Axis, unit: str, description: str) -> Markup:
    base = HEIGHT - BOTTOM
    marks = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    last = -math.inf
    for tick in axis.ticks():
        x = axis(tick)
        if x - last < 34:
            continue
        last = x
        marks.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        marks.append(
            f'<text class="tick" x="{x:.1f}" y="{base + 16}" text-anchor="middle">{significant(tick)}</text>'
        )
    scale = ", logarithmic" if axis.log else ""
    marks.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(unit)}{scale}</text>"
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}{''.join(marks)}</svg>"
    )
