from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import ValidationError

from lwplugin.errors import GateError
from lwplugin.gate import Budget, Policy, Verdict, gate, junit_xml, load_verdict

Make = Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]
POLICY = Policy(max_drop={"accuracy": 0.01})


def judge(
    case: tuple[dict[str, Any], dict[str, np.ndarray]], policy: Policy = POLICY, **options: Any
) -> Verdict:
    return gate(case[0], policy, scores=case[1], **options)


def check_of(verdict: Verdict, name: str) -> Any:
    return next(check for check in verdict.checks if check.name == name)


def test_a_good_candidate_passes_with_its_numbers(make: Make) -> None:
    verdict = judge(make(n=2000, lost=4, gained=3))
    assert (verdict.status, verdict.exit_code, verdict.passed) == ("pass", 0, True)
    check = check_of(verdict, "accuracy")
    assert check.low < check.estimate < check.high
    assert check.estimate == pytest.approx(-0.0005)
    assert (check.limit, check.n) == (-0.01, 2000)
    assert check.low >= -0.01


def test_the_bound_decides_not_the_point(make: Make) -> None:
    # 0.8 % lost on 500 examples: the point is within 1 %, the bound is not.
    verdict = judge(make(n=500, lost=4, gained=0))
    assert verdict.status == "inconclusive"
    assert verdict.exit_code == 3
    assert "test examples would tell" in verdict.reason


def test_a_clear_drop_fails_with_its_reason(make: Make) -> None:
    verdict = judge(make(n=2000, lost=80, gained=2))
    assert (verdict.status, verdict.exit_code) == ("fail", 1)
    assert "beyond the margin of 0.01" in verdict.reason


def test_a_slower_candidate_is_rejected_unless_the_policy_says_otherwise(make: Make) -> None:
    case = make()
    case[0]["speedup"] = {"estimate": 0.7, "low": 0.68, "high": 0.72}
    assert judge(case).status == "fail"
    warned = judge(case, POLICY.model_copy(update={"no_faster": "warn"}))
    assert warned.status == "pass"
    assert warned.reason.endswith("holds. Failed and not required: speedup.")
    assert (check_of(warned, "speedup").status, check_of(warned, "speedup").required) == ("fail", False)
    allowed = judge(case, POLICY.model_copy(update={"no_faster": "allow"}))
    assert "speedup" not in [check.name for check in allowed.checks]
    case[0]["speedup"] = {"estimate": 1.01, "low": 0.97, "high": 1.05}
    assert judge(case).status == "inconclusive"


@pytest.mark.parametrize(
    ("limit", "status"),
    [(8.1, "pass"), (7.5, "inconclusive"), (6.9, "fail")],
    ids=["over", "between", "under"],
)
def test_latency_budgets_are_judged_on_the_bounds(make: Make, limit: float, status: str) -> None:
    # p95 is 7.5 with bounds 7.0 and 8.0.
    verdict = judge(make(), budget=Budget(p95_ms=limit))
    assert check_of(verdict, "budget:p95_ms").status == status
    assert verdict.status == status


def test_an_unbounded_latency_never_passes(make: Make) -> None:
    case = make()
    case[0]["candidate"]["latency"]["p95_high_ms"] = "Infinity"
    assert judge(case, budget={"p95_ms": 100}).status == "inconclusive"
    assert judge(case, budget={"p95_ms": 6}).status == "fail"


def test_sizes_are_judged_exactly(make: Make) -> None:
    assert judge(make(), budget={"size_bytes": 300}).status == "pass"
    assert judge(make(), budget={"size_bytes": 299}).status == "fail"


def test_a_noisy_machine_is_inconclusive_for_time_and_only_for_time(make: Make) -> None:
    case = make()
    case[0].update({"noisy": True, "noise_reason": "two processes of one file differ by 30 %"})
    verdict = judge(case, budget={"p50_ms": 100, "size_bytes": 1000})
    assert verdict.status == "inconclusive"
    assert check_of(verdict, "budget:p50_ms").status == "inconclusive"
    assert check_of(verdict, "budget:size_bytes").status == "pass"
    assert "differ by 30 %" in check_of(verdict, "speedup").message


def test_energy_that_cannot_be_measured_is_never_a_pass(make: Make) -> None:
    verdict = judge(make(), budget={"energy_j": 1.0})
    assert verdict.status == "inconclusive"
    assert "no energy counter" in verdict.reason


