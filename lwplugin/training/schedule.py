"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

ONECYCLE_START = 1 / 25
ONECYCLE_PEAK = 0.3


def factor(schedule: str, step: int, total: int, warmup_fraction: float = 0.0) -> float:
    """Multiplier of the peak learning rate for optimizer step ``step`` (from 0) of ``total``.

    >>> [round(factor("linear", step, 4), 2) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    warmup = round(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    if schedule == "onecycle":
        if done < ONECYCLE_PEAK:
            rise = 0.5 * (1 - math.cos(math.pi * done / ONECYCLE_PEAK))
            return ONECYCLE_START + (1 - ONECYCLE_START) * rise
        return 0.5 * (1 + math.cos(math.pi * (done - ONECYCLE_PEAK) / (1 - ONECYCLE_PEAK)))
    return 1.0
