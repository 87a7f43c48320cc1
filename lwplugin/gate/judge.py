"""The gate: evidence in, verdict out. What cannot be shown does not pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.gate.accuracy import check_agreement, check_metrics
from lwplugin.gate.corrupted import check_corrupted
from lwplugin.gate.cost import check_budget, check_parity, check_speed
from lwplugin.gate.evidence import Arrays, Evidence, read_evidence
from lwplugin.gate.flips import find_flips
from lwplugin.gate.levels import check_levels
from lwplugin.gate.policy import Budget, Policy
from lwplugin.gate.verdict import Check, Verdict
from lwplugin.methods import checked


def gate(
    comparison: object,
    policy: Policy | Mapping[str, Any],
    *,
    budget: Budget | Mapping[str, Any] | None = None,
    scores: Arrays | Path | str | None = None,
    cost: Mapping[str, float] | None = None,
    candidate_digest: str | None = None,
    baseline_digest: str | None = None,
) -> Verdict:
    """Decide whether a candidate is good enough to take its parent's place.

    ``comparison`` is what ``lwplugin.measure(candidate, data, baseline=parent)`` returned, its JSON form, or
    the directory it was saved in; ``scores`` its per-example arrays where the comparison does not carry them.
    ``cost`` gives macs and params where the budget limits them. The digests default to those of the measured
    files. The same input gives the same verdict, digest included.

    Raises RecipeError for a policy or budget that is none, GateError where the comparison cannot be read at all;
    everything else becomes a check.
    """
    policy = policy if isinstance(policy, Policy) else checked(Policy, policy, of="the gate")
    budget = budget if isinstance(budget, Budget) else checked(Budget, budget or {}, of="the budget")
    evidence = read_evidence(comparison, scores)
    candidate_digest = candidate_digest or _digest_of(evidence.candidate)
    baseline_digest = baseline_digest or _digest_of(evidence.baseline)
    checks = [
        *_check_identity(evidence, policy, candidate_digest, baseline_digest),
        *check_parity(evidence),
        *check_metrics(evidence, policy),
        *check_levels(evidence, policy),
        *check_agreement(evidence, policy),
        *check_corrupted(evidence, policy),
        *check_budget(evidence, budget, cost),
        *check_speed(evidence, policy),
    ]
    return Verdict.of(
        checks,
        flips=find_flips(evidence),
        candidate_digest=candidate_digest,
        baseline_digest=baseline_digest,
        policy=policy,
        budget=budget,
    )


def _check_identity(
    evidence: Evidence, policy: Policy, candidate_digest: str | None, baseline_digest: str | None
) -> list[Check]:
    """What must be there before any number counts: both sides, their digests, and a threshold."""
    problems = []
    if evidence.candidate is None:
        problems.append(("candidate", "There is no candidate in the comparison."))
    elif candidate_digest is None:
        problems.append(("candidate", "The candidate has no digest, so the verdict could not name it."))
    if evidence.baseline is None:
        problems.append(
            ("baseline", "There is no parent in the comparison: measure with baseline= the exported parent.")
        )
    elif baseline_digest is None:
        problems.append(("baseline", "The parent has no digest, so the verdict could not name it."))
    if not policy.has_threshold:
        message = "The policy has no threshold: give gate.max_drop, gate.must_reach or gate.min_agreement."
        problems.append(("threshold", message))
    return [Check(name=name, status="error", metric=name, message=message) for name, message in problems]


def _digest_of(side: Mapping[str, Any] | None) -> str | None:
    digest = (side or {}).get("file_digest")
    return str(digest) if digest else None