def test_macs_come_from_the_cost(make: Make) -> None:
    budget = Budget(macs=1000, params=50)
    assert judge(make(), budget=budget).status == "error"
    assert judge(make(), budget=budget, cost={"macs": 900, "params": 50}).status == "pass"
    assert judge(make(), budget=budget, cost={"macs": 1100, "params": 50}).status == "fail"
    assert judge(make(), budget=budget, cost={"macs": 900, "params": 0}).status == "error"


def without(*path: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def remove(comparison: dict[str, Any], scores: dict[str, Any]) -> None:
        content: Any = scores if path[0] == "scores" else comparison
        for key in path[1:-1] if path[0] == "scores" else path[:-1]:
            content = content[key]
        content.pop(path[-1])

    return remove


def set_score(name: str, value: float) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(comparison: dict[str, Any], scores: dict[str, Any]) -> None:
        scores[name][0] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        without("baseline"),
        without("candidate"),
        without("baseline", "file_digest"),
        without("candidate", "metrics", "accuracy"),
        without("baseline", "metrics", "accuracy"),
        without("speedup"),
        without("scores", "candidate_scores"),
        without("scores", "baseline_scores"),
        set_score("candidate_scores", float("nan")),
        set_score("baseline_scores", float("inf")),
        lambda c, s: c["candidate"]["metrics"].update(accuracy=0.99),
        lambda c, s: c["candidate"]["metrics"].update(accuracy=float("nan")),
        lambda c, s: c["candidate"]["parity"].update(max_abs_error=float("nan")),
        lambda c, s: c["speedup"].update(low=float("nan")),
        lambda c, s: c.update(baseline=None),
        lambda c, s: s.clear(),
    ],
)
def test_what_is_missing_or_not_a_number_is_an_error_never_a_pass(make: Make, damage: Any) -> None:
    case = make()
    damage(*case)
    verdict = judge(case)
    assert (verdict.status, verdict.exit_code) == ("error", 2)


@pytest.mark.parametrize("policy", [Policy(), Policy(max_drop={"f1": 0.1})])
def test_no_threshold_or_an_unknown_metric_is_an_error(make: Make, policy: Policy) -> None:
    assert judge(make(), policy).status == "error"


def test_too_few_examples_are_inconclusive(make: Make) -> None:
    verdict = judge(make(n=99, lost=0, gained=0), Policy(max_drop={"accuracy": 0.5}))
    assert verdict.status == "inconclusive"
    assert "99 test examples, the gate needs 100" in verdict.reason


def test_a_slice_that_lost_fails_though_the_whole_holds(make: Make) -> None:
    comparison, scores = make(n=4000, lost=0, gained=0)
    scores["slice_label"] = np.where(np.arange(4000) >= 3800, "night", "day")
    scores["candidate_scores"][-30:] = 0.0
    comparison["candidate"]["metrics"]["accuracy"] = float(scores["candidate_scores"].mean())
    policy = Policy(max_drop={"accuracy": 0.02}, slices=("label",), max_slice_drop=0.05)
    verdict = judge((comparison, scores), policy)
    assert check_of(verdict, "accuracy").status == "pass"
    assert check_of(verdict, "slice:label=day:accuracy").status == "pass"
    assert check_of(verdict, "slice:label=night:accuracy").status == "fail"
    assert verdict.status == "fail"
    assert "label is night" in verdict.reason


def test_small_slices_are_named_with_the_way_out(make: Make) -> None:
    comparison, scores = make(n=2000, lost=0, gained=0)
    scores["slice_label"] = np.where(np.arange(2000) < 20, "rare", "common")
    verdict = judge((comparison, scores), Policy(max_drop={"accuracy": 0.01}, slices="label"))
    assert verdict.status == "inconclusive"
    assert "rare has 20 examples, the gate needs 30" in verdict.reason


def test_detecting_slices_asks_for_harm_and_proving_for_its_absence(make: Make) -> None:
    case = make(n=400, lost=0, gained=0)
    prove = Policy(max_drop={"accuracy": 0.01}, slices=("label",))
    assert judge(case, prove).status == "inconclusive"
    assert judge(case, prove.model_copy(update={"slice_rule": "detect"})).status == "pass"


