"""Does the candidate reach what is asked of it, whatever its parent does?"""

from __future__ import annotations

import numpy as np

from lwplugin.gate.accuracy import bounded, pair_of
from lwplugin.gate.evidence import Evidence, Floats, number
from lwplugin.gate.pair import is_right_or_wrong
from lwplugin.gate.policy import Policy
from lwplugin.gate.statistics import Bounds, clopper_pearson, mean_bounds
from lwplugin.gate.verdict import Check, Status


def check_levels(evidence: Evidence, policy: Policy) -> list[Check]:
    """One check, `reach:<metric>`, for every metric of ``must_reach``, its numbers in the metric's own units."""
    checks = []
    for metric, level in policy.must_reach.items():
        name = f"reach:{metric}"
        pair, problem = pair_of(evidence, metric)
        if pair is None:
            checks.append(Check(name=name, status="error", metric=metric, limit=level, message=problem))
            continue
        if pair.n < max(policy.min_examples, 2):
            message = f"{pair.n} test examples, the gate needs {policy.min_examples}: add test data."
            checks.append(bounded(name, "inconclusive", metric, None, level, pair.n, message))
            continue
        # An error metric is reported positive while its score is its negative.
        reported = number(evidence.candidate, "metrics", metric)
        error = reported is not None and reported > 0 > pair.candidate.mean()
        found = _bounds(pair.candidate, policy)
        if error:
            found = Bounds(-found.estimate, -found.high, -found.low, found.level, found.n)
        status, message = _judged(metric, found, level, error=error)
        checks.append(bounded(name, status, metric, found, level, pair.n, message))
    return checks


def _bounds(scores: Floats, policy: Policy) -> Bounds:
    """Of the mean score."""
    if is_right_or_wrong(scores):
        return clopper_pearson(int(scores.sum()), len(scores), level=policy.confidence)
    reach = float(np.abs(scores).max())
    return mean_bounds(scores, level=policy.confidence, seed=policy.seed, reach=reach)


def _judged(metric: str, found: Bounds, level: float, *, error: bool) -> tuple[Status, str]:
    sure = f"at {found.level:.4g} confidence"
    limit = f"{'at most' if error else 'at least'} {level:.4g}"
    if (found.high <= level) if error else (found.low >= level):
        worst = f"at most {found.high:.4g}" if error else f"at least {found.low:.4g}"
        return "pass", f"The candidate's {metric} is {worst} {sure}; {limit} is asked."
    if (found.low > level) if error else (found.high < level):
        best = f"at least {found.low:.4g}" if error else f"at most {found.high:.4g}"
        return "fail", f"The candidate's {metric} is {best} {sure}; {limit} is asked."
    between = f"between {found.low:.4g} and {found.high:.4g} {sure}"
    return "inconclusive", f"The candidate's {metric} lies {between}; {limit} is asked: add test data."
