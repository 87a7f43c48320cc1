"""Scores of the same examples through parent and candidate, and what can be said of their difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lwplugin.gate.paired import p_beyond, p_within, paired_bounds
from lwplugin.gate.rare import Rare
from lwplugin.gate.statistics import Bounds, mean_bounds

Floats = npt.NDArray[np.float64]


def is_right_or_wrong(*scores: Floats) -> bool:
    """Whether all scores are 0 or 1, so that the paired proportion test applies."""
    return all(bool(np.isin(values, (0.0, 1.0)).all()) for values in scores)


@dataclass(frozen=True)
class Pair:
    """Scores of the same examples through parent and candidate; right-or-wrong or real."""

    baseline: Floats
    candidate: Floats

    @property
    def n(self) -> int:
        return len(self.baseline)

    @property
    def binary(self) -> bool:
        return is_right_or_wrong(self.baseline, self.candidate)

    def counts(self) -> tuple[int, int, int]:
        d = self.candidate - self.baseline
        return int((d > 0).sum()), int((d < 0).sum()), len(d)

    def take(self, mask: npt.NDArray[np.bool_]) -> Pair:
        return Pair(self.baseline[mask], self.candidate[mask])

    def bounds(self, *, level: float, seed: int) -> Bounds:
        if self.binary:
            return paired_bounds(*self.counts(), level=level)
        return mean_bounds(self.candidate - self.baseline, level=level, seed=seed, reach=self.reach)

    @property
    def reach(self) -> float:
        """The most that one score can change: from the largest seen, of either sign, to nought."""
        return float(max(np.abs(self.baseline).max(), np.abs(self.candidate).max()))

    def p_values(self, margin: float) -> tuple[float, float]:
        """p-values against "the drop is at least the margin" and against "it is at most the margin"."""
        if self.binary:
            return p_within(*self.counts(), margin=margin), p_beyond(*self.counts(), margin=margin)
        d = self.candidate - self.baseline
        within = Rare.of(d, reach=self.reach).p_within(margin)
        beyond = Rare.of(-d, reach=self.reach).p_within(-margin)
        spread = float(d.std(ddof=1)) / len(d) ** 0.5
        if spread == 0.0:
            at = float(d.mean())
            return (within, 1.0) if at > -margin else (1.0, 1.0 if at == -margin else beyond)
        t = (float(d.mean()) + margin) / spread
        by_t = float(stats.t.sf(t, len(d) - 1)), float(stats.t.cdf(t, len(d) - 1))
        return max(within, by_t[0]), max(beyond, by_t[1])
