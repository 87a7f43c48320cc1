"""Is the candidate still as good as its parent: overall, inside slices, and in its answers?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lwplugin.gate.evidence import Evidence, finite, number
from lwplugin.gate.pair import Pair, is_right_or_wrong
from lwplugin.gate.paired import HALF_COUNT, tango
from lwplugin.gate.policy import Policy
from lwplugin.gate.power import roughly_needed
from lwplugin.gate.statistics import Bounds, clopper_pearson, holm, mean_bounds
from lwplugin.gate.verdict import Check, Status


def _bounds_of(pairs: list[Pair], alphas: list[float], seed: int) -> list[Bounds]:
    """Bounds of every pair at its own level; all proportions in one go."""
    levels = [1.0 - alpha for alpha in alphas]
    if not pairs or not all(pair.binary for pair in pairs):
        return [pair.bounds(level=level, seed=seed) for pair, level in zip(pairs, levels, strict=True)]
    gained, lost, n = np.array([pair.counts() for pair in pairs]).T
    low, high = tango(gained, lost, n, level=levels, correction=HALF_COUNT)
    return [
        Bounds(estimate=float((g - lo) / m), low=float(a), high=float(b), level=level, n=int(m))
        for g, lo, m, a, b, level in zip(gained, lost, n, low, high, levels, strict=True)
    ]


def check_metrics(evidence: Evidence, policy: Policy) -> list[Check]:
    """One check for every metric of ``max_drop``, each followed by its slices."""
    checks: list[Check] = []
    for metric, margin in policy.max_drop.items():
        pair, problem = pair_of(evidence, metric)
        if pair is None:
            checks.append(Check(name=metric, status="error", metric=metric, limit=-margin, message=problem))
            continue
        checks.append(_check_drop(pair, metric, margin, policy))
        for column in policy.slices:
            checks += _check_slices(evidence, pair, metric, column, policy)
    return checks


def pair_of(evidence: Evidence, metric: str) -> tuple[Pair | None, str]:
    """The scores that stand behind ``metric``, or why there are none to judge."""
    old, new = evidence.baseline_scores, evidence.candidate_scores
    if old is None or new is None:
        return (
            None,
            f"There are no per-example scores, so a drop of {metric} has no bound: measure with labels.",
        )
    bad = int((~np.isfinite(old)).sum() + (~np.isfinite(new)).sum())
    if bad:
        return None, f"{bad} per-example scores are not finite numbers: find where the outputs became NaN."
    if not len(new):
        return None, "There are no examples."
    for side, scores, name in ((evidence.baseline, old, "parent"), (evidence.candidate, new, "candidate")):
        reported = number(side, "metrics", metric)
        if reported is None:
            known = sorted((side or {}).get("metrics") or {})
            return None, f"The {name} has no metric '{metric}' (it has: {', '.join(known) or 'none'})."
        mean = float(scores.mean())
        # An error metric is reported positive while its score is its negative: both mean the same drop.
        if not min(abs(reported - mean), abs(reported + mean)) <= 1e-5 * max(1.0, abs(mean)):
            return None, (
                f"The {name}'s {metric} is {reported:.6g} but its per-example scores average {mean:.6g}: "
                f"the gate can only bound a metric that is the mean of per-example scores."
            )
    return Pair(old, new), ""


def _check_drop(pair: Pair, metric: str, margin: float, policy: Policy) -> Check:
    bounds = pair.bounds(level=policy.confidence, seed=policy.seed) if pair.n > 1 else None
    if bounds is None or pair.n < policy.min_examples:
        return bounded(
            metric,
            "inconclusive",
            metric,
            bounds,
            -margin,
            pair.n,
            f"{pair.n} test examples, the gate needs {policy.min_examples}: add test data or lower "
            "gate.min_examples.",
        )
    status, message = _judge_drop(pair, metric, bounds, margin)
    return bounded(metric, status, metric, bounds, -margin, pair.n, message)


def _judge_drop(pair: Pair, what: str, bounds: Bounds, margin: float) -> tuple[Status, str]:
    sure = f"at {bounds.level:.4g} confidence"
    if bounds.low >= -margin:
        worst = f"at most {max(-bounds.low, 0.0):.3g} {sure}, within the margin of {margin:.4g}"
        return "pass", f"The drop of {what} is {worst}."
    if bounds.high < -margin:
        return "fail", (
            f"The drop of {what} is at least {-bounds.high:.3g} {sure}, beyond the margin of {margin:.4g}."
        )
    return "inconclusive", (
        f"The drop of {what} lies between {-bounds.high:.3g} and {-bounds.low:.3g} {sure}; the margin of "
        f"{margin:.4g} is in between. {_way_out(pair, margin, bounds)}"
    )


def _way_out(pair: Pair, margin: float, bounds: Bounds) -> str:
    drop = max(-bounds.estimate, 0.0)
    if not drop < margin:
        return "The estimate itself is beyond the margin: compress less, or widen the margin."
    if pair.binary:
        gained, lost, n = pair.counts()
        needed = roughly_needed(
            margin=margin, discordance=max(gained + lost, 1) / n, drop=drop, level=bounds.level
        )
        return f"Roughly {needed:,} test examples would tell, if the rest is like these {n:,}."
    return "More test examples, or a wider margin, would tell."


def _check_slices(evidence: Evidence, pair: Pair, metric: str, column: str, policy: Policy) -> list[Check]:
    values = evidence.slices.get(column)
    margin = policy.max_slice_drop if policy.max_slice_drop is not None else policy.max_drop[metric]
    if values is None:
        known = ", ".join(sorted(evidence.slices)) or "none"
        message = f"There is no slice column '{column}' in the test split (it has: {known})."
        return [Check(name=f"slice:{column}:{metric}", status="error", metric=metric, message=message)]
    names = sorted(set(values.tolist()))
    parts = [
        Part(
            name=f"slice:{column}={name}:{metric}",
            what=f"{metric} where {column} is {name}",
            pair=pair.take(values == name),
            too_small=f"Slice {column}={name} has {{n}} examples, the gate needs {policy.min_slice}: lower "
            "gate.min_slice or add data.",
        )
        for name in names
    ]
    return check_parts(
        parts, metric, margin, policy, least=policy.min_slice, detect=policy.slice_rule == "detect"
    )


@dataclass(frozen=True)
class Part:
    """One of several comparisons that are judged together."""

    name: str
    """Of its check."""
    what: str
    """Whose drop the message speaks of."""
    pair: Pair
    too_small: str
    """Said where there are too few examples; ``{n}`` is how many there are."""


def check_parts(
    parts: list[Part], metric: str, margin: float, policy: Policy, *, least: int, detect: bool = False
) -> list[Check]:
    """One check for each part, corrected for their number by Holm's method, for passing and for failing.

    ``least``: fewest examples of a part that is judged. ``detect``: what is not shown to be beyond the margin passes.
    """
    tested = [i for i, part in enumerate(parts) if part.pair.n >= max(least, 2)]
    alpha = 1.0 - policy.confidence
    p_values = [parts[i].pair.p_values(margin) for i in tested]
    within, within_levels = holm([p for p, _ in p_values], alpha=alpha)
    beyond, beyond_levels = holm([p for _, p in p_values], alpha=alpha)
    lows = _bounds_of([parts[i].pair for i in tested], within_levels, policy.seed)
    highs = _bounds_of([parts[i].pair for i in tested], beyond_levels, policy.seed)
    position = {i: k for k, i in enumerate(tested)}
    checks = []
    for i, part in enumerate(parts):
        n = part.pair.n
        if i not in position:
            message = part.too_small.format(n=n)
            checks.append(bounded(part.name, "inconclusive", metric, None, -margin, n, message))
            continue
        k = position[i]
        low, high = lows[k], highs[k]
        bounds = Bounds(estimate=low.estimate, low=low.low, high=high.high, level=low.level, n=n)
        status, message = _judge_drop(part.pair, part.what, bounds, margin)
        # For proportions the bound and Holm's decision agree; a bootstrap bound may differ: both must hold.
        if status == "pass" and not within[k]:
            status, message = (
                "inconclusive",
                f"The drop of {part.what} is not shown to be within {margin:.4g}.",
            )
        if status == "fail" and not beyond[k]:
            status, message = (
                "inconclusive",
                f"The drop of {part.what} is not shown to be beyond {margin:.4g}.",
            )
        if status == "inconclusive" and detect:
            status = "pass"
            message = f"No drop of {part.what} beyond {margin:.4g} was detected among {n} examples."
        checks.append(bounded(part.name, status, metric, bounds, -margin, n, message))
    return checks


def check_agreement(evidence: Evidence, policy: Policy) -> list[Check]:
    """How often candidate and parent answer alike; required where the policy has ``min_agreement``."""
    least = policy.min_agreement
    required = least is not None
    values = evidence.agreement
    if values is None or not len(values) or not np.isfinite(values).all():
        if not required:
            return []
        message = (
            "Agreement with the parent was not measured, or is not a number: measure again with a parent."
        )
        return [Check(name="agreement", status="error", metric="agreement", limit=least, message=message)]
    n = len(values)
    if n < 2:
        bounds = None
    elif is_right_or_wrong(values):
        bounds = clopper_pearson(int(values.sum()), n, level=policy.confidence)
    else:
        # Zero where the answers are one: agreement falls short of 1 as a score of its parent's.
        short = mean_bounds(values - 1.0, level=policy.confidence, seed=policy.seed, reach=1.0)
        bounds = replace(short, estimate=short.estimate + 1, low=short.low + 1, high=min(short.high + 1, 1.0))
    if least is None:
        message = f"Candidate and parent give the same answer on {values.mean():.2%} of {n:,} examples."
        return [bounded("agreement", "pass", "agreement", bounds, None, n, message, required=False)]
    status: Status
    if bounds is None or n < policy.min_examples:
        status = "inconclusive"
        message = f"{n} test examples, the gate needs {policy.min_examples}: add test data."
    elif bounds.low >= least:
        status, message = "pass", f"Agreement with the parent is at least {bounds.low:.4g}."
    elif bounds.high < least:
        status, message = (
            "fail",
            f"Agreement with the parent is at most {bounds.high:.4g}, below {least:.4g}.",
        )
    else:
        status = "inconclusive"
        message = (
            f"Agreement with the parent lies between {bounds.low:.4g} and {bounds.high:.4g}; "
            f"{least:.4g} is in between: add test data."
        )
    return [bounded("agreement", status, "agreement", bounds, least, n, message)]


def bounded(
    name: str,
    status: Status,
    metric: str,
    bounds: Bounds | None,
    limit: float | None,
    n: int,
    message: str,
    *,
    required: bool = True,
) -> Check:
    """A check with the numbers of its bounds."""
    return Check(
        name=name,
        status=status,
        metric=metric,
        estimate=None if bounds is None else finite(bounds.estimate),
        low=None if bounds is None else finite(bounds.low),
        high=None if bounds is None else finite(bounds.high),
        limit=limit,
        n=n,
        message=message,
        required=required,
    )
