"""A policy held against a registry: as it is written down, or with what the aliased versions take today."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lwplugin.errors import LwpluginError
from lwplugin.policy.document import FleetPolicy
from lwplugin.policy.evaluation import evaluate
from lwplugin.policy.finding import Finding, Findings
from lwplugin.progress import Progress, silent

if TYPE_CHECKING:
    from lwplugin.registry import Listed, Remeasured

DRIFT = 0.2
"""By how much the median latency may have grown: below it machines differ from one day to the next."""


def hold(
    policy: FleetPolicy,
    known: Sequence[Listed],
    only: Sequence[Listed] | None = None,
    *,
    as_alias: str | None = None,
    remeasure: bool = False,
    most_drift: float = DRIFT,
    max_seconds: float = 20.0,
    tracking_uri: str | None = None,
    progress: Progress = silent,
) -> Findings:
    """Every rule on ``only`` (default: all that is ``known``), today.

    With ``remeasure`` the light versions that carry an alias are run again on this machine first: budgets are judged on
    today's times, and a median that surely grew by more than ``most_drift`` is a finding of its own, as is a version
    that no longer runs. A version registered from another machine, or a noisy machine, says nothing of drift.
    """
    today, judged = datetime.datetime.now(datetime.UTC).date(), list(known if only is None else only)
    if not remeasure:
        return evaluate(policy, known, today=today, only=judged, as_alias=as_alias)
    from lwplugin.registry import remeasure as measure_again

    found: list[Finding] = []
    chosen = [version for version in judged if version.light and version.aliases]
    for done, version in enumerate(chosen, start=1):
        try:
            again = measure_again(version, max_seconds=max_seconds, tracking_uri=tracking_uri)
        except LwpluginError as error:
            found.append(_finding(version, "fail", f"It could not be measured again: {error}"))
        else:
            judged[judged.index(version)] = again.version
            found.append(_drift(again, most_drift))
        progress("measure again", done, len(chosen))
    findings = evaluate(policy, known, today=today, only=judged, as_alias=as_alias)
    return replace(findings, findings=(*findings.findings, *found))


def _drift(again: Remeasured, most: float) -> Finding:
    told = f"p50 {again.now['p50_ms']:.3g} ms, registered with {again.before['p50_ms']:.3g} ms"
    if again.surely is None:
        return _finding(again.version, "inconclusive", f"{told}: {again.why_not}", again, most)
    status = "fail" if again.surely > 1 + most else "pass"
    return _finding(
        again.version, status, f"{told}: {again.ratio:.2f} times, at least {again.surely:.2f}", again, most
    )


def _finding(
    version: Listed, status: str, message: str, again: Remeasured | None = None, most: float | None = None
) -> Finding:
    return Finding(
        model=version.name,
        version=version.version,
        target=version.target,
        rule="drift",
        check="p50_ms",
        status=status,  # type: ignore[arg-type]
        message=f"{message}.",
        severity="block" if status == "fail" else "warn",
        owner="",
        value=again.ratio if again else None,
        bound=again.surely if again else None,
        limit=1 + most if most is not None else None,
    )
