# mypy: disable-error-code="type-arg"
"""The steps as Kubeflow Pipelines components, for `lwplugin compile` and for anybody's own pipeline.

>>> from lwplugin.components.kubeflow import pull, prune  # doctest: +SKIP
>>> parent = pull(model="models:/net@champion")  # doctest: +SKIP
>>> light = prune(bundle=parent.outputs["light"], data={"source": "digits"}, options={"macs": 0.5})

Nothing is installed when a task starts: the image holds lwplugin and kfp. It is LWPLUGIN_IMAGE where that
is set when this module is imported; `task.set_container_image(…)` gives one task another. What a config
leaves out has the default of the step's config (components/<step>/README.md).

KFP copies each function's source into the pipeline, so the functions import inside and share no helper;
and it reads their annotations, so this file has no `from __future__ import annotations` and says plain `dict`.
"""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl

import lwplugin

IMAGE = os.environ.get("LWPLUGIN_IMAGE") or f"lwplugin:{lwplugin.__version__}-cpu"


def component(function: Callable[..., Any]) -> Any:
    """A lightweight component on our image with nothing to install."""
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])


@component
def pull(light: dsl.Output[dsl.Model], model: str, tracking_uri: str = "") -> dict:
    """Download a registered model version and keep it as a bundle.

    Args:
        model: `models:/name@alias`, looked up when the task starts, or `models:/name/3`.
        tracking_uri: MLflow; default: the pod's MLFLOW_TRACKING_URI.

    Returns:
        light: The bundle.
        Output: The version that was meant, for report and register.
    """
    from lwplugin.components.kubeflow_task import run_task

    from lwplugin.registry import resolve

    found = resolve(model, tracking_uri=tracking_uri or None).pinned
    version = found.model_dump(mode="json", exclude_none=True)  # KFP knows no null
    run_task("pull", {"version": version, "tracking_uri": tracking_uri}, {}, light)
    return version


@component
def prune(
    bundle: dsl.Input[dsl.Model],
    light: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    method: str = "",
    options: dict = {},  # noqa: B006
) -> None:
    """Remove weights, channels, heads or blocks.

    Args:
        bundle: The result of pull or of a compression step.
        data: A recipe's data block, as in `{"source": "digits"}`.
        task: A recipe's task.
        method: One of `lwplugin methods prune`; default: the family's own.
        options: The method's options.

    Returns:
        light: The lighter bundle.
        metrics: What the method says of itself.
    """
    from lwplugin.components.kubeflow_task import run_task

    config = {"method": method, "options": options, "data": data, "task": task}
    run_task("prune", config, {"bundle": bundle}, light, metrics)


@component
def factorize(
    bundle: dsl.Input[dsl.Model],
    light: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    method: str = "",
    options: dict = {},  # noqa: B006
) -> None:
    """Replace layers by products of smaller ones.

    Args:
        bundle: The result of pull or of a compression step.
        data: A recipe's data block, as in `{"source": "digits"}`.
        task: A recipe's task.
        method: One of `lwplugin methods factorize`; default: the family's own.
        options: The method's options.

    Returns:
        light: The lighter bundle.
        metrics: What the method says of itself.
    """
    from lwplugin.components.kubeflow_task import run_task

    config = {"method": method, "options": options, "data": data, "task": task}
    run_task("factorize", config, {"bundle": bundle}, light, metrics)


@component
def distill(
    bundle: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    light: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    method: str = "",
    options: dict = {},  # noqa: B006
    tracking_uri: str = "",
) -> None:
    """Train a student towards a teacher's answers.

    Args:
        bundle: The student: the result of pull or of a compression step.
        teacher: pull's result, or another bundle with the same answers' shape.
        data: A recipe's data block, as in `{"source": "digits"}`.
        task: A recipe's task.
        method: One of `lwplugin methods distill`; default: the family's own.
        options: The method's options.
        tracking_uri: MLflow, for teachers named models:/…; default: the pod's MLFLOW_TRACKING_URI.

    Returns:
        light: The lighter bundle.
        metrics: What the method says of itself.
    """
    from lwplugin.components.kubeflow_task import run_task

    config = {"method": method, "options": options, "data": data, "task": task, "tracking_uri": tracking_uri}
    run_task("distill", config, {"bundle": bundle, "teacher": teacher}, light, metrics)


@component
def quantize(
    bundle: dsl.Input[dsl.Model],
    light: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    method: str = "",
    options: dict = {},  # noqa: B006
) -> None:
    """Keep weights and activations in fewer bits.

    Args:
        bundle: The result of pull or of a compression step.
        data: A recipe's data block, as in `{"source": "digits"}`.
        task: A recipe's task.
        method: One of `lwplugin methods quantize`; default: the family's own.
        options: The method's options.

    Returns:
        light: The lighter bundle.
        metrics: What the method says of itself.
    """
    from lwplugin.components.kubeflow_task import run_task

    config = {"method": method, "options": options, "data": data, "task": task}
    run_task("quantize", config, {"bundle": bundle}, light, metrics)


@component
def export(
    bundle: dsl.Input[dsl.Model],
    exported: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    format: str = "onnx",  # noqa: A002
    batch: int = 0,
    corruptions: list = [],  # noqa: B006
    needs_labels: bool = False,
) -> None:
    """Write a bundle in a deployment format, compared with the torch model on real inputs.

    Args:
        bundle: The result of pull or of a compression step.
        data: A recipe's data block.
        task: A recipe's task.
        format: The deployment format.
        batch: Examples of one inference, for formats whose files run one number of them; 0: not said.
        corruptions: Corrupted copies that will be measured later, refused here where the examples cannot have them.
        needs_labels: A metric will be bounded later, refused here where test or its labels are missing.

    Returns:
        exported: The file, its description and its cost.
        metrics: MACs and parameters.
    """
    from lwplugin.components.kubeflow_task import run_task

    config: dict = {
        "format": format,
        "data": data,
        "task": task,
        "corruptions": corruptions,
        "needs_labels": needs_labels,
    }
    if batch:  # KFP's own runner takes no null
        config["batch"] = batch
    run_task("export", config, {"bundle": bundle}, exported, metrics)


