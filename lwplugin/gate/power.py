"""How many examples a margin needs, worked out before anything is measured.

``python -m lwplugin.gate.power`` prints the table of docs/gate.md.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from scipy.special import gammaln

from lwplugin.errors import GateError
from lwplugin.gate.paired import HALF_COUNT, Floats, score_statistic

MARGINS = (0.002, 0.005, 0.01, 0.02, 0.05)
DISCORDANCES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.10, 0.20)


def pass_probability(
    n: int, *, margin: float, discordance: float, drop: float = 0.0, level: float = 0.95
) -> float:
    """Exact probability that the gate passes a candidate on ``n`` examples, right-or-wrong scores.

    ``discordance`` is the true share of examples on which exactly one of the two is right, ``drop`` the true
    drop (at most the discordance). With ``drop == margin`` it is the false-pass rate. Sums the trinomial over
    every table the test passes; tables beyond 9 standard deviations are left out (less than 1e-15).
    """
    if not 0 <= abs(drop) <= discordance <= 1 or n < 1:
        raise GateError(
            "A drop cannot be larger than the discordance",
            got=f"drop={drop}, discordance={discordance}, n={n}",
            do="give 0 <= |drop| <= discordance <= 1",
        )
    p_lost, p_gained = (discordance + drop) / 2, (discordance - drop) / 2
    gained, lost = _around(n, p_gained)[:, None], _around(n, p_lost)[None, :]
    passes = score_statistic(gained, lost, n, -margin, correction=HALF_COUNT) >= stats.norm.ppf(level)
    rest = n - gained - lost
    passes &= rest >= 0
    log_probability = (
        gammaln(n + 1)
        - gammaln(gained + 1)
        - gammaln(lost + 1)
        - gammaln(np.maximum(rest, 0) + 1)
        + _x_log_p(gained, p_gained)
        + _x_log_p(lost, p_lost)
        + _x_log_p(rest, 1 - discordance)
    )
    return float(min(1.0, np.exp(log_probability, where=passes, out=np.zeros(passes.shape)).sum()))


def examples_needed(
    *, margin: float, discordance: float, drop: float = 0.0, level: float = 0.95, power: float = 0.8
) -> int:
    """Examples for which a candidate with this true ``drop`` passes with probability ``power``.

    Starts at the normal approximation and refines with the exact probability, in steps of about 1 %. Power
    is saw-toothed in n, so the number is near the smallest, not guaranteed to be it.
    """
    if drop >= margin:
        raise GateError(
            "No number of examples shows a drop to be within a margin it is not within",
            got=f"drop={drop}, margin={margin}",
            do="give a drop below the margin",
        )
    discordance = max(discordance, abs(drop))
    n = roughly_needed(margin=margin, discordance=discordance, drop=drop, level=level, power=power)
    if n * discordance > 3000:
        return _rounded(n)
    step = max(1, n // 100)

    def enough(count: int) -> bool:
        return (
            pass_probability(count, margin=margin, discordance=discordance, drop=drop, level=level) >= power
        )

    if enough(n):
        while n - step >= 2 and enough(n - step):
            n -= step
    else:
        while not enough(n):
            n += step
    return n


def roughly_needed(
    *, margin: float, discordance: float, drop: float = 0.0, level: float = 0.95, power: float = 0.8
) -> int:
    """The normal approximation of ``examples_needed`` (Nam 1997, Biometrics 53, 1422-1430, simplified)."""
    z, z_power = float(stats.norm.ppf(level)), float(stats.norm.ppf(power))
    normal = ((z + z_power) ** 2 * (discordance - drop * drop) + z * z * margin) / (margin - drop) ** 2
    return max(2, math.ceil(max(normal, z * z * (1 - margin) / margin)))


def power_table(*, level: float = 0.95, power: float = 0.8) -> str:
    """A Markdown table: rows are margins, columns the true discordance, for a candidate with no true drop."""
    head = "| margin | " + " | ".join(f"{d:.1%}" for d in DISCORDANCES) + " |"
    rows = [head, "|---:|" + "---:|" * len(DISCORDANCES)]
    for margin in MARGINS:
        cells = (
            f"{examples_needed(margin=margin, discordance=d, level=level, power=power):,}"
            for d in DISCORDANCES
        )
        rows.append(f"| {margin:.1%} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _around(n: int, p: float) -> Floats:
    """Every count a binomial(n, p) can plausibly take."""
    spread = 9 * math.sqrt(n * p * (1 - p)) + 12
    return np.arange(max(0, math.floor(n * p - spread)), min(n, math.ceil(n * p + spread)) + 1, dtype=float)


def _x_log_p(x: Floats, p: float) -> Floats:
    return x * math.log(p) if p > 0 else np.where(x > 0, -np.inf, 0.0)


def _rounded(n: int) -> int:
    step: int = 10 ** max(0, len(str(n)) - 3)
    return math.ceil(n / step) * step


def main() -> None:
    print(
        "Confidence 0.95, power 0.8, no true drop; columns: share of examples where exactly one is right.\n"
    )
    print(power_table())


if __name__ == "__main__":
    main()