def test_holm_keeps_false_failures_of_many_slices_rare() -> None:
    random = np.random.default_rng(11)
    failures = 0
    for _ in range(120):
        n = 4000
        baseline, candidate = np.ones(n), (random.random(n) >= 0.05).astype(float)
        comparison = {
            "baseline": {"file_digest": "a", "metrics": {"accuracy": 1.0}},
            "candidate": {"file_digest": "b", "metrics": {"accuracy": float(candidate.mean())}},
        }
        scores = {"baseline_scores": baseline, "candidate_scores": candidate, "slice_s": np.arange(n) % 40}
        policy = Policy(max_drop={"accuracy": 0.2}, max_slice_drop=0.05, slices=("s",), no_faster="allow")
        failures += gate(comparison, policy, scores=scores).status == "fail"
    assert failures / 120 <= 0.05 + 2 * (0.05 * 0.95 / 120) ** 0.5


def test_an_unknown_slice_names_those_there_are(make: Make) -> None:
    verdict = judge(make(), Policy(max_drop={"accuracy": 0.01}, slices=("hour",)))
    assert verdict.status == "error"
    assert "it has: label" in verdict.reason


def test_agreement_without_labels(make: Make) -> None:
    comparison, scores = make(n=2000, lost=4, gained=3)
    unlabelled = {"ids": scores["ids"], "agreement": scores["agreement"]}
    assert judge((comparison, unlabelled), Policy(min_agreement=0.99)).status == "pass"
    assert judge((comparison, unlabelled), Policy(min_agreement=0.9965)).status == "inconclusive"
    assert judge((comparison, unlabelled), Policy(min_agreement=0.9999)).status == "fail"
    del unlabelled["agreement"]
    assert judge((comparison, unlabelled), Policy(min_agreement=0.99)).status == "error"


def test_real_scores_are_judged_by_their_mean(make: Make) -> None:
    comparison, scores = make(n=1000)
    random = np.random.default_rng(0)
    scores["baseline_scores"] = -np.abs(random.normal(1.0, 0.3, 1000))
    scores["candidate_scores"] = scores["baseline_scores"] - random.normal(0.01, 0.05, 1000)
    for name in ("baseline", "candidate"):
        comparison[name]["metrics"] = {"mae": float(-scores[f"{name}_scores"].mean())}
    assert judge((comparison, scores), Policy(max_drop={"mae": 0.02})).status == "pass"
    assert judge((comparison, scores), Policy(max_drop={"mae": 0.005})).status == "fail"
    assert judge((comparison, scores), Policy(max_drop={"mae": 0.01})).status == "inconclusive"


@pytest.mark.parametrize(
    ("level", "status"), [(0.88, "pass"), (0.9, "inconclusive"), (0.92, "fail"), (float("nan"), None)]
)
def test_a_level_holds_whatever_the_parent_does(make: Make, level: float, status: str | None) -> None:
    # 89.95 % right of 2,000: Clopper and Pearson's bounds are 88.77 and 91.04 %.
    case = make(n=2000, lost=4, gained=3)
    if status is None:
        with pytest.raises(ValidationError):
            Policy(must_reach={"accuracy": level})
        return
    verdict = judge(case, Policy(must_reach={"accuracy": level}))
    assert verdict.status == status
    check = next(check for check in verdict.checks if check.name == "reach:accuracy")
    assert check.low == pytest.approx(0.8877, abs=1e-4)
    assert check.high == pytest.approx(0.9104, abs=1e-4)


def test_an_error_must_stay_under_its_level(make: Make) -> None:
    comparison, scores = make(n=1000)
    scores["baseline_scores"] = -np.abs(np.random.default_rng(0).normal(1.0, 0.3, 1000))
    scores["candidate_scores"] = scores["baseline_scores"] * 1.01
    for name in ("baseline", "candidate"):
        comparison[name]["metrics"] = {"mae": float(-scores[f"{name}_scores"].mean())}
    for level, status in ((1.1, "pass"), (1.01, "inconclusive"), (0.9, "fail")):
        verdict = judge((comparison, scores), Policy(max_drop={"mae": 0.1}, must_reach={"mae": level}))
        assert verdict.status == status, verdict
    few = Policy(must_reach={"mae": 1.1}, min_examples=2000)
    assert judge((comparison, scores), few).status == "inconclusive"


def test_flips_name_the_examples_both_ways(make: Make) -> None:
    flips = judge(make(n=2000, lost=4, gained=3)).flips
    assert flips is not None
    assert (flips.gained_ids, flips.lost_ids) == ((0, 1, 2), (1996, 1997, 1998, 1999))
    assert (flips.gained, flips.lost, flips.changed) == (3, 4, 7)
    assert flips.mcnemar_p == 1.0
    many = judge(make(n=2000, lost=500, gained=0)).flips
    assert many is not None
    assert (many.lost, len(many.lost_ids)) == (500, 200)


