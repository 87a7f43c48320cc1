"""`lwplugin compile`, and `lwplugin run --host`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwplugin.cli.output import json_option, only_json, write_json
from lwplugin.cli.run import model_option, plan_of, recipe_argument, tracking_option

if TYPE_CHECKING:
    from lwplugin.pipelines.kubeflow.compile import Deployment
    from lwplugin.pipelines.plan import Plan

DONE = "SUCCEEDED"


@contextmanager
def extra(name: str, *, why: str) -> Iterator[None]:
    """Around the import of an engine. Raises MissingExtraError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lwplugin"):
            raise
        from lwplugin.errors import MissingExtraError

        raise MissingExtraError(error.name, extra=name, why=why) from None


@click.command("compile", help="Write RECIPE as a pipeline file for an engine, and check it. Runs nothing.")
@recipe_argument
@click.option("--engine", type=click.Choice(["kubeflow"]), default="kubeflow", show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="pipeline.yaml",
    show_default=True,
)
@click.option("--image", help="Container image of the steps; default: LWPLUGIN_IMAGE.")
@click.option(
    "--at-start",
    is_flag=True,
    help="Look the model's alias up when a run starts, not now: for schedules. Needs no registry.",
)
@click.option(
    "--train",
    metavar="MODULE:FUNCTION",
    help="Your training first; it returns the models:/name/3 it registered.",
)
@click.option("--for-model", "models", multiple=True, metavar="URI", help="RECIPE for each of these models.")
@tracking_option
@model_option
@json_option
def compile_command(
    recipe: Path,
    engine: str,
    output: Path,
    image: str | None,
    at_start: bool,
    train: str | None,
    models: tuple[str, ...],
    tracking_uri: str | None,
    model: str | None,
    as_json: bool,
) -> int:
    if train and models:
        raise click.UsageError("--train makes one model, --for-model names others: give one of the two")
    if train and not all(train.rpartition(":")):
        raise click.UsageError(f"--train takes MODULE:FUNCTION, got '{train}'")
    with only_json(as_json) as out:
        from lwplugin.recipe import load_recipe

        with extra(engine, why=f"--engine {engine}"):
            from lwplugin.pipelines.kubeflow import ready
            from lwplugin.pipelines.kubeflow.compile import compile_plan
        if train:
            _look_at(train)
        for uri in models:
            load_recipe(recipe).of_model(uri)
        late = at_start or bool(train or models)
        plan = plan_of(recipe, model, tracking_uri, at_start=late)
        where = deployment(recipe, image, late)
        output.parent.mkdir(parents=True, exist_ok=True)
        if train:
            ready.compile_retrain(plan, where, output, train=train)
        elif models:
            ready.compile_batch(plan, where, output, models=models)
        else:
            compile_plan(plan, where, output)
        meant = list(models) or [plan.parent.uri]
        if as_json:
            write_json({"file": str(output), "recipe_digest": plan.recipe_digest, "models": meant}, out)
        else:
            click.echo(
                f"{output}: {', '.join(meant)}, {len(plan.steps)} steps, recipe {plan.recipe_digest[:12]}"
            )
        return 0


def _look_at(function: str) -> None:
    """Refuses a function that its module does not define, where that lies here; else the image may well hold it."""
    from lwplugin.data.foreseen import foresee
    from lwplugin.data.user_code import reference_parts, source_file
    from lwplugin.errors import DataError

    try:
        source_file(reference_parts(function, "training function")[0], "training function")
    except DataError:
        return
    foresee(function, what="training function")


def deployment(recipe: Path, image: str | None, at_start: bool = False) -> Deployment:
    """Where the recipe's pipeline will run."""
    from lwplugin.components.kubeflow import IMAGE
    from lwplugin.pipelines.kubeflow.compile import Deployment
    from lwplugin.recipe import load_recipe

    return Deployment(image or IMAGE, load_recipe(recipe).resources, at_start)


def submit_recipe(
    plan: Plan,
    recipe: Path,
    host: str,
    image: str | None,
    wait: bool,
    cron: str | None,
    as_json: bool,
    out: Any,
) -> int:
    """Start a run on a cluster, or a recurring one; with ``wait`` the exit code says whether it succeeded."""
    with extra("kubeflow", why="--host"):
        from lwplugin.pipelines.kubeflow.submit import submit
    run = submit(plan, deployment(recipe, image, cron is not None), host, cron=cron, wait=wait)
    if as_json:
        write_json({"run_id": run.run_id, "url": run.url, "state": run.state}, out)
    else:
        click.echo(run.url)
    return 0 if run.state in (None, DONE) else 2
