"""Holds a policy against registered versions; pure, and linear in versions times rules."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lwplugin.policy.document import FleetPolicy, Rule, matches
from lwplugin.policy.finding import Finding, Findings, Status

# The registered confidence bound of a measurement that has one; every other measurement is exact.
_BOUND_OF = {"p50_ms": "p50_high_ms", "p95_ms": "p95_high_ms"}


class Version(Protocol):
    """What an evaluation needs to know of a registered version (`lwplugin.registry.Listed`)."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def uri(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def stage(self) -> str: ...
    @property
    def light(self) -> bool: ...
    @property
    def target(self) -> str | None: ...
    @property
    def verdict(self) -> str | None: ...
    @property
    def ready(self) -> bool: ...
    def number(self, metric: str) -> float | None: ...


@dataclass(frozen=True)
class _Answer:
    check: str
    status: Status
    message: str
    value: float | None = None
    bound: float | None = None
    limit: float | None = None


def evaluate(
    policy: FleetPolicy,
    versions: Sequence[Version],
    *,
    today: datetime.date,
    only: Iterable[Version] | None = None,
    as_alias: str | None = None,
) -> Findings:
    """Every check of every fitting rule on ``only`` (default: all ``versions``).

    ``versions`` are also where a version that would do is looked for. ``as_alias`` judges as if each carried
    that alias already: what a promotion asks.
    """
    judged = list(versions if only is None else only)
    substitutes = _Substitutes(versions)
    findings = []
    for version in judged:
        aliases = version.aliases if as_alias is None else (*version.aliases, as_alias)
        for rule in policy.rules:
            if not _speaks_of(rule, version, aliases):
                continue
            for answer in _answers(rule, version):
                finding = _finding(rule, version, answer)
                if answer.status != "pass":
                    instead = substitutes.of(rule, version)
                    finding = replace(_waive(policy, finding, today), instead=instead)
                findings.append(finding)
    return Findings(tuple(findings), len(judged), policy.digest)


def _speaks_of(rule: Rule, version: Version, aliases: Sequence[str]) -> bool:
    if not version.ready or (rule.skips_unmeasured and not version.light):
        return False
    return (
        matches(version.name, rule.models)
        and (not rule.targets or (version.target is not None and matches(version.target, rule.targets)))
        and (not rule.aliases or any(matches(alias, rule.aliases) for alias in aliases))
        and (not rule.stages or matches(version.stage, rule.stages))
    )


def _answers(rule: Rule, version: Version) -> Iterator[_Answer]:
    if rule.verdict == "pass":
        yield _verdict(version)
    for metric, limit in rule.budget.limits().items():
        bounded = metric in _BOUND_OF
        bound = version.number(_BOUND_OF[metric]) if bounded else None
        yield _limit(rule, metric, version.number(metric), bound, limit, bounded, _BUDGET)
    for metric, margin in rule.max_drop.items():
        value, parent = version.number(metric), version.number(f"parent_{metric}")
        drop = None if value is None or parent is None else parent - value
        bound = version.number(f"{metric}_drop_high")
        yield replace(
            _limit(rule, f"{metric} drop", drop, bound, margin, True, _MARGIN),
            check=f"max_drop:{metric}",
        )


def _verdict(version: Version) -> _Answer:
    if version.verdict == "pass":
        return _Answer("verdict", "pass", "The gate passed it.")
    if version.verdict is None:
        return _Answer("verdict", "inconclusive", "No gate has judged it: run a recipe.")
    return _Answer("verdict", "fail", f"The gate's verdict is '{version.verdict}'.")


@dataclass(frozen=True)
class _Kind:
    """A limit in words, and what brings value and bound closer together."""

    name: str
    surer: str
    positive: bool


_BUDGET = _Kind("the budget", "measure longer, or on a quieter machine", positive=True)
_MARGIN = _Kind("the margin", "judge it on more test examples", positive=False)


def _limit(
    rule: Rule,
    metric: str,
    value: float | None,
    bound: float | None,
    limit: float,
    bounded: bool,
    kind: _Kind,
) -> _Answer:
    def answer(status: Status, message: str) -> _Answer:
        return _Answer(f"budget:{metric}", status, message, value, bound, limit)

    if value is None:
        return answer("inconclusive", f"{metric} is not registered: run a recipe that measures it.")
    if kind.positive and value <= 0:
        return answer("inconclusive", f"{metric} is {_show(value)}, which no model is: it was not measured.")
    if value > limit:
        over = f"by {_show(value - limit)}" + (f" ({(value - limit) / limit:.1%})" if limit > 0 else "")
        return answer("fail", f"{metric} is {_show(value)}, over {kind.name} of {_show(limit)} {over}.")
    if bounded and bound is None and rule.bounds == "required":
        return answer(
            "inconclusive",
            f"{metric} is {_show(value)}, but no confidence bound is registered: register it again, or allow "
            "point estimates with `bounds: optional`.",
        )
    if bound is not None and bound > limit:
        return answer(
            "inconclusive",
            f"{metric} is {_show(value)} but may be {_show(bound)}, over {kind.name} of {_show(limit)}: "
            f"{kind.surer}.",
        )
    return answer("pass", f"{metric} is {_show(value)}, within {_show(limit)}.")


def _finding(rule: Rule, version: Version, answer: _Answer) -> Finding:
    over = answer.value is not None and answer.limit is not None and answer.status == "fail"
    return Finding(
        model=version.name,
        version=version.version,
        target=version.target,
        rule=rule.name,
        check=answer.check,
        status=answer.status,
        message=answer.message,
        severity=rule.severity,
        owner=rule.owner,
        value=answer.value,
        bound=answer.bound,
        limit=answer.limit,
        excess=answer.value - answer.limit if over else None,  # type: ignore[operator]
    )


def _waive(policy: FleetPolicy, finding: Finding, today: datetime.date) -> Finding:
    short = finding.check.partition(":")[2] or finding.check
    covering = [
        waiver
        for waiver in policy.waivers
        if any(
            waiver.covers(finding.model, finding.version, finding.rule, name)
            for name in (finding.check, short)
        )
    ]
    if not covering:
        return finding
    latest = max(covering, key=lambda waiver: waiver.until)
    if latest.until < today:
        ended = f"{finding.message} The waiver of {latest.owner} ended on {latest.until}."
        return replace(finding, message=ended)
    return replace(finding, waived=f"until {latest.until} by {latest.owner}: {latest.reason}")


class _Substitutes:
    """The newest registered version that meets a rule, looked for once per rule, model and target."""

    def __init__(self, versions: Sequence[Version]) -> None:
        # Model → target → its light versions.
        self._light: dict[str, dict[str | None, list[Version]]] = {}
        for version in versions:
            if version.light and version.ready:
                self._light.setdefault(version.name, {}).setdefault(version.target, []).append(version)
        self._known: dict[tuple[str, str, str | None], str | None] = {}

    def of(self, rule: Rule, version: Version) -> str | None:
        key = (rule.name, version.name, version.target)
        if key not in self._known:
            self._known[key] = self._newest(rule, version)
        return self._known[key]

    def _newest(self, rule: Rule, version: Version) -> str | None:
        by_target = self._light.get(version.name, {})
        if version.target is not None:
            group = by_target.get(version.target, [])
        else:  # an unmeasured parent: any target of it may do
            group = [light for several in by_target.values() for light in several]
        for candidate in sorted(group, key=lambda each: each.version, reverse=True):
            if all(answer.status == "pass" for answer in _answers(rule, candidate)):
                return candidate.uri
        return None


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
