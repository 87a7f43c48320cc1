# mypy: disable-error-code="type-arg"
"""Ready pipelines: retrain, batch and fleet check, from the same parts as a single recipe's.

KFP reads the annotations of pipeline functions: no `from __future__ import annotations` here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl
from lwplugin.components import kubeflow_beside as beside
from lwplugin.pipelines.kubeflow.check import check_file
from lwplugin.pipelines.kubeflow.compile import Deployment, add_steps, pipeline_name, recording_failures
from lwplugin.pipelines.kubeflow.resources import give
from lwplugin.pipelines.plan import Plan

from lwplugin.resources import ALL

PARALLEL_MODELS = 4


def compile_retrain(
    plan: Plan, deployment: Deployment, file: Path, *, train: str, arguments: Mapping[str, Any] | None = None
) -> None:
    """Train, register, then the recipe on what was registered.

    ``train`` is `module:function` in the image, called with the run's parameter `arguments`; it registers and
    returns `models:/name/3`. (For a container of your own, see examples/kubeflow.)
    """
    given = dict(arguments or {})

    def pipeline(arguments: dict = given) -> None:
        with recording_failures(plan, deployment, plan.parent.uri):
            trained = beside.train(function=train, arguments=arguments)
            give(trained.set_caching_options(False).set_display_name("train"), deployment.of(ALL))
            add_steps(plan, deployment, trained.output)

    _write(pipeline, f"{pipeline_name(plan)}-retrain", file)


def compile_batch(plan: Plan, deployment: Deployment, file: Path, *, models: Sequence[str]) -> None:
    """One recipe for many models: the run's parameter `models`; a model that fails stops no other."""
    chosen = list(models)

    def pipeline(models: list = chosen) -> None:
        with (
            recording_failures(plan, deployment, "models:/batch"),
            dsl.ParallelFor(models, name="models", parallelism=PARALLEL_MODELS) as model,
        ):
            add_steps(plan, deployment, model)

    _write(pipeline, "lwplugin-batch", file)


def compile_fleet_check(
    policy: str, deployment: Deployment, file: Path, *, tracking_uri: str = "", remeasure: bool = False
) -> None:
    """Every registered version against ``policy`` (the text of a policy file); the run fails where one breaks it.

    With ``remeasure`` aliased light versions are run again, on the node that the task gets.
    """

    # In one line: KFP repeats a default in a comment at the head of the file, and a new line would end that.
    line = json.dumps(yaml.safe_load(policy))

    def pipeline(policy: str = line) -> None:
        task = beside.check_fleet(policy=policy, tracking_uri=tracking_uri, remeasure=remeasure)
        give(task.set_caching_options(False).set_display_name("fleet check"), deployment.of(ALL))

    _write(pipeline, "lwplugin-fleet-check", file)


def _write(pipeline: Any, name: str, file: Path) -> None:
    compiler.Compiler().compile(dsl.pipeline(name=name[:63])(pipeline), str(file))
    check_file(file)
