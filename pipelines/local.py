"""The embedded runner: a plain loop in this process. What needs more runs on an engine."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lwplugin.components import step_named
from lwplugin.components.carried import verdict_status
from lwplugin.components.step import Artifact, Result, Step, execute, find
from lwplugin.pipelines.plan import Plan, PlannedStep
from lwplugin.pipelines.skip import why_skipped

from lwplugin.artifact import Store
from lwplugin.data import reading_once
from lwplugin.errors import LwpluginError
from lwplugin.progress import Progress, silent
from lwplugin.resources import Resources, resources_of
from lwplugin.secret import redact
from lwplugin.settings import settings

Status = Literal["made", "found", "failed", "skipped"]


@dataclass(frozen=True)
class StepRun:
    """How one planned step went. ``why`` is the error, or what it was skipped for."""

    id: str
    step: str
    target: str | None
    status: Status
    seconds: float = 0.0
    key: str | None = None
    path: Path | None = None
    digest: str | None = None
    why: str | None = None


@dataclass
class RunResult:
    """All steps of a run; verdicts, reports and registrations by target."""

    plan: Plan
    steps: list[StepRun] = field(default_factory=list)

    def of(self, step: str, target: str) -> StepRun | None:
        """The run of ``step`` for ``target``."""
        return next((run for run in self.steps if (run.step, run.target) == (step, target)), None)

    @property
    def verdicts(self) -> dict[str, str]:
        """Target → pass, fail, inconclusive or error; a step that failed is an error, register included."""
        return {target: self._verdict(target) for target in self.plan.targets}

    @property
    def reports(self) -> dict[str, Path]:
        """Target → directory of its report."""
        runs = {target: self.of("report", target) for target in self.plan.targets}
        return {target: run.path for target, run in runs.items() if run is not None and run.path is not None}

    def _verdict(self, target: str) -> str:
        runs = [run for run in self.steps if run.target in (target, None)]
        gate = self.of("gate", target)
        if gate is None or gate.path is None or any(run.status == "failed" for run in runs):
            return "error"
        return verdict_status(gate.path)


@reading_once()
def run_plan(
    plan: Plan,
    store: Store,
    *,
    progress: Progress = silent,
    started: Callable[[PlannedStep], None] = lambda step: None,
    ended: Callable[[StepRun], None] = lambda run: None,
    again: Collection[str] = (),
    steps: Callable[[str], Step] = step_named,
    resources: Mapping[str, Resources] | None = None,
) -> RunResult:
    """Run every step in order; an error ends what depends on it and nothing else.

    ``again`` holds ids of steps to run though the store has them; ``steps`` finds a step by its name;
    of ``resources`` the processes that train together are heeded.
    """
    result = RunResult(plan)
    made: dict[str, Result] = {}
    for planned in plan.steps:
        started(planned)
        processes = resources_of(resources or {}, planned.step).processes
        run = _run(plan, planned, made, store, progress, planned.id in again, steps, processes)
        result.steps.append(run)
        ended(run)
    return result


def _run(
    plan: Plan,
    planned: PlannedStep,
    made: dict[str, Result],
    store: Store,
    progress: Progress,
    again: bool,
    steps: Callable[[str], Step],
    processes: int | None,
) -> StepRun:
    before = [step.id for step in plan.steps[: plan.steps.index(planned)]]
    if why := why_skipped(plan, planned, before, {step: done.path for step, done in made.items()}):
        return StepRun(planned.id, planned.step, planned.target, "skipped", why=why)
    began = time.perf_counter()
    try:
        step = steps(planned.step)
        inputs: dict[str, Artifact] = {name: made[source] for name, source in planned.inputs.items()}
        config = step.config.model_validate(planned.config)
        done = execute(step, config, inputs, store, progress=progress, again=again, processes=processes)
    except Exception as error:  # the other targets still deserve their run
        if settings().debug:
            traceback.print_exc()
        known = isinstance(error, LwpluginError)
        why = redact(str(error) if known else f"unexpected {type(error).__name__}: {error}")
        seconds = time.perf_counter() - began
        return StepRun(planned.id, planned.step, planned.target, "failed", seconds, why=why)
    made[planned.id] = done
    status: Status = "found" if done.hit else "made"
    return StepRun(
        planned.id, planned.step, planned.target, status, done.seconds, done.key, done.path, done.digest
    )


def look_up(plan: Plan, store: Store, *, judge: bool = True) -> dict[str, Artifact | None]:
    """Step id → its stored result; None for what would run. Runs nothing.

    ``judge=False`` looks for what the last run made, though a next run would make part of it anew.
    """
    found: dict[str, Artifact | None] = {}
    for planned in plan.steps:
        inputs = {name: found[source] for name, source in planned.inputs.items()}
        ready = {name: item for name, item in inputs.items() if item is not None}
        step = step_named(planned.step)
        complete = len(ready) == len(inputs)
        config = step.config.model_validate(planned.config)
        found[planned.id] = find(step, config, ready, store, judge=judge) if complete else None
    return found
