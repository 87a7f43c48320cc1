"""The embedded runner: a plain loop in this process. What needs more runs on an engine."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping

from lwplugin.components import step_named
from lwplugin.components.step import Artifact, Result, Step, execute, find
from lwplugin.pipelines.plan import Plan, PlannedStep
from lwplugin.pipelines.result import RunResult, Status, StepRun
from lwplugin.pipelines.skip import why_skipped

from lwplugin.artifact import Store
from lwplugin.data import reading_once
from lwplugin.progress import Progress, silent
from lwplugin.resources import Resources, resources_of
from lwplugin.settings import settings


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
        return StepRun.failed(planned, error, time.perf_counter() - began)
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
