"""Confidence intervals of quantiles without assuming a distribution: pure functions on arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from lwplugin.measure.result import Interval

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
