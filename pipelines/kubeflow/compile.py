"""From a plan to KFP's pipeline: one task per step, registration behind the verdict, failures recorded.

KFP reads the annotations of pipeline functions: no `from __future__ import annotations` here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from lwplugin.components import kubeflow as components
from lwplugin.components import kubeflow_beside as beside
from lwplugin.components import step_named
from lwplugin.components.carried import complete_config
from lwplugin.components.kubeflow_task import RESULT
from lwplugin.components.step import always
from lwplugin.pipelines.kubeflow.check import check_file
from lwplugin.pipelines.kubeflow.resources import give
from lwplugin.pipelines.plan import Plan, PlannedStep

from lwplugin.artifact import digest_json
from lwplugin.errors import LwpluginError
from lwplugin.resources import ALL, Resources, resources_of


@dataclass(frozen=True)
class Deployment:
    """What a pipeline needs to know of the place where it will run.

    ``at_start``: the model's alias is looked up when a run starts, not now, as schedules want it; KFP's own
    cache is then off, since what a result depends on is not known yet (the store's is not).
    """

    image: str = components.IMAGE
    resources: Mapping[str, Resources] = field(default_factory=dict)
    at_start: bool = False

    def of(self, step: str) -> Resources:
        """What ``step`` gets, its image included."""
        found = resources_of(self.resources, step)
        return found if found.image else found.model_copy(update={"image": self.image})


def compile_plan(plan: Plan, deployment: Deployment, file: Path) -> None:
    """Write the pipeline (IR YAML, with the Kubernetes part behind it) and check it.

    The pipeline's one parameter, `model`, says which version it starts from; the default is the plan's
    parent. Raises LwpluginError where the graph does not close.
    """
    compiler.Compiler().compile(pipeline_of(plan, deployment, plan.parent.uri), str(file))
    check_file(file)


def pipeline_of(plan: Plan, deployment: Deployment, model: str) -> Any:
    """The plan as a KFP pipeline, which may also stand inside another one."""
    keys = {} if deployment.at_start else cache_keys(plan, deployment)

    def pipeline(model: str = model) -> None:
        with recording_failures(plan, deployment, model):
            add_steps(plan, deployment, model, keys)

    description = (
        f"lwplugin: {plan.parent.name} for {', '.join(plan.targets)}, recipe {plan.recipe_digest[:12]}"
    )
    return dsl.pipeline(name=pipeline_name(plan), description=description)(pipeline)


@contextmanager
def recording_failures(plan: Plan, deployment: Deployment, model: Any) -> Iterator[None]:
    """Whatever fails inside becomes a failed run in the registry."""
    on_exit = beside.record_failure(
        model=model, recipe_digest=plan.recipe_digest, tracking_uri=plan.tracking_uri or ""
    )
    give(on_exit.set_caching_options(False).set_display_name("record failure"), deployment.of(ALL))
    with dsl.ExitHandler(on_exit, name="steps"):
        yield


def pipeline_name(plan: Plan) -> str:
    """`lwplugin-<model>` in the letters Kubernetes allows."""
    return f"lwplugin-{re.sub(r'[^a-z0-9]+', '-', plan.parent.name.lower()).strip('-')}"[:63].rstrip("-")


def add_steps(
    plan: Plan, deployment: Deployment, model: Any, keys: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """The plan's tasks in the pipeline that is being built: step id → task.

    ``model`` is a `models:/…` URI or a channel that holds one. What one target needs waits for no other; what would be
    done in vain without an earlier step waits for it.
    """
    awaited = plan.awaited()
    tasks: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for planned in plan.steps:
        inputs = {name: results[source] for name, source in planned.inputs.items()}
        config = _config(planned, model, tasks)
        make: Callable[..., Any] = getattr(components, planned.step)
        if planned.only_if_passed is None:
            task = make(**inputs, **config)
        else:
            status = tasks[planned.only_if_passed].outputs["Output"]
            with dsl.If(status == "pass", name=f"passed-{planned.target}"):
                task = make(**inputs, **config)
        if planned.only_if_passed is None:  # what stands behind a verdict has waited for everything
            task.after(*(tasks[earlier] for earlier in awaited[planned.id]))
        key = (keys or {}).get(planned.id)
        task.set_display_name(planned.id).set_caching_options(key is not None, cache_key=key)
        give(task, deployment.of(planned.step))
        tasks[planned.id], results[planned.id] = task, task.outputs[RESULT[planned.step]]
    return tasks


def _config(planned: PlannedStep, model: Any, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The component's own arguments: the version comes from pull, which looked it up."""
    config: dict[str, Any] = plain(planned.config)
    _same_inside(planned, config)
    if planned.step == "pull":
        del config["version"]
        return {"model": model, **config}
    if "parent" in config:
        config["parent"] = tasks["pull"].outputs["Output"]
    return config


def plain(value: Any) -> Any:
    """As KFP carries it: no null, and a float without a fraction may become an integer."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _same_inside(planned: PlannedStep, config: Mapping[str, Any]) -> None:
    step = step_named(planned.step)
    asked = step.config.model_validate(planned.config).model_dump(mode="json")
    if digest_json(complete_config(step, config).model_dump(mode="json")) != digest_json(asked):
        raise LwpluginError(
            f"Step '{planned.id}' has an option that Kubeflow cannot carry",
            got=f"{planned.config}, of which it keeps {dict(config)}",
            do="leave options that are null out of the recipe",
        )


def cache_keys(plan: Plan, deployment: Deployment) -> dict[str, str | None]:
    """Step id → the digest of all its result can depend on, which KFP's own cache then goes by.

    None, so no cache, where that is not known before the run: a measurement depends on the machine, the
    registry knows best what it holds, and examples may not be readable here. Digests of inputs are not
    known either, so the keys of the steps that make them stand for them.
    """
    keys: dict[str, str | None] = {}
    for planned in plan.steps:
        keys[planned.id] = _cache_key(planned, keys, deployment.of(planned.step).image)
    return keys


def _cache_key(planned: PlannedStep, keys: Mapping[str, str | None], image: str | None) -> str | None:
    step = step_named(planned.step)
    before = {name: keys[source] for name, source in planned.inputs.items()}
    known = {name: key for name, key in before.items() if key is not None}
    if not step.cached or step.reusable is not always or len(known) < len(before):
        return None
    try:
        identity = step.identity(step.config.model_validate(planned.config), known)
    except (LwpluginError, OSError):
        return None
    return digest_json({"image": image, **identity})
