from __future__ import annotations

import datetime
import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lwplugin.errors import RecipeError
from lwplugin.policy import FleetPolicy, evaluate, load_policy
from lwplugin.policy.finding import Finding, Findings
from lwplugin.policy.junit import junit_xml
from lwplugin.policy.markdown import MARKER, markdown
from lwplugin.policy.sarif import sarif
from lwplugin.registry import Listed

TODAY = datetime.date(2026, 11, 24)
GOOD = {
    "size_bytes": "90000",
    "p95_ms": "1.5",
    "p95_high_ms": "1.8",
    "accuracy": "0.96",
    "parent_accuracy": "0.97",
}


def light(version: int, name: str = "net", aliases: tuple[str, ...] = (), **numbers: str) -> Listed:
    tags = {
        "digest": "d",
        "target": "edge-cpu",
        "verdict": "pass",
        **GOOD,
        "accuracy_drop_high": "0.015",
        **numbers,
    }
    kept = {f"lwplugin.{key}": value for key, value in tags.items() if value}
    return Listed(name=name, version=version, aliases=aliases, tags=kept)


def policy(*, waivers: list[dict[str, Any]] | None = None, **rule: Any) -> FleetPolicy:
    rule = {"name": "edge", "budget": {"p95_ms": 2, "size_bytes": 100_000}, **rule}
    return FleetPolicy.model_validate({"rules": [rule], "waivers": waivers or []})


def judge(rules: FleetPolicy, *versions: Listed, **options: Any) -> Findings:
    return evaluate(rules, versions, today=TODAY, **options)


def only(found: Findings) -> Finding:
    (finding,) = found.not_passed()
    return finding


def test_a_version_within_its_budgets_passes() -> None:
    found = judge(policy(max_drop={"accuracy": 0.02}), light(1))
    assert (found.status, found.exit_code, len(found.findings)) == ("pass", 0, 4)


def test_a_violation_says_which_budget_by_how_much_and_what_would_do() -> None:
    found = judge(policy(owner="edge team"), light(1), light(2, p95_ms="2.5", p95_high_ms="2.6"))
    finding = only(found)
    assert found.exit_code == 1
    assert (finding.uri, finding.check, finding.excess) == ("models:/net/2", "budget:p95_ms", 0.5)
    assert "p95_ms is 2.5, over the budget of 2 by 0.5 (25.0%)" in finding.message
    assert finding.instead == "models:/net/1"
    assert finding.owner == "edge team"


def test_a_substitute_has_the_same_target_a_passing_verdict_and_is_ready() -> None:
    broken = light(9, size_bytes="200000")
    others = (
        light(1, target="phone"),
        light(2, verdict="fail"),
        Listed(name="net", version=3, tags=light(3).tags, ready=False),
        light(4, name="other"),
    )
    assert only(judge(policy(), broken, *others, only=[broken])).instead is None


@pytest.mark.parametrize(
    ("numbers", "options", "status"),
    [
        ({"p95_high_ms": "2.2"}, {}, "inconclusive"),
        ({"p95_high_ms": ""}, {}, "inconclusive"),
        ({"p95_high_ms": ""}, {"bounds": "optional"}, "pass"),
        ({"p95_ms": ""}, {"bounds": "optional"}, "inconclusive"),
        ({"p95_ms": "nan"}, {}, "inconclusive"),
        ({"p95_ms": "inf"}, {}, "inconclusive"),
        ({"size_bytes": "0"}, {}, "inconclusive"),
        ({"size_bytes": "100000"}, {}, "pass"),
        ({"size_bytes": "100001"}, {}, "fail"),
        ({"verdict": ""}, {}, "inconclusive"),
        ({"verdict": "inconclusive"}, {}, "fail"),
        ({"verdict": "fail"}, {"verdict": "any"}, "pass"),
        ({"accuracy": "0.9", "accuracy_drop_high": "0.08"}, {"max_drop": {"accuracy": 0.02}}, "fail"),
        ({"accuracy_drop_high": "0.03"}, {"max_drop": {"accuracy": 0.02}}, "inconclusive"),
        ({"parent_accuracy": ""}, {"max_drop": {"accuracy": 0.02}}, "inconclusive"),
    ],
)
def test_what_is_not_shown_to_hold_never_passes(
    numbers: dict[str, str], options: dict[str, Any], status: str
) -> None:
    assert judge(policy(**options), light(1, **numbers)).status == status


def test_what_is_not_shown_says_what_would_show_it() -> None:
    margin, budget = {"max_drop": {"accuracy": 0.02}}, {"budget": {"p95_ms": 2}}
    (drop,) = judge(policy(**margin), light(1, accuracy_drop_high="0.03")).not_passed()
    assert drop.message.endswith("judge it on more test examples.")
    (time,) = judge(policy(**budget), light(1, p95_high_ms="2.2")).not_passed()
    assert time.message.endswith("measure longer, or on a quieter machine.")


def test_a_rule_speaks_of_models_targets_aliases_and_stages() -> None:
    versions = [light(1, aliases=("champion",)), light(2, name="other")]
    staged = Listed(name="net", version=5, stage="Production", tags=light(5).tags)
    speaks = [
        (policy(models="ne*"), {1}),
        (policy(aliases="champ*"), {1}),
        (policy(targets="edge-*"), {1, 2}),
        (policy(targets="phone"), set()),
        (policy(stages="Production"), {5}),
    ]
    for rules, expected in speaks:
        subjects = [*versions, staged] if rules.rules[0].stages else versions
        assert {finding.version for finding in judge(rules, *subjects).findings} == expected


