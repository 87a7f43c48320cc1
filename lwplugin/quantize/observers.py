"""Range observers: watch a tensor over the calibration stream in fixed memory, then name a range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch

from lwplugin.errors import DataError, RecipeError, did_you_mean
from lwplugin.quantize.histogram import StreamingHistogram, finite_bounds
from lwplugin.quantize.scheme import around_zero

Calibrator = Literal["minmax", "percentile", "entropy", "mse"]

_CANDIDATES = 128


class Observer(Protocol):
    """What a calibrator is: fed batch by batch, asked once at the end."""

    def update(self, x: torch.Tensor) -> None:
        """Watch one more batch of any shape."""

    def range(self) -> tuple[float, float]:
        """The range (lo, hi) to represent; always contains zero."""


class MinMaxObserver:
    """Everything seen is representable; one outlier costs every other value its precision."""

    def __init__(self) -> None:
        self.lo = math.inf
        self.hi = -math.inf

    def update(self, x: torch.Tensor) -> None:
        """Widen the range to cover ``x``."""
        if x.numel():
            lo, hi = finite_bounds(x)
            self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    def range(self) -> tuple[float, float]:
        """Smallest and largest value seen."""
        return _checked(self.lo, self.hi)


class PercentileObserver:
    """Leaves (100 - percentile) percent of the values outside, half on each side of zero."""

    def __init__(self, percentile: float = 99.99) -> None:
        self.percentile = percentile
        self.histogram = StreamingHistogram()

    def update(self, x: torch.Tensor) -> None:
        """Count ``x``."""
        self.histogram.update(x)

    def range(self) -> tuple[float, float]:
        """The central interval; a tail on which nothing lies (after a ReLU) gives all to the other."""
        hist = self.histogram
        lo, hi = _checked(hist.lo, hist.hi)
        outside = (100.0 - self.percentile) / 100.0
        tail = outside / 2 if lo < 0.0 < hi else outside
        cumulative = hist.counts.cumsum(0) / max(hist.total, 1.0)
        edges = (torch.arange(hist.bins + 1, dtype=torch.float64) + hist.first) * hist.width
        if lo < 0.0:
            below = int(torch.searchsorted(cumulative, tail, right=True))
            lo = max(lo, min(float(edges[min(below, hist.bins)]), 0.0))
        if hi > 0.0:
            reached = int(torch.searchsorted(cumulative, 1.0 - tail, right=False))
            hi = min(hi, max(float(edges[min(reached + 1, hist.bins)]), 0.0))
        return lo, hi


class MseObserver:
    """The range with the least mean squared error between the values and their ``levels`` rounded ones."""

    def __init__(self, levels: int = 256) -> None:
        self.levels = levels
        self.histogram = StreamingHistogram()

    def update(self, x: torch.Tensor) -> None:
        """Count ``x``."""
        self.histogram.update(x)

    def range(self) -> tuple[float, float]:
        """Search over clipped ranges: both ends together, then each end on its own."""
        hist = self.histogram
        lo, hi = _checked(hist.lo, hist.hi)
        shrink = torch.linspace(1.0, 0.05, _CANDIDATES, dtype=torch.float64)
        best = self._best(shrink * lo, shrink * hi)
        if best[0] < 0.0 < best[1]:
            best = self._best(shrink * lo, torch.full_like(shrink, best[1]))
            best = self._best(torch.full_like(shrink, best[0]), shrink * hi)
        return best

    def _best(self, lo: torch.Tensor, hi: torch.Tensor) -> tuple[float, float]:
        kept = self.histogram.counts > 0
        x = self.histogram.centers[kept][None]
        counts = self.histogram.counts[kept][None]
        scale = ((hi - lo) / (self.levels - 1)).clamp_min(1e-12)[:, None]
        zero = (-lo[:, None] / scale).round()
        rounded = ((x / scale).round() + zero).clamp(0, self.levels - 1).sub(zero) * scale
        # Where a value lies within its bin adds nearly the same error to every candidate.
        error = ((x - rounded).square() * counts).sum(1)
        index = int(error.argmin())
        return float(lo[index]), float(hi[index])


class AroundZero:
    """Another observer's range, widened around zero."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def update(self, x: torch.Tensor) -> None:
        """Watch as the other does."""
        self.observer.update(x)

    def range(self) -> tuple[float, float]:
        """As wide below zero as above, where there are negative values."""
        return around_zero(*self.observer.range())


