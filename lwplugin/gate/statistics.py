"""Intervals the gate decides on. Pure functions of plain values; no I/O, no clock, seeds explicit.

Every ``level`` is one-sided: ``low`` and ``high`` each hold with that confidence, together they are a
two-sided interval of level ``2 * level - 1``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lwplugin.errors import GateError
from lwplugin.gate.rare import Rare

Floats = npt.NDArray[np.float64]

BOOTSTRAP_RESAMPLES = 4000
BOOTSTRAP_LARGEST_N = 20_000


@dataclass(frozen=True)
class Bounds:
    """An estimate with its lower and upper one-sided bounds; ``n`` observations."""

    estimate: float
    low: float
    high: float
    level: float
    n: int


def clopper_pearson(successes: int, n: int, *, level: float) -> Bounds:
    """Exact bounds of a proportion (Clopper and Pearson 1934): never less sure than ``level``."""
    _check_successes(successes, n)
    low = 0.0 if successes == 0 else float(stats.beta.ppf(1 - level, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(level, successes + 1, n - successes))
    return Bounds(estimate=successes / n, low=low, high=high, level=level, n=n)


def wilson(successes: int, n: int, *, level: float) -> Bounds:
    """Score bounds of a proportion (Wilson 1927): shorter than exact, right on average."""
    _check_successes(successes, n)
    z = float(stats.norm.ppf(level))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Bounds(estimate=p, low=low, high=high, level=level, n=n)


def student(differences: Floats, *, level: float) -> Bounds:
    """Bounds of a mean of real differences (paired t, Student 1908)."""
    values = _real(differences)
    n, mean = len(values), float(values.mean())
    half = float(stats.t.ppf(level, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Bounds(estimate=mean, low=mean - half, high=mean + half, level=level, n=n)


def bootstrap(
    differences: Floats, *, level: float, seed: int, resamples: int = BOOTSTRAP_RESAMPLES
) -> Bounds:
    """BCa bootstrap bounds of a mean (Efron 1987): follows skew, which the t interval does not.

    The same seed gives the same bounds. Known weakness: heavy tails with few examples.
    """
    values = _real(differences)
    n, mean = len(values), float(values.mean())
    if float(np.ptp(values)) == 0.0:
        return Bounds(estimate=mean, low=mean, high=mean, level=level, n=n)
    means = _resampled_means(values, seed=seed, resamples=resamples)
    below = float(np.mean(means < mean) + np.mean(means == mean) / 2)
    bias = float(stats.norm.ppf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples)))
    # The jackknife values of a mean are linear in the data, so its acceleration is the data's own skew.
    centred = values - mean
    acceleration = float((centred**3).sum() / (6 * ((centred**2).sum()) ** 1.5))
    z = float(stats.norm.ppf(level))
    low, high = (
        float(np.quantile(means, stats.norm.cdf(bias + (bias + q) / (1 - acceleration * (bias + q)))))
        for q in (-z, z)
    )
    return Bounds(estimate=mean, low=low, high=high, level=level, n=n)


def mean_bounds(differences: Floats, *, level: float, seed: int, reach: float) -> Bounds:
    """The bounds the gate decides on for real scores: the widest of paired t, BCa bootstrap and `Rare`, each side.

    ``reach`` is the most that one difference can be; it counts where many differences are zero. Above 20,000
    examples there is no bootstrap: it agrees with t there, and resampling costs more than it tells.
    """
    t, rare = student(differences, level=level), Rare.of(differences, reach=reach)
    mirrored = Rare.of(-differences, reach=reach)
    lows, highs = [t.low, rare.low(level)], [t.high, -mirrored.low(level)]
    if t.n <= BOOTSTRAP_LARGEST_N:
        b = bootstrap(differences, level=level, seed=seed)
        lows.append(b.low)
        highs.append(b.high)
    return Bounds(estimate=t.estimate, low=min(lows), high=max(highs), level=level, n=t.n)


def quantile_bounds(samples: Floats, quantile: float, *, level: float) -> Bounds:
    """Distribution-free bounds of a quantile from order statistics (Thompson 1936; Conover 1999, 3.2).

    A side for which ``samples`` are too few is infinite: p95 needs 59 samples for its upper bound at 0.95.
    """
    values = np.sort(_real(samples))
    n = len(values)
    below = int(stats.binom.ppf(1 - level, n, quantile))
    # Largest r with P(B <= r - 1) <= 1 - level, smallest s with P(B <= s - 1) >= level; both 1-based.
    while below >= 0 and stats.binom.cdf(below, n, quantile) > 1 - level:
        below -= 1
    above = int(stats.binom.ppf(level, n, quantile)) + 1
    low = float(values[below]) if below >= 0 else -math.inf
    high = float(values[above - 1]) if above <= n else math.inf
    return Bounds(estimate=float(np.quantile(values, quantile)), low=low, high=high, level=level, n=n)


def holm(p_values: Sequence[float], *, alpha: float) -> tuple[list[bool], list[float]]:
    """Holm's step-down (1979): which hypotheses are rejected, and the level each was tested at.

    The family-wise chance of a false rejection is at most ``alpha`` under any dependence. After the first
    hypothesis that stands, all with larger p-values stand too, at the level where the procedure stopped.
    """
    count = len(p_values)
    rejected, levels = [False] * count, [alpha] * count
    stopped_at: float | None = None
    for step, index in enumerate(sorted(range(count), key=lambda i: (p_values[i], i))):
        level = alpha / (count - step) if stopped_at is None else stopped_at
        levels[index] = level
        if stopped_at is None and p_values[index] <= level:
            rejected[index] = True
        else:
            stopped_at = level
    return rejected, levels


def _resampled_means(values: Floats, *, seed: int, resamples: int) -> Floats:
    random = np.random.default_rng(seed)
    n = len(values)
    means = np.empty(resamples)
    block = max(1, 2_000_000 // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        means[start : start + size] = values[random.integers(0, n, size=(size, n))].mean(axis=1)
    return means


def _check_successes(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise GateError(
            "A proportion needs 0 <= successes <= n and n >= 1",
            got=f"{successes} of {n}",
            do="give counts of real examples",
        )


def _real(values: Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise GateError(
            "An interval of a mean or quantile needs at least two finite values in one dimension",
            got=f"shape {array.shape}, {int((~np.isfinite(array)).sum())} not finite",
            do="remove what is not a number where it arises",
        )
    return array
