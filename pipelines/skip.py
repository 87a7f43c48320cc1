"""Why a step of a plan is left out: the same for every runner."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lwplugin.components.carried import verdict_status
from lwplugin.pipelines.plan import Plan, PlannedStep


def why_skipped(
    plan: Plan, planned: PlannedStep, ended: Collection[str], made: Mapping[str, Path]
) -> str | None:
    """None where it has to run. ``ended``: ids of steps that are over; ``made``: the results of those that have one."""
    if why := plan.hindrance(planned.id, ended, made):
        return why
    gate = made.get(planned.only_if_passed or "")
    if gate is not None and (verdict := verdict_status(gate)) != "pass":
        return f"the verdict is {verdict}"
    return None
