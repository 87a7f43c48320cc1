"""A compiled plan carried out here, by KFP's own subprocess runner and without a cluster."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kfp import local
from kfp.components import load_component_from_file
from lwplugin.components import step_named
from lwplugin.components.kubeflow_task import HIT, KEY, SECONDS
from lwplugin.components.step import Result
from lwplugin.pipelines.kubeflow.compile import Deployment, compile_plan
from lwplugin.pipelines.kubeflow.watch import Task, Watch
from lwplugin.pipelines.plan import Plan, PlannedStep
from lwplugin.pipelines.result import RunResult, StepRun
from lwplugin.pipelines.skip import why_skipped

from lwplugin.artifact import RUNS, Store
from lwplugin.errors import LwpluginError
from lwplugin.progress import Progress, silent
from lwplugin.secret import redact
from lwplugin.settings import variable


def run_here(
    plan: Plan,
    store: Store,
    *,
    progress: Progress = silent,
    ended: Callable[[StepRun], None] = lambda run: None,
    broke: Callable[[Sequence[str]], None] = lambda last: None,
) -> RunResult:
    """Every task as a process of its own on this machine; `resources` are for clusters and not heeded.

    The tasks share ``store``; what KFP carries between them lies there for a while, and what they and
    KFP print in a file of the store's ``runs``, which the error of a failed step names. ``ended`` hears of every
    step, ``broke`` gets the last lines of a task that failed without an error of ours.
    """
    store.sweep()
    said = store.root / RUNS / f"kubeflow-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    said.parent.mkdir(parents=True, exist_ok=True)
    errors: dict[str, str] = {}
    told: set[str] = set()
    with store.scratch("kubeflow") as root, _environment(store):
        file = root / "pipeline.yaml"
        compile_plan(plan, Deployment(), file)
        steps = {step.id: step for step in plan.steps}
        names = _step_of_task(file)

        def over(task: Task) -> None:
            planned = steps.get(names.get(task.name, ""))
            if planned is None:  # the exit handler
                return
            told.add(planned.id)
            if task.succeeded:
                status: Any = "found" if task.hit else "made"
                ended(StepRun(planned.id, planned.step, planned.target, status, task.seconds))
                return
            errors[planned.id] = f"{redact(task.error)} (all it said: {said})"
            why = errors[planned.id]
            ended(StepRun(planned.id, planned.step, planned.target, "failed", task.seconds, why=why))
            if task.message is None:
                broke([redact(line) for line in task.last])

        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root / "artifacts"),
            raise_on_error=False,
        )
        with said.open("w", encoding="utf-8") as log, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the image's name and the display names, which play no part here
            watch = Watch(log, over, progress)
            try:
                with watch.listening():
                    load_component_from_file(str(file))()
            except Exception as error:
                raise LwpluginError(
                    "KFP's local runner broke off",
                    got=f"{type(error).__name__}: {error}",
                    do=f"look into {said}; the engines local and prefect carry out the same recipe",
                ) from error
        result = _result(plan, store, _made(root / "artifacts"), errors, said)
    for run in result.steps:
        if run.id not in told:
            ended(run)
    return result


@contextmanager
def _environment(store: Store) -> Iterator[None]:
    name = variable("store")
    before = os.environ.get(name)
    os.environ[name] = str(store.root.absolute())
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _step_of_task(pipeline: Path) -> dict[str, str]:
    """KFP's name of a task, which is its component's → the step's id, which is its display name."""
    document = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))
    dags = [component.get("dag", {}) for component in document["components"].values()]
    tasks = [task for dag in dags for task in dag.get("tasks", {}).values()]
    return {task["componentRef"]["name"].removeprefix("comp-"): task["taskInfo"]["name"] for task in tasks}


def _made(root: Path) -> dict[str, dict[str, Any]]:
    """Key of a step → the metadata its task left beside its result."""
    found: dict[str, dict[str, Any]] = {}
    for file in root.rglob("executor_output.json"):
        for listed in json.loads(file.read_text(encoding="utf-8")).get("artifacts", {}).values():
            for artifact in listed["artifacts"]:
                metadata = artifact.get("metadata", {})
                if KEY in metadata:
                    found[metadata[KEY]] = metadata
    return found


def _result(
    plan: Plan, store: Store, tasks: dict[str, dict[str, Any]], errors: dict[str, str], said: Path
) -> RunResult:
    """The run as the local runner would tell it: a step's key says which task was its."""
    result = RunResult(plan)
    made: dict[str, Result] = {}
    for planned in plan.steps:
        done = _done(planned, made, store, tasks)
        if done is not None:
            made[planned.id] = done
            status: Any = "found" if done.hit else "made"
            of_step = (planned.id, planned.step, planned.target, status)
            run = StepRun(*of_step, done.seconds, done.key, done.path, done.digest)
        elif planned.id in errors:
            run = StepRun(planned.id, planned.step, planned.target, "failed", why=errors[planned.id])
        else:
            before = [earlier.id for earlier in result.steps]
            why = why_skipped(plan, planned, before, {step: each.path for step, each in made.items()})
            status = "failed" if why is None else "skipped"
            why = why or f"its task left no result (all it said: {said})"
            run = StepRun(planned.id, planned.step, planned.target, status, why=why)
        result.steps.append(run)
    return result


def _done(
    planned: PlannedStep, made: dict[str, Result], store: Store, tasks: dict[str, dict[str, Any]]
) -> Result | None:
    if not made.keys() >= {*planned.inputs.values()}:
        return None
    step = step_named(planned.step)
    digests = {name: made[source].digest for name, source in planned.inputs.items()}
    key = step.key(step.config.model_validate(planned.config), digests)
    path = store.get(key) if key in tasks else None
    if path is None:
        return None
    digest = str(store.manifest(key)["digest"])
    return Result(path, digest, key, bool(tasks[key][HIT]), float(tasks[key][SECONDS]))