def test_nothing_checked_is_not_a_pass() -> None:
    assert judge(policy(models="nett"), light(1)).exit_code == 3


def test_versions_nobody_measured_are_skipped_unless_an_alias_is_asked_for() -> None:
    parent = Listed(name="net", version=1, aliases=("champion",))
    assert judge(policy(), parent, light(2)).status == "pass"
    assert judge(policy(aliases="champion"), parent, light(2)).status == "inconclusive"
    assert judge(policy(unmeasured="inconclusive"), parent, light(2)).status == "inconclusive"


def test_as_alias_judges_a_promotion_before_it_happens() -> None:
    rules = policy(aliases="champion", budget={"size_bytes": 80_000})
    version = light(3)
    assert judge(rules, version).exit_code == 3
    assert judge(rules, version, as_alias="champion").exit_code == 1


def test_warnings_are_told_and_change_nothing() -> None:
    found = judge(policy(severity="warn", budget={"p95_ms": 1}), light(1))
    assert (found.exit_code, len(found.not_passed())) == (0, 1)


def test_a_waiver_covers_what_it_names_until_its_day() -> None:
    waiver = {"models": "net", "versions": [1], "checks": "p95_ms", "reason": "new board", "owner": "ann"}

    def found(until: str, version: int = 1) -> Findings:
        rules = policy(budget={"p95_ms": 1}, waivers=[{**waiver, "until": until}])
        return judge(rules, light(version))

    assert found("2026-11-24").exit_code == 0
    assert only(found("2026-11-24")).waived == "until 2026-11-24 by ann: new board"
    assert found("2026-11-23").exit_code == 1
    assert "The waiver of ann ended on 2026-11-23." in only(found("2026-11-23")).message
    assert found("2026-12-31", version=2).exit_code == 1


def test_time_grows_with_versions_and_not_with_their_square() -> None:
    asked = {"numbers": 0}

    class Counted(Listed):
        def number(self, metric: str) -> float | None:
            asked["numbers"] += 1
            return super().number(metric)

    def work(n: int) -> int:
        asked["numbers"] = 0
        tags = light(1, size_bytes="200000").tags
        judge(policy(), *(Counted(name="net", version=i, tags=tags) for i in range(n)))
        return asked["numbers"]

    assert work(400) == 4 * work(100)

    def looks(n: int) -> int:
        """How often findings are looked at to tell the whole in one sentence and as JSON."""
        count = 0

        class Looked(Finding):
            @property
            def counts(self) -> bool:
                nonlocal count
                count += 1
                return super().counts

        plain = judge(policy(), *(light(i, size_bytes="999999") for i in range(n))).findings
        looked = tuple(Looked(**{f.name: getattr(one, f.name) for f in fields(Finding)}) for one in plain)
        whole = Findings(looked, n, "digest")
        assert whole.document()["reason"]
        return count

    assert looks(400) == 4 * looks(100)


def test_findings_follow_the_limits_exactly() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        value, limit = draw.randint(1, 50), draw.randint(1, 50)
        found = judge(policy(budget={"size_bytes": limit}), light(1, size_bytes=str(value)))
        assert (found.status == "pass") == (value <= limit)


POLICY = """\
rules:
  - name: edge
    models: net
    budget: {p95_ms: 1}
    owner: "edge"
  - name: soft
    severity: warn
    budget: {size_bytes: 10}
waivers:
  - {models: net, rule: soft, until: 2026-12-31, reason: later, owner: ann}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_the_reports_of_one_evaluation_agree(file: Path) -> None:
    rules = load_policy(file)
    found = judge(rules, light(1, name="net"), light(2, name="x|y`<script>"))
    suites = ElementTree.fromstring(junit_xml(found).split("\n", 1)[1])
    assert [suite.get("failures") for suite in suites] == ["1", "0"]
    document = json.loads(sarif(found, rules, file))
    results = document["runs"][0]["results"]
    by_rule = {(result["ruleId"], result["level"]) for result in results}
    assert by_rule == {("edge", "error"), ("soft", "warning")}
    lines = {r["ruleId"]: r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in results}
    assert lines == {"edge": 2, "soft": 6}
    assert sum("suppressions" in result for result in results) == 1
    text = markdown(found)
    assert text.startswith(MARKER)
    assert "models:/net/1" in text
    assert "<script>" not in text
    assert all(row.count(" | ") == 4 for row in text.splitlines() if row.startswith("| "))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("p95_ms: 1", "p95: 1", "policy.yaml:4: rules[0].budget.p95: unknown key; did you mean 'p95_ms'?"),
        ("rule: soft", "rule: sofd", "did you mean 'soft'?"),
        ("name: soft", "name: edge", "two rules share the name"),
        ("reason: later", "reason: ''", "waivers[0].reason"),
        ("until: 2026-12-31, ", "", "waivers[0].until: is missing"),
        ("budget: {p95_ms: 1}", "verdict: any", "asks nothing"),
        ("budget: {p95_ms: 1}", "max_drop: {accuracy: -1}", "finite number"),
    ],
)
def test_a_wrong_policy_is_told_where_it_is_wrong(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(POLICY.replace(old, new, 1))
    with pytest.raises(RecipeError) as error:
        load_policy(file)
    assert said in str(error.value)
