"""What the pages show of one listing: models with their versions and what the policy found. Pure and linear."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lwplugin.policy import Finding, Findings
from lwplugin.registry import Listed
from lwplugin.registry.lineage import PREFIX

Budgets = Literal["broken", "unknown", "warned", "met", "none"]
_DROP_BOUND = "_drop_high"


@dataclass(frozen=True)
class Held:
    """One version with what the policy found on it that did not pass, and how many checks spoke of it."""

    version: Listed
    failed: tuple[Finding, ...] = ()
    checks: int = 0

    @property
    def budgets(self) -> Budgets:
        """The worst of its checks: `unknown` is blocked too, `warned` covers warnings and waivers."""
        counting = {finding.status for finding in self.failed if finding.counts}
        if counting:
            return "broken" if "fail" in counting else "unknown"
        if self.failed:
            return "warned"
        return "met" if self.checks else "none"


@dataclass(frozen=True)
class Model:
    """One registered model, versions newest first."""

    name: str
    versions: tuple[Held, ...]

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """Verdict, `none` where nobody judged → versions; light versions only."""
        return dict(Counter(h.version.verdict or "none" for h in self.versions if h.version.light))

    @cached_property
    def budgets(self) -> dict[Budgets, int]:
        """→ versions."""
        return dict(Counter(held.budgets for held in self.versions))

    @cached_property
    def aliased(self) -> tuple[tuple[str, Held], ...]:
        """(alias, version), by alias."""
        pairs = [(alias, held) for held in self.versions for alias in held.version.aliases]
        return tuple(sorted(pairs, key=lambda pair: pair[0]))

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """All that did not pass: what blocks first, of it what an alias points to, then the newest."""
        found = [(finding, not held.version.aliases) for held in self.versions for finding in held.failed]
        found.sort(key=lambda pair: (not pair[0].counts, pair[1], pair[0].status != "fail"))
        return tuple(finding for finding, _ in found)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Targets of light versions, the one with the most versions first."""
        counts = Counter(held.version.target or "" for held in self.versions if held.version.light)
        return tuple(sorted(counts, key=lambda target: (-counts[target], target)))


@dataclass(frozen=True)
class Fleet:
    """Everything, models by name."""

    models: tuple[Model, ...]
    versions: int
    taken_s: float
    has_policy: bool = False
    by_name: dict[str, Model] = field(default_factory=dict, repr=False)

    @cached_property
    def budgets(self) -> dict[Budgets, int]:
        """→ versions."""
        total: Counter[Budgets] = Counter()
        for model in self.models:
            total.update(model.budgets)
        return dict(total)

    def matching(self, part: str, *, broken: bool) -> list[Model]:
        """Models whose name holds ``part``, case aside; only those with a blocked version if ``broken``."""
        wanted = part.casefold()
        return [
            model
            for model in self.models
            if wanted in model.name.casefold()
            and (not broken or "broken" in model.budgets or "unknown" in model.budgets)
        ]


def survey(versions: Iterable[Listed], findings: Findings | None, *, taken_s: float) -> Fleet:
    """``findings``: of the policy on these versions, None without a policy. ``taken_s``: since 1970."""
    failed: dict[tuple[str, int], list[Finding]] = defaultdict(list)
    checks: Counter[tuple[str, int]] = Counter()
    for finding in findings.findings if findings is not None else ():
        checks[finding.model, finding.version] += 1
        if finding.status != "pass":
            failed[finding.model, finding.version].append(finding)
    by_model: dict[str, list[Held]] = defaultdict(list)
    count = 0
    for version in versions:
        key = (version.name, version.version)
        by_model[version.name].append(Held(version, tuple(failed.get(key, ())), checks[key]))
        count += 1
    models = tuple(
        Model(name, tuple(sorted(held, key=lambda one: -one.version.version)))
        for name, held in sorted(by_model.items())
    )
    return Fleet(models, count, taken_s, findings is not None, {model.name: model for model in models})


def violations(findings: Findings) -> Counter[tuple[str, str, str]]:
    """(rule, severity, status) → checks that did not pass and are not waived."""
    return Counter(
        (finding.rule, finding.severity, finding.status)
        for finding in findings.findings
        if finding.status != "pass" and finding.waived is None
    )


def score_of(versions: Sequence[Listed]) -> str:
    """The score that the gate judged these versions on; `accuracy` where none says so."""
    judged: Counter[str] = Counter()
    for version in versions:
        for tag in version.tags:
            if tag.startswith(PREFIX) and tag.endswith(_DROP_BOUND):
                judged[tag[len(PREFIX) : -len(_DROP_BOUND)]] += 1
    return max(judged, key=lambda name: (judged[name], name == "accuracy", name), default="accuracy")


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of points no other beats: smaller first coordinate, larger second; by the first coordinate.

    >>> front([(1.0, 0.5), (2.0, 0.9), (3.0, 0.8), (2.0, 0.7)])
    [0, 1]
    """
    best, found = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if points[index][1] > best:
            best = points[index][1]
            found.append(index)
    return found