class EntropyObserver:
    """The range whose ``levels``-step histogram keeps most of the information (KL divergence, as TensorRT).

    Every candidate clips magnitudes at one threshold, so a lone outlier leaves the other tail whole. Values
    that are exactly zero are left out of the comparison: after a ReLU they are half of everything, are
    represented exactly, and would hide the rest.
    """

    def __init__(self, levels: int = 256) -> None:
        self.levels = levels
        self.histogram = StreamingHistogram()
        self.zeros = 0

    def update(self, x: torch.Tensor) -> None:
        """Count ``x`` and how many of its values are exactly zero."""
        self.histogram.update(x)
        self.zeros += int((x == 0).sum())

    def range(self) -> tuple[float, float]:
        """Search over thresholds from the largest magnitude down to one histogram bin a level."""
        hist = self.histogram
        lo, hi = _checked(hist.lo, hist.hi)
        counts = hist.counts.clone()
        if 0 <= -hist.first < hist.bins:
            counts[-hist.first] = max(float(counts[-hist.first]) - self.zeros, 0.0)
        if float(counts.sum()) == 0.0:
            return lo, hi
        # Below one bin a level the histogram cannot tell a good grid from a bad one.
        largest = max(-lo, hi)
        smallest = min(self.levels * hist.width / (1 if lo == 0.0 or hi == 0.0 else 2), largest)
        steps = torch.linspace(0.0, 1.0, _CANDIDATES, dtype=torch.float64)
        threshold = largest * (smallest / largest) ** steps if largest > 0 else torch.zeros(1)
        low, high = threshold.neg().clamp_min(lo), threshold.clamp_max(hi)
        index = int(_clipped_divergence(counts, hist.centers, low, high, self.levels).argmin())
        return float(low[index]), float(high[index])


def _clipped_divergence(
    counts: torch.Tensor, centers: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor, levels: int
) -> torch.Tensor:
    """KL(reference || quantized) for each candidate range, [candidates]; both live on the fine bins.

    The reference carries the clipped mass in its edge bins; the quantized one spreads each level's
    unclipped mass evenly over that level's occupied bins.
    """
    inside = (centers[None] >= lo[:, None]) & (centers[None] <= hi[:, None])
    kept = counts[None] * inside
    step = ((hi - lo) / levels).clamp_min(1e-12)[:, None]
    level = ((centers[None] - lo[:, None]) / step).floor().clamp(0, levels - 1).to(torch.int64)
    occupied = (kept > 0).to(torch.float64)
    mass = torch.zeros(len(lo), levels, dtype=torch.float64).scatter_add_(1, level, kept)
    width = torch.zeros(len(lo), levels, dtype=torch.float64).scatter_add_(1, level, occupied)
    quantized = (mass / width.clamp_min(1.0)).gather(1, level) * occupied

    reference = kept.clone()
    position = torch.arange(len(centers))[None].expand_as(inside)
    first = torch.where(inside, position, len(centers)).amin(1).clamp_max(len(centers) - 1)
    last = torch.where(inside, position, -1).amax(1).clamp_min(0)
    below = (counts[None] * (centers[None] < lo[:, None])).sum(1)
    above = (counts[None] * (centers[None] > hi[:, None])).sum(1)
    reference.scatter_add_(1, first[:, None], below[:, None])
    reference.scatter_add_(1, last[:, None], above[:, None])

    p = reference / reference.sum(1, keepdim=True).clamp_min(1e-300)
    q = quantized / quantized.sum(1, keepdim=True).clamp_min(1e-300)
    ratio = (p / q.clamp_min(1e-12)).clamp_min(1e-300)
    return torch.where(p > 0, p * ratio.log(), torch.zeros_like(p)).sum(1)


def _checked(lo: float, hi: float) -> tuple[float, float]:
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise DataError(
            "Calibration saw no values for a layer",
            do="give at least one calibration example that reaches every layer",
        )
    return min(lo, 0.0), max(hi, 0.0)


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
    "entropy": EntropyObserver,
    "mse": MseObserver,
}


def make_observer(calibrator: str, *, percentile: float = 99.99, symmetric: bool = False) -> Observer:
    """A fresh observer of one tensor by the calibrator's name; ``symmetric`` ones name ranges around zero."""
    if calibrator not in OBSERVERS:
        raise RecipeError("Unknown calibrator", got=calibrator, do=did_you_mean(calibrator, OBSERVERS))
    made = PercentileObserver(percentile) if calibrator == "percentile" else OBSERVERS[calibrator]()
    return AroundZero(made) if symmetric else made
