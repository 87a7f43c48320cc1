"""Which examples changed sides between parent and candidate."""

from __future__ import annotations

import numpy as np

from lwplugin.gate.evidence import Evidence, Floats
from lwplugin.gate.pair import is_right_or_wrong
from lwplugin.gate.paired import mcnemar_exact
from lwplugin.gate.verdict import Flips

MOST_IDS = 200


def find_flips(evidence: Evidence) -> Flips | None:
    """Counts both ways and the ids, largest change first; None where there is nothing per example."""
    if evidence.n == 0:
        return None
    ids = np.arange(evidence.n) if evidence.ids is None else evidence.ids
    agreement = evidence.agreement
    changed = None if agreement is None else agreement < 1.0
    difference: Floats | None = None
    p_value = None
    if evidence.baseline_scores is not None and evidence.candidate_scores is not None:
        difference = evidence.candidate_scores - evidence.baseline_scores
        if is_right_or_wrong(evidence.baseline_scores, evidence.candidate_scores):
            p_value = mcnemar_exact(int((difference > 0).sum()), int((difference < 0).sum()))
    none = np.zeros(evidence.n)
    drop = none if difference is None else -difference
    return Flips(
        n=evidence.n,
        same_answer=None if agreement is None else _finite_mean(agreement),
        gained=int((drop < 0).sum()),
        lost=int((drop > 0).sum()),
        changed=None if changed is None else int(changed.sum()),
        gained_ids=_largest(ids, -drop),
        lost_ids=_largest(ids, drop),
        changed_ids=() if agreement is None else _largest(ids, 1.0 - agreement),
        mcnemar_p=p_value,
    )


def _largest(ids: np.ndarray[tuple[int], np.dtype[np.int64]], amount: Floats) -> tuple[int, ...]:
    """The ids whose amount is above 0, largest first, ties by id, at most MOST_IDS."""
    chosen = np.flatnonzero(amount > 0)
    order = np.lexsort((ids[chosen], -amount[chosen]))
    return tuple(int(ids[i]) for i in chosen[order][:MOST_IDS])


def _finite_mean(values: Floats) -> float | None:
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None
