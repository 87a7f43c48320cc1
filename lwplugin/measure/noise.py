"""From interleaved rounds to a speed-up with an honest interval, and whether the machine was too noisy.

Every file is timed in two processes. Where memory happens to lie shifts a process by a per cent or two for
its whole life, which no number of runs within it can show (Kalibera and Jones, "Rigorous benchmarking in
reasonable time", 2013); so the interval holds the spread between processes as well as that between rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwplugin.measure.intervals import Floats, ranks, student
from lwplugin.measure.result import Interval, Noise

# What two processes of one file differ by (standard deviation of the log) and how many processes this
# knowledge is worth beside the ones at hand; see the README for the runs it comes from.
PROCESS_SD = 0.01
PROCESS_WEIGHT = 4

MAX_SAME_FILE = 0.10
MAX_HALVES = 0.10
MAX_DRIFT = 0.5
MAX_DISTURBED = 0.5
MAX_HALF_WIDTH = 0.15
MAX_CLOCK_FALL = 0.15
MAX_THROTTLED_DRIFT = 0.10
_THROTTLED_NOW = 0b1111  # under-voltage, capped, throttled, soft temperature limit


@dataclass(frozen=True)
class Speed:
    """``speedup`` is baseline time over candidate time (1.0 where there is one model only)."""

    speedup: Interval
    noise: Noise
    half_width: float
    """The part of the interval (as a share) that more rounds would narrow."""


def judge(
    baseline: Sequence[Sequence[Floats]],
    candidate: Sequence[Sequence[Floats]],
    *,
    disturbed: float,
    off_cpu: float,
    load: float,
    confidence: float = 0.95,
) -> Speed:
    """``baseline[p][r]`` are the durations of process p in round r; candidate likewise, or empty.

    The estimate is the median over rounds of the paired log ratio of block medians: both models of a pair
    met the same moment of the machine, so bursts that last longer than a round cancel.
    """
    slow, fast = _log_medians(baseline), _log_medians(candidate)
    paired = slow.mean(0) - fast.mean(0) if len(fast) else np.zeros(slow.shape[1])
    estimate = float(np.median(paired))
    low, high = _median_bounds(paired, confidence)
    own_low, own_high = (low, high) if len(fast) else _median_bounds(slow.mean(0), confidence)
    spread = _process_half_width([slow, fast] if len(fast) else [slow], confidence)
    low = estimate - math.hypot(estimate - low, spread)
    high = estimate + math.hypot(high - estimate, spread)
    noise = _noise(slow, fast, disturbed, off_cpu, load)
    if len(fast) and 0.5 * (high - low) > MAX_HALF_WIDTH:
        known = "not bounded" if math.isinf(high - low) else f"known only to ±{50 * (high - low):.0f} %"
        reasons = [*noise.reasons, f"the speed-up is {known} after {paired.size} rounds"]
        noise = noise.model_copy(update={"reasons": reasons})
    speedup = Interval(
        estimate=math.exp(estimate),
        low=math.exp(low) if math.isfinite(low) else None,
        high=math.exp(high) if math.isfinite(high) else None,
        confidence=confidence,
    )
    return Speed(speedup=speedup, noise=noise, half_width=0.5 * (own_high - own_low))


def _log_medians(processes: Sequence[Sequence[Floats]]) -> Floats:
    """[process, round]"""
    return np.array([[math.log(float(np.median(block))) for block in rounds] for rounds in processes])


def _median_bounds(values: Floats, confidence: float) -> tuple[float, float]:
    low_rank, high_rank = ranks(len(values), 0.5, confidence)
    ordered = np.sort(values)
    return (
        -math.inf if low_rank is None else float(ordered[low_rank]),
        math.inf if high_rank is None else float(ordered[high_rank]),
    )


def _process_half_width(models: Sequence[Floats], confidence: float) -> float:
    """Half-width of the log ratio from the spread between processes: a t interval whose variance is
    pooled with what is known from other runs (moderated, Smyth 2004)."""
    squares, freedom, scale = 0.0, 0, 0.0
    for model in models:
        levels = np.median(model - model.mean(0), axis=1)
        squares += float(((levels - levels.mean()) ** 2).sum())
        freedom += len(levels) - 1
        scale += 1 / len(levels)
    variance = (PROCESS_WEIGHT * PROCESS_SD**2 + squares) / (PROCESS_WEIGHT + freedom)
    return student(PROCESS_WEIGHT + freedom, confidence) * math.sqrt(variance * scale)


def _noise(slow: Floats, fast: Floats, disturbed: float, off_cpu: float, load: float) -> Noise:
    rounds = slow.shape[1]
    replicated = [model for model in (slow, fast) if len(model) > 1]
    same_file = max((_apart(np.median(model[0] - model[1])) for model in replicated), default=None)
    subject = slow.mean(0) - fast.mean(0) if len(fast) else slow.mean(0)
    half, third = rounds // 2, max(1, rounds // 3)
    halves = _apart(np.median(subject[:half]) - np.median(subject[half:])) if half else 0.0
    level = slow.mean(0)
    drift = _share(np.median(level[-third:]) - np.median(level[:third]))
    reasons = []
    if same_file is not None and same_file > MAX_SAME_FILE:
        reasons.append(f"two processes running the same file differ by {100 * same_file:.0f} %")
    if halves > MAX_HALVES:
        reasons.append(f"the first and the second half of the run differ by {100 * halves:.0f} %")
    if abs(drift) > MAX_DRIFT:
        reasons.append(f"the baseline drifted by {100 * drift:+.0f} % during the run")
    if disturbed > MAX_DISTURBED:
        reasons.append(f"other work interrupted {100 * disturbed:.0f} % of the runs")
    return Noise(
        same_file=same_file,
        halves=halves,
        drift=drift,
        disturbed=disturbed,
        off_cpu=off_cpu,
        load_after=load,
        rounds=rounds,
        reasons=reasons,
    )


def throttled(noise: Noise, before: Mapping[str, float | None], after: Mapping[str, float | None]) -> Noise:
    """With what slowed the CPU down between two answers of ``machine.throttling``; a reason against the
    timing where the files also became slower."""
    found = []
    for name, what in (("heat", "throttled for its heat"), ("quota", "stopped by its group's CPU quota")):
        times = (after.get(name) or 0) - (before.get(name) or 0)
        if times > 0:
            found.append(f"the CPU was {what} {times:.0f} times")
    if int(after.get("firmware") or 0) & _THROTTLED_NOW:
        found.append("the board throttles itself (heat or power)")
    first, last = before.get("mhz"), after.get("mhz")
    if first and last and last < (1 - MAX_CLOCK_FALL) * first:
        found.append(f"the clock fell from {first:.0f} to {last:.0f} MHz")
    slower = found and noise.drift > MAX_THROTTLED_DRIFT
    because = f"{' and '.join(found)}, and the runs became {100 * noise.drift:.0f} % slower"
    return noise.model_copy(
        update={"throttled": found, "reasons": [*noise.reasons, because] if slower else noise.reasons}
    )


def _share(log_difference: float) -> float:
    return math.expm1(float(log_difference))


def _apart(log_difference: float) -> float:
    """By what share the larger exceeds the smaller."""
    return math.expm1(abs(float(log_difference)))
