"""The flow: a recipe's plan as Prefect tasks."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lwplugin.pipelines.plan import Plan, make_plan
from lwplugin.pipelines.prefect.blocks import LwpluginRegistry, LwpluginStore
from lwplugin.pipelines.prefect.show import show
from lwplugin.pipelines.prefect.steps import submit
from lwplugin.pipelines.result import RunResult, StepRun
from lwplugin.pipelines.skip import why_skipped
from lwplugin.pipelines.summary import summarise
from prefect import flow
from prefect.context import FlowRunContext
from prefect.futures import as_completed
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from lwplugin.artifact import Store
from lwplugin.errors import LwpluginError
from lwplugin.recipe import Recipe, load_recipe
from lwplugin.recipe_file import parse_recipe
from lwplugin.resources import Resources

# One step at a time in a process, as the local runner has it; `.with_options(task_runner=…)` for more.
ONE_AT_A_TIME = ThreadPoolTaskRunner(max_workers=1)  # type: ignore[var-annotated]


@flow(name="compress", task_runner=ONE_AT_A_TIME, persist_result=True)
def compress(
    recipe: str | dict[str, Any],
    model: str | None = None,
    registry: str | None = None,
    store: str | None = None,
    again: list[str] | None = None,
) -> Any:
    """Carry a recipe out: compress, export, measure, gate, register.

    Args:
        recipe: The recipe as YAML or as an object, or the path of its file on the worker.
        model: Another model than the recipe's, as models:/name@alias or models:/name/3.
        registry: Name of a `lwplugin Registry` block; default: the worker's MLflow variables.
        store: Name of a `lwplugin Store` block; default: the worker's LWPLUGIN_STORE.
        again: Ids of steps to run though the store has them.
    """
    from lwplugin.registry import resolve

    where = LwpluginRegistry.load(registry) if registry else None
    place = LwpluginStore.load(store) if store else LwpluginStore()
    with where.connected() if where else nullcontext():
        loaded = read(recipe, model)
        plan = make_plan(loaded, resolve(loaded.model, tracking_uri=loaded.tracking_uri))
        return ended(run_steps(plan, place.open(), loaded.resources, again=again or ()))


def read(recipe: str | dict[str, Any], model: str | None = None) -> Recipe:
    """Raises RecipeError."""
    import yaml

    if isinstance(recipe, str) and "\n" not in recipe and Path(recipe).suffix in (".yaml", ".yml", ".json"):
        loaded = load_recipe(recipe)
    else:
        loaded = parse_recipe(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    return loaded if model is None else loaded.of_model(model)


def run_steps(
    plan: Plan, store: Store, resources: Mapping[str, Resources], *, again: Collection[str] = ()
) -> RunResult:
    """The plan's steps as tasks of the flow run this is called in; an error ends what depends on it or needs it.

    A step is submitted when a worker is free for it, since one that waits in a queue could not be left out any more.
    """
    store.sweep()
    futures: dict[str, Any] = {}
    runs: dict[str, StepRun] = {}
    free = _workers()
    while len(runs) < len(plan.steps):
        made = {run.id: run.path for run in runs.values() if run.path is not None}
        for planned in plan.steps:
            if planned.id in futures or planned.id in runs:
                continue
            if why := why_skipped(plan, planned, runs, made):
                runs[planned.id] = StepRun(planned.id, planned.step, planned.target, "skipped", why=why)
            elif len(futures.keys() - runs.keys()) < free and made.keys() >= {*planned.inputs.values()}:
                inputs = {name: futures[source] for name, source in planned.inputs.items()}
                rerun = planned.id in again
                futures[planned.id] = submit(planned, inputs, store.root, resources, again=rerun)
        under_way = {future: step_id for step_id, future in futures.items() if step_id not in runs}
        if under_way:
            first = next(as_completed(list(under_way)))
            runs[under_way[first]] = _answer(first, plan, under_way[first])
    result = RunResult(plan, [runs[planned.id] for planned in plan.steps])
    show(result)
    _record_failure(result)
    return result


def _workers() -> int:
    """How many steps run at once; Prefect tells it of a pool of threads, and then only in an attribute of its own."""
    context = FlowRunContext.get()
    return int(getattr(context and context.task_runner, "_max_workers", sys.maxsize))


def _record_failure(result: RunResult) -> None:
    """Steps that failed become one failed run in the registry; a registry that cannot be asked is only a warning."""
    from lwplugin.registry import record_failure

    if not result.failures:
        return
    try:
        record_failure(
            model=result.plan.parent.uri,
            error="; ".join(result.failures),
            engine="prefect",
            engine_run=str(flow_run.id),
            recipe_digest=result.plan.recipe_digest,
            tracking_uri=result.plan.tracking_uri,
        )
    except LwpluginError as error:
        get_run_logger().warning("the failure could not be recorded in the registry: %s", error)


def _answer(future: Any, plan: Plan, step_id: str) -> StepRun:
    planned = next(step for step in plan.steps if step.id == step_id)
    future.wait()
    state = future.state
    if state.is_completed():
        found = future.result()
        return StepRun(**{**found, "path": Path(found["path"])})
    return StepRun.failed(planned, state.result(raise_on_failure=False))


def ended(result: RunResult) -> State[Any]:
    """The flow run's state: failed only where a step failed; a verdict is an answer, not a failure."""
    document = {
        "recipe_digest": result.plan.recipe_digest,
        "parent": result.plan.parent.uri,
        "verdicts": result.verdicts,
        "digests": {run.id: run.digest for run in result.steps},
        "targets": {target: summarise(result, target) for target in result.plan.targets},
    }
    if result.failures:
        return Failed(message="; ".join(result.failures), data=document)
    verdicts = ", ".join(f"{target}: {verdict}" for target, verdict in result.verdicts.items())
    return Completed(message=verdicts, data=document)


def run_plan_on_prefect(
    plan: Plan, store: Store, resources: Mapping[str, Resources], *, again: Collection[str] = ()
) -> RunResult:
    """For the command line: a flow run of a plan that is made already."""

    results: list[RunResult] = []

    @flow(name="compress", task_runner=ONE_AT_A_TIME, validate_parameters=False)
    def compress_planned(model: str, recipe_digest: str) -> State[Any]:
        results.append(run_steps(plan, store, resources, again=again))
        return ended(results[0])

    state = compress_planned(plan.parent.uri, plan.recipe_digest, return_state=True)
    if not results:
        state.result()  # raises what ended the flow
    return results[0]
