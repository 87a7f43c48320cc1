"""The gate on corrupted copies of the test: fail closed, paired, corrected for their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lwplugin.gate import Policy, Verdict, gate

Case = tuple[dict[str, Any], dict[str, np.ndarray]]
Make = Callable[..., Case]
POLICY = Policy(max_drop={"accuracy": 0.01}, max_drop_corrupted=0.05)


def with_copies(case: Case, lost: dict[str, int], n: int = 1000) -> Case:
    """``lost`` examples under noise of each severity, 80 % right in the parent."""
    comparison, scores = case
    rows = [{"kind": "clean", "severity": 0, "n": n, "baseline": 0.9, "candidate": 0.9}]
    for copy, count in lost.items():
        kind, severity = copy.split("_")
        before = (np.arange(n) < 0.8 * n).astype(float)
        after = before.copy()
        after[:count] = 0.0
        scores |= {f"corrupted_{copy}_baseline": before, f"corrupted_{copy}_candidate": after}
        rows.append({"kind": kind, "severity": int(severity), "n": n}
                    | {"baseline": float(before.mean()), "candidate": float(after.mean())})  # fmt: skip
    comparison["corruptions"] = {"metric": "accuracy", "rows": rows}
    return comparison, scores


def judged(case: Case, policy: Policy = POLICY) -> Verdict:
    return gate(case[0], policy, scores=case[1])


def statuses(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.status for check in verdict.checks if check.name.startswith("corrupted")}


def test_each_copy_is_judged_and_the_worst_decides(make: Make) -> None:
    case = with_copies(make(), {"noise_1": 5, "noise_3": 45, "noise_5": 120})
    verdict = judged(case)
    assert statuses(verdict) == {
        "corrupted:noise=1:accuracy": "pass",
        "corrupted:noise=3:accuracy": "inconclusive",
        "corrupted:noise=5:accuracy": "fail",
    }
    assert verdict.status == "fail"
    assert "accuracy under noise 5" in verdict.reason
    worst = next(check for check in verdict.checks if check.status == "fail")
    assert worst.low < worst.estimate == -0.12 < worst.high < worst.limit == -0.05


def test_without_a_limit_the_copies_are_not_judged(make: Make) -> None:
    verdict = judged(with_copies(make(), {"noise_5": 500}), Policy(max_drop={"accuracy": 0.01}))
    assert verdict.status == "pass"
    assert statuses(verdict) == {}


def test_more_copies_ask_for_more_evidence(make: Make) -> None:
    # A drop that is within the margin on its own is not shown to be where it is one of fifteen.
    alone = judged(with_copies(make(), {"noise_1": 36}))
    among = judged(with_copies(make(), {f"{kind}_{k}": 36 for kind in "abc" for k in range(1, 6)}))
    assert set(statuses(alone).values()) == {"pass"}
    assert set(statuses(among).values()) == {"inconclusive"}


def test_what_was_not_measured_never_passes(make: Make) -> None:
    never = judged(make())
    assert (never.status, statuses(never)) == ("error", {"corrupted": "error"})
    assert "measure.corruptions" in never.reason

    unlabelled = with_copies(make(), {"noise_1": 0})
    for side in ("baseline", "candidate"):
        del unlabelled[1][f"corrupted_noise_1_{side}"]
    assert "measure with labels" in judged(unlabelled).reason

    other = with_copies(make(), {"noise_1": 200})
    other[1]["corrupted_noise_1_candidate"] = other[1]["corrupted_noise_1_baseline"]
    verdict = judged(other)
    assert verdict.status == "error"
    assert "measure again" in verdict.reason

    small = judged(with_copies(make(), {"noise_1": 0}, n=50))
    assert statuses(small) == {"corrupted:noise=1:accuracy": "inconclusive"}
    assert "50 examples under noise 1, the gate needs 100" in small.reason
