"""Is the candidate small and fast enough for its target, and faster than its parent?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lwplugin.gate.evidence import Evidence, finite, number
from lwplugin.gate.policy import Budget, Policy
from lwplugin.gate.verdict import Check, Status

# Metrics with an interval: where the measurement holds (estimate, low, high).
BOUNDED: dict[str, tuple[str, str, str]] = {
    "p50_ms": ("p50_ms", "p50_low_ms", "p50_high_ms"),
    "p95_ms": ("p95_ms", "p95_low_ms", "p95_high_ms"),
}
DISTURBED_BY_NOISE = {"p50_ms", "p95_ms", "load_ms"}


def check_budget(evidence: Evidence, budget: Budget, cost: Mapping[str, float] | None = None) -> list[Check]:
    """One check for every limit given. ``cost`` holds what no runtime measures: macs and params."""
    return [_check_limit(evidence, metric, limit, cost or {}) for metric, limit in budget.limits().items()]


def _check_limit(evidence: Evidence, metric: str, limit: float, cost: Mapping[str, float]) -> Check:
    estimate, low, high, n = _value_of(evidence.candidate, metric, cost)

    def answer(status: Status, message: str) -> Check:
        return Check(
            name=f"budget:{metric}",
            status=status,
            metric=metric,
            estimate=finite(estimate),
            low=finite(low),
            high=finite(high),
            limit=limit,
            n=n,
            message=message,
        )

    if estimate is None:
        return answer(*_why_missing(evidence.candidate, metric))
    if not math.isfinite(estimate):
        return answer("error", f"{metric} is not a finite number: measure again.")
    if estimate <= 0:
        return answer("error", f"{metric} is {_show(estimate)}, which no model is: it was not counted.")
    if metric in DISTURBED_BY_NOISE and evidence.noisy:
        return answer("inconclusive", f"{metric} was measured on a noisy machine{_because(evidence)}.")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return answer("inconclusive", f"{metric} has no confidence bounds: measure more samples.")
    if high <= limit:
        at_most = "" if high == estimate else " at most"
        return answer("pass", f"{metric} is{at_most} {_show(high)}, within {_show(limit)}.")
    if low > limit:
        at_least = "" if low == estimate else " at least"
        return answer("fail", f"{metric} is{at_least} {_show(low)}, over the budget of {_show(limit)}.")
    if math.isinf(high):
        return answer("inconclusive", f"{metric} has no upper bound: measure more samples.")
    return answer(
        "inconclusive",
        f"{metric} lies between {_show(low)} and {_show(high)}; the budget of {_show(limit)} is in between: "
        "measure longer, or on a quieter machine.",
    )


def _value_of(
    candidate: Mapping[str, Any] | None, metric: str, cost: Mapping[str, float]
) -> tuple[float | None, float | None, float | None, int | None]:
    if metric in BOUNDED:
        value, low, high = (number(candidate, "latency", name) for name in BOUNDED[metric])
        n = number(candidate, "latency", "n")
        return value, low, high, None if n is None else int(n)
    if metric == "energy_j":
        exact = number(candidate, "energy", "joules_per_inference")
    elif metric in cost:
        exact = float(cost[metric])
    else:
        exact = number(candidate, metric)
    return exact, exact, exact, None


def _why_missing(candidate: Mapping[str, Any] | None, metric: str) -> tuple[Status, str]:
    energy = (candidate or {}).get("energy")
    if metric == "energy_j" and isinstance(energy, Mapping) and energy.get("state"):
        reason = energy.get("reason") or energy["state"]
        return "inconclusive", f"Energy cannot be checked here: {str(reason).rstrip('.')}."
    if metric in {"macs", "params"}:
        return "error", f"The budget limits {metric}, but the model's cost was not given to the gate."
    return "error", f"The budget limits {metric}, but it was not measured."


def check_speed(evidence: Evidence, policy: Policy) -> list[Check]:
    """Whether the candidate is shown to be faster than its parent; nothing where the policy allows slower."""
    if policy.no_faster == "allow":
        return []
    required = policy.no_faster == "reject"
    low, high = number(evidence.speedup, "low"), number(evidence.speedup, "high")
    estimate = next(
        (v for key in ("estimate", "value", "median") if (v := number(evidence.speedup, key)) is not None),
        None,
    )
    least = policy.min_speedup
    n = number(evidence.candidate, "latency", "n")

    def answer(status: Status, message: str) -> list[Check]:
        return [
            Check(
                name="speedup",
                status=status,
                metric="speedup",
                estimate=finite(estimate),
                low=finite(low),
                high=finite(high),
                limit=least,
                n=None if n is None else int(n),
                message=message,
                required=required,
            )
        ]

    if evidence.noisy:
        return answer("inconclusive", f"Speed was measured on a noisy machine{_because(evidence)}.")
    if low is None or high is None:
        return answer("error", "The speed-up over the parent was not measured: measure both in one run.")
    if math.isnan(low) or math.isnan(high):
        return answer("error", "The speed-up over the parent is not a number: measure again.")
    if low > least:
        return answer("pass", f"The candidate is at least {low:.3g} times as fast as its parent.")
    if high <= least:
        way_out = (
            "" if least > 1 or not required else "; where size is what counts, set gate.no_faster to warn"
        )
        return answer(
            "fail",
            f"The candidate runs at no more than {high:.3g} times its parent's speed, and more than {least:.3g} is "
            f"asked{way_out}.",
        )
    return answer(
        "inconclusive",
        f"The candidate is between {low:.3g} and {high:.3g} times as fast as its parent; more than "
        f"{least:.3g} is not shown: measure longer{', or set gate.no_faster to warn' if required else ''}.",
    )


def check_parity(evidence: Evidence) -> list[Check]:
    """An error where the exported file's outputs are not numbers; nothing otherwise."""
    value = number(evidence.candidate, "parity", "max_abs_error")
    if value is None or math.isfinite(value):
        return []
    message = (
        "The file's outputs in its runtime are not finite numbers: the export or its kernels are broken."
    )
    return [Check(name="parity", status="error", metric="max_abs_error", message=message)]


def _because(evidence: Evidence) -> str:
    return f" ({evidence.noise_reason.rstrip('.')})" if evidence.noise_reason else ""


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