def test_the_same_input_gives_the_same_digest(make: Make) -> None:
    one, two = judge(make()), judge(make())
    assert one == two
    assert one.digest != judge(make(lost=5)).digest
    assert one.digest != judge(make(), Policy(max_drop={"accuracy": 0.011})).digest


def test_a_verdict_survives_its_file_and_an_edited_one_does_not(make: Make, tmp_path: Path) -> None:
    verdict = judge(make(lost=80))
    file = verdict.save(tmp_path)
    assert file.name == "verdict.json"
    assert load_verdict(tmp_path) == verdict
    content = json.loads(file.read_text())
    content["status"] = "pass"
    file.write_text(json.dumps(content))
    with pytest.raises(GateError, match="does not match its own digest"):
        load_verdict(file)
    file.write_text("{}")
    with pytest.raises(GateError, match="is not a verdict"):
        load_verdict(file)
    with pytest.raises(GateError, match="There is no verdict"):
        load_verdict(tmp_path / "elsewhere.json")


def test_the_directory_of_a_comparison_is_enough(make: Make, tmp_path: Path) -> None:
    comparison, scores = make()
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    np.savez(tmp_path / "scores.npz", **scores)
    assert gate(tmp_path, POLICY) == judge((comparison, scores))
    (tmp_path / "comparison.json").write_text(json.dumps(comparison | {"scores_digest": "0" * 64}))
    with pytest.raises(GateError, match="do not belong to the comparison"):
        gate(tmp_path, POLICY)
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    (tmp_path / "scores.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(GateError, match="cannot be read"):
        gate(tmp_path, POLICY)
    with pytest.raises(GateError, match="There is no comparison"):
        gate(tmp_path / "nowhere", POLICY)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"baseline_scores": np.ones(3), "candidate_scores": np.ones(4)}, "one length"),
        ({"ids": np.zeros(2), "agreement": np.ones(2)}, "counted twice"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(make: Make, scores: Any, message: str) -> None:
    with pytest.raises(GateError, match=message):
        gate(make()[0], POLICY, scores=scores)


@pytest.mark.parametrize(
    "options",
    [
        {"max_drop": {"accuracy": 0.0}},
        {"max_drop": {"accuracy": float("nan")}},
        {"confidence": 0.5},
        {"max_dorp": {}},
        {"no_faster": "maybe"},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy(**options)


def test_policy_survives_json() -> None:
    policy = Policy(max_drop={"b": 0.1, "a": 0.2}, slices=("label",), min_agreement=0.9)
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_junit_counts_what_the_verdict_says(make: Make) -> None:
    case = make(lost=80)
    case[0].update({"noisy": True, "noise_reason": "busy \x00<&>"})
    verdict = judge(
        case, POLICY.model_copy(update={"no_faster": "warn"}), budget={"p95_ms": 5, "size_bytes": 500}
    )
    suite = ElementTree.fromstring(junit_xml(verdict)).find("testsuite")
    assert suite is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}


def test_the_policy_can_be_read_without_statistics() -> None:
    code = (
        "import sys; sys.modules['lwplugin'] = __import__('types').ModuleType('lwplugin'); "
        f"sys.modules['lwplugin'].__path__ = [{str(Path(sys.modules['lwplugin'].__file__ or '').parent)!r}]; "
        "import lwplugin.gate.policy; "
        "print([m for m in ('scipy', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verdict_prints_as_its_reason_and_a_line_for_every_check(make: Make) -> None:
    shown = str(judge(make(n=2000, lost=4, gained=3)))
    assert shown.startswith("PASS. ")
    assert "\naccuracy: pass. The drop of accuracy is at most" in shown
    assert "\nagreement: pass, not required. Candidate and parent" in shown  # the reason counts the others
    assert "digest" not in shown


def test_a_warning_about_speed_does_not_advise_what_was_done(make: Make) -> None:
    case = make()
    case[0]["speedup"] = {"estimate": 0.7, "low": 0.68, "high": 0.72}
    warned = judge(case, POLICY.model_copy(update={"no_faster": "warn"}))
    assert "set gate.no_faster" not in check_of(warned, "speedup").message
    assert "set gate.no_faster to warn" in check_of(judge(case), "speedup").message
