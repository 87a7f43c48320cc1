"""Does the candidate hold where its parent does: on corrupted copies of the test?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lwplugin.gate.accuracy import Part, check_parts
from lwplugin.gate.evidence import COPIES, Evidence, number
from lwplugin.gate.pair import Pair
from lwplugin.gate.policy import Policy
from lwplugin.gate.verdict import Check


def check_corrupted(evidence: Evidence, policy: Policy) -> list[Check]:
    """One check for each corrupted copy, all judged together; none where the policy has no limit for them."""
    margin = policy.max_drop_corrupted
    if margin is None:
        return []
    found = evidence.corruptions or {}
    rows = [row for row in found.get("rows") or [] if row.get("severity")]
    metric = str(found.get("metric") or "score")
    if not rows:
        message = (
            "No corrupted copies were measured, so nothing bounds max_drop_corrupted: ask for them with "
            "measure.corruptions."
        )
        return [Check(name="corrupted", status="error", metric=metric, limit=-margin, message=message)]
    parts, errors = [], []
    for row in rows:
        copy = f"{row['kind']} {row['severity']}"
        name = f"corrupted:{row['kind']}={row['severity']}:{metric}"
        pair = _pair_of(evidence, row)
        if isinstance(pair, str):
            message = f"{metric} under {copy}: {pair}"
            errors.append(Check(name=name, status="error", metric=metric, limit=-margin, message=message))
            continue
        too_small = (
            f"There are {{n}} examples under {copy}, the gate needs {policy.min_examples}: raise "
            "measure.corruption_examples or add test data."
        )
        parts.append(Part(name, f"{metric} under {copy}", pair, too_small))
    return [*errors, *check_parts(parts, metric, margin, policy, least=policy.min_examples)]


def _pair_of(evidence: Evidence, row: Mapping[str, Any]) -> Pair | str:
    """The scores behind a row of the comparison, or why there are none to judge."""
    prefix = f"{COPIES}{row['kind']}_{row['severity']}_"
    both = [evidence.copies.get(f"{prefix}{side}") for side in ("baseline", "candidate")]
    old, new = (None if scores is None else scores.astype(np.float64) for scores in both)
    if old is None or new is None:
        return "there are no per-example scores: measure with labels."
    if old.ndim != 1 or old.shape != new.shape or not len(old):
        return "parent and candidate were not scored on the same examples: measure again."
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        return "per-example scores are not finite numbers: find where the outputs became NaN."
    for side, scores in (("baseline", old), ("candidate", new)):
        reported, mean = number(row, side), float(scores.mean())
        if reported is None or not abs(reported - mean) <= 1e-5 * max(1.0, abs(mean)):
            return f"the {side}'s scores average {mean:.6g}, the comparison says {reported}: measure again."
    return Pair(old, new)
