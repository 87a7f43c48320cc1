"""Confidence intervals of quantiles without assuming a distribution: pure functions on arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from lwplugin.measure.result import Interval

PACE_FACTOR = 1.75
PACE_SD = 0.01
PACE_WEIGHT = 4

Floats = npt.NDArray[np.float64]


def quantile(
    samples: Floats, q: float, *, blocks: npt.NDArray[np.int64] | None = None, confidence: float = 0.95
) -> Interval:
    """Quantile ``q`` of ``samples`` [n] with its order-statistic interval; an end is None where
    n is too small to bound it.

    ``blocks`` [n] names the stretch in which each sample was taken. Runs within one stretch resemble each
    other, so n is divided by the design effect of the quantile's exceedance share (Woodruff 1952).
    """
    ordered = np.sort(samples)
    n = len(ordered)
    estimate = float(np.quantile(ordered, q))
    effective = n if blocks is None else effective_size(samples > estimate, blocks, 1 - q)
    low_rank, high_rank = ranks(effective, q, confidence)
    scale = n / effective
    low = high = None
    if low_rank is not None:
        low = min(estimate, float(ordered[max(0, math.floor((low_rank + 1) * scale) - 1)]))
    if high_rank is not None:
        high = max(estimate, float(ordered[min(n - 1, math.ceil((high_rank + 1) * scale) - 1)]))
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence)


def repeatable(interval: Interval, levels: Floats) -> Interval:
    """The interval widened to what another measurement of the same file on the same machine would say.

    ``levels`` [stretch] is the same quantile in each consecutive stretch of the run. A machine's pace wanders
    on all time scales, and what it does between measurements no number of runs within one can show. That is
    taken as ``PACE_FACTOR`` times the standard deviation between stretches, pooled with a known one
    (``PACE_SD``, worth ``PACE_WEIGHT`` degrees of freedom); see the README for the runs they come from.
    """
    logs = np.log(levels)
    squares = float(((logs - logs.mean()) ** 2).sum())
    freedom = PACE_WEIGHT + len(logs) - 1
    variance = (PACE_WEIGHT * PACE_SD**2 + PACE_FACTOR**2 * squares) / freedom
    apart = student(freedom, interval.confidence) * math.sqrt(variance)
    ends: dict[str, float | None] = {"low": interval.low, "high": interval.high}
    for name, sign in (("low", -1.0), ("high", 1.0)):
        end = ends[name]
        if end is not None:
            within = math.log(end / interval.estimate)
            ends[name] = interval.estimate * math.exp(sign * math.hypot(within, apart))
    return interval.model_copy(update=ends)


def ranks(n: int, q: float, confidence: float) -> tuple[int | None, int | None]:
    """0-based ranks whose order statistics hold quantile ``q`` between them; None where no rank bounds it.

    Each end errs with probability at most (1 - confidence) / 2, by the binomial distribution.
    """
    tail = (1 - confidence) / 2
    below = special.bdtr(np.arange(n), n, q)  # P(at most k samples lie under the quantile)
    lows = np.flatnonzero(below <= tail)
    highs = np.flatnonzero(below >= 1 - tail)
    return (
        int(lows[-1]) if len(lows) else None,
        int(highs[0]) if len(highs) else None,
    )


def effective_size(above: npt.NDArray[np.bool_], blocks: npt.NDArray[np.int64], share: float) -> int:
    """How many independent samples the blocks are worth; between the number of blocks and n."""
    _, place = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(place)
    shares = np.bincount(place, weights=above) / sizes
    if len(sizes) < 2:
        return len(above)
    between = float(np.var(shares, ddof=1))
    independent = share * (1 - share) / float(sizes.mean())
    effect = between / independent if independent > 0 else 1.0
    return int(max(len(sizes), min(len(above), len(above) / max(effect, 1.0))))


def student(df: float, confidence: float) -> float:
    """Two-sided critical value of Student's t."""
    return float(special.stdtrit(df, 0.5 + confidence / 2))