@component
def measure(
    candidate: dsl.Input[dsl.Model],
    baseline: dsl.Input[dsl.Model],
    light: dsl.Input[dsl.Model],
    parent: dsl.Input[dsl.Model],
    comparison: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    device: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    options: dict = {},  # noqa: B006
) -> None:
    """Measure candidate and parent interleaved, in the target's runtime, on the machine the task runs on.

    Args:
        candidate: The light model's export.
        baseline: The parent's export in the same format.
        light: The bundle the candidate was exported from.
        parent: pull's result.
        data: A recipe's data block.
        task: A recipe's task.
        device: `cpu`, `cuda`, or a device of the inventory that LWPLUGIN_DEVICES names in the pod.
        threads: Threads of the runtime.
        batch: Examples per inference.
        options: A recipe's measure block.

    Returns:
        comparison: Both measurements and the scores of every example.
        metrics: Accuracy, latency, size and memory of both, and the speed-up.
    """
    from lwplugin.components.kubeflow_task import run_task

    config = {"device": device, "threads": threads, "batch": batch, "options": options}
    config |= {"data": data, "task": task}
    inputs = {"candidate": candidate, "baseline": baseline, "light": light, "parent": parent}
    run_task("measure", config, inputs, comparison, metrics)


@component
def gate(
    comparison: dsl.Input[dsl.Artifact],
    export: dsl.Input[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    policy: dict,
    budget: dict = {},  # noqa: B006
) -> str:
    """Decide with statistics whether a measured candidate may take its parent's place.

    Succeeds whatever the verdict says; put what follows a pass behind
    `dsl.If(gate_task.outputs["Output"] == "pass")`.

    Args:
        comparison: measure's result.
        export: The light model's export.
        policy: A recipe's gate block, as in `{"max_drop": {"accuracy": 0.01}}`.
        budget: A target's upper limits.

    Returns:
        verdict: Every check with its estimate, bound and n.
        Output: pass, fail, inconclusive or error.
    """
    from lwplugin.components.carried import verdict_status
    from lwplugin.components.kubeflow_task import run_task

    inputs = {"comparison": comparison, "export": export}
    done = run_task("gate", {"policy": policy, "budget": budget}, inputs, verdict, metrics)
    return verdict_status(done.path)


@component
def report(
    light: dsl.Input[dsl.Model],
    export: dsl.Input[dsl.Model],
    parent_export: dsl.Input[dsl.Model],
    comparison: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    model_card: dsl.Output[dsl.Markdown],
    files: dsl.Output[dsl.Artifact],
    parent: dict,
    target: dict,
    recipe: dict,
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
) -> None:
    """Draw what a run made for a target.

    Args:
        light: The last compression step's result.
        export: The light model's export.
        parent_export: The parent's export.
        comparison: measure's result.
        verdict: gate's result.
        parent: pull's `Output`.
        target: A recipe's target.
        recipe: The whole recipe.
        data: A recipe's data block.
        task: A recipe's task.

    Returns:
        page: One page for the Kubeflow screen.
        model_card: The card for the registry.
        files: Page, card, JSON and JUnit.
    """
    import shutil

    from lwplugin.components.kubeflow_task import run_task

    config = {"parent": parent, "target": target, "recipe": recipe, "data": data, "task": task}
    inputs = {"light": light, "export": export, "parent_export": parent_export}
    inputs |= {"comparison": comparison, "verdict": verdict}
    done = run_task("report", config, inputs, files)
    shutil.copy(done.path / "report.html", page.path)
    shutil.copy(done.path / "model_card.md", model_card.path)


@component
def register(
    light: dsl.Input[dsl.Model],
    export: dsl.Input[dsl.Model],
    comparison: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
    parent: dict,
    target: str,
    recipe_digest: str,
    data: dict,
    task: dict = {"name": "classification"},  # noqa: B006
    recipe: dict = {},  # noqa: B006
    threads: int = 1,
    alias: str = "",
    name: str = "",
    override: str = "",
    tracking_uri: str = "",
) -> str:
    """Register a version that passed, with its lineage, once. Reads and verifies the verdict itself.

    Args:
        light: The last compression step's result.
        export: The light model's export.
        comparison: measure's result.
        verdict: gate's result.
        report: report's `files`.
        parent: pull's `Output`.
        target: The target's name.
        recipe_digest: Becomes a tag of the version.
        data: A recipe's data block.
        task: A recipe's task.
        recipe: Becomes the run's params.
        threads: Threads it was measured with.
        alias: Moved to the new version last.
        name: Registered model; default: the parent's own.
        override: A reason to register against the verdict; recorded.
        tracking_uri: MLflow; default: the pod's MLFLOW_TRACKING_URI.

    Returns:
        registration: What the registry holds now.
        Output: `models:/name/4`.
    """
    import json

    from lwplugin.components.kubeflow_task import run_task

    config: dict = {"parent": parent, "target": target, "recipe_digest": recipe_digest, "recipe": recipe}
    config |= {"data": data, "task": task, "threads": threads, "alias": alias, "name": name}
    config |= {"override": override, "tracking_uri": tracking_uri}
    inputs = {
        "light": light,
        "export": export,
        "comparison": comparison,
        "verdict": verdict,
        "report": report,
    }
    done = run_task("register", config, inputs, registration)
    uri: str = json.loads((done.path / "registration.json").read_text())["uri"]
    return uri
