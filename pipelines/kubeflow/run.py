"""Running a compiled plan: here, by KFP's own subprocess runner and without a cluster, or on one."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kfp import Client, local
from kfp.components import load_component_from_file
from lwplugin.components import step_named
from lwplugin.components.carried import verdict_status
from lwplugin.components.kubeflow_task import HIT, KEY, SECONDS
from lwplugin.components.step import Result
from lwplugin.pipelines.kubeflow.compile import Deployment, compile_plan, pipeline_name
from lwplugin.pipelines.local import RunResult, StepRun
from lwplugin.pipelines.plan import Plan, PlannedStep

from lwplugin.artifact import Store
from lwplugin.errors import LwpluginError
from lwplugin.settings import variable


def run_here(plan: Plan, store: Store, log: TextIO) -> RunResult:
    """Every task as a process of its own on this machine; `resources` are for clusters and not heeded.

    The tasks share ``store``; what KFP carries between them lies in a temporary place, and what they and
    KFP print goes to ``log``.
    """
    with tempfile.TemporaryDirectory(prefix="lwplugin-kubeflow-") as folder, _environment(store):
        root, file = Path(folder), Path(folder) / "pipeline.yaml"
        compile_plan(plan, Deployment(), file)
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(root / "artifacts"), raise_on_error=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the image's name and the display names, which play no part here
            with redirect_stdout(log), redirect_stderr(log):
                load_component_from_file(str(file))()
        return _result(plan, store, _made(root / "artifacts"))


@dataclass(frozen=True)
class Submitted:
    """A run on a cluster."""

    run_id: str
    url: str
    state: str | None = None


def submit(
    plan: Plan,
    deployment: Deployment,
    host: str,
    *,
    experiment: str | None = None,
    namespace: str | None = None,
    cron: str | None = None,
    wait: bool = False,
) -> Submitted:
    """Compile and start a run, or with ``cron`` (six fields, seconds first) a recurring one.

    Credentials are KFP's own (a service account's token, KF_PIPELINES_* variables). Raises LwpluginError
    where the server refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_plan(plan, deployment, file)
        name = f"{pipeline_name(plan)} {plan.recipe_digest[:12]}"
        try:
            client = Client(host=host, namespace=namespace or "kubeflow")
            if cron is not None:
                home = client.create_experiment(experiment or "lwplugin", namespace=namespace)
                job = client.create_recurring_run(
                    home.experiment_id, name, cron_expression=cron, pipeline_package_path=str(file)
                )
                return Submitted(
                    job.recurring_run_id, f"{host}/#/recurringrun/details/{job.recurring_run_id}"
                )
            run = client.create_run_from_pipeline_package(
                str(file), run_name=name, experiment_name=experiment or "lwplugin", namespace=namespace
            )
            state = run.wait_for_run_completion().state if wait else None
        except Exception as error:  # urllib3's, the server's and the client's own share no base
            raise LwpluginError(
                f"Kubeflow Pipelines at {host} did not take the run",
                got=f"{type(error).__name__}: {error}".splitlines()[0],
                do="check --host, the namespace and your credentials",
            ) from error
    return Submitted(run.run_id, f"{host}/#/runs/details/{run.run_id}", state)


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


def _result(plan: Plan, store: Store, tasks: dict[str, dict[str, Any]]) -> RunResult:
    """The run as the local runner would tell it: a step's key says which task was its."""
    result = RunResult(plan)
    made: dict[str, Result] = {}
    for planned in plan.steps:
        result.steps.append(_step_run(planned, made, store, tasks))
    return result


def _step_run(
    planned: PlannedStep, made: dict[str, Result], store: Store, tasks: dict[str, dict[str, Any]]
) -> StepRun:
    def run(status: Any, **more: Any) -> StepRun:
        return StepRun(planned.id, planned.step, planned.target, status, **more)

    absent = [source for source in planned.inputs.values() if source not in made]
    if absent:
        return run("skipped", why=f"{absent[0]} has no result")
    if planned.only_if_passed and (verdict := verdict_status(made[planned.only_if_passed].path)) != "pass":
        return run("skipped", why=f"the verdict is {verdict}")
    step = step_named(planned.step)
    digests = {name: made[source].digest for name, source in planned.inputs.items()}
    key = step.key(step.config.model_validate(planned.config), digests)
    path = store.get(key)
    if key not in tasks or path is None:
        return run("failed", why="its task failed, see its log above")
    hit, seconds = bool(tasks[key][HIT]), float(tasks[key][SECONDS])
    digest = str(store.manifest(key)["digest"])
    made[planned.id] = Result(path, digest, key, hit, seconds)
    return run("found" if hit else "made", seconds=seconds, key=key, path=path, digest=digest)
