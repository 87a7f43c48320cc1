"""The mean of differences most of which are zero: what was not seen yet decides, as with counts.

Scores such as F1 per example or the share of right tokens change in few examples. Where none or two of a hundred have
changed, the spread that a t interval or a bootstrap sees is far below the one that a drop as large as the margin would
have; both then pass candidates at the margin in up to three of five cases. This is a score interval instead, as
Tango's for right-or-wrong: the variance is that under the drop that is asked about. The size of unseen changes is
taken from the seen ones and one more of ``reach``, the most that a score can change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rare:
    """A mean of differences [n] and what a hypothesis about it needs; ``weight`` is 0 where all differ."""

    n: int
    mean: float
    gains: float
    """Mean of the positive parts."""
    size: float
    """Size of a typical change, weighted by its own size: E d² / E |d|."""
    weight: float
    """1 where at least half of the differences are zero."""

    @classmethod
    def of(cls, differences: Floats, *, reach: float) -> Rare:
        unchanged = float(np.mean(differences == 0.0))
        absolute = float(np.abs(differences).sum()) + unchanged * reach
        square = float(np.square(differences).sum()) + unchanged * reach**2
        return cls(
            n=len(differences),
            mean=float(differences.mean()),
            gains=float(np.maximum(differences, 0.0).mean()),
            size=square / absolute if absolute else 0.0,
            weight=min(1.0, 2 * unchanged),
        )

    def low(self, level: float) -> float:
        """Lower bound of the mean, one-sided at ``level``, with half a typical change of continuity correction."""
        q = float(stats.norm.ppf(level)) ** 2 / self.n
        at = self.mean - self.weight * self.size / (2 * self.n)
        # (at + drop)² = q · (second moment under the drop − drop²), solved for the drop.
        linear = q * self.size * self.weight - 2 * at
        root = linear**2 - 4 * (1 + q) * (at**2 - 2 * q * self.size * self.gains)
        return -(linear + math.sqrt(max(root, 0.0))) / (2 * (1 + q))

    def p_within(self, margin: float) -> float:
        """p-value against "the mean is at most −margin"."""
        distance = self.mean + margin - self.weight * self.size / (2 * self.n)
        variance = self.size * (self.weight * margin + 2 * self.gains) - margin**2
        if variance <= 0.0:  # no such changes could make that mean
            return 0.0 if distance > 0 else 1.0
        return float(stats.norm.sf(distance / math.sqrt(variance / self.n)))
