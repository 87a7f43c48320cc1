"""`lwplugin plan` and `lwplugin run`."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwplugin.cli.output import json_option, only_json, progress_on, table, write_json
from lwplugin.errors import RecipeError, did_you_mean
from lwplugin.gate.verdict import EXIT_CODES, SEVERITY, Status

if TYPE_CHECKING:
    from lwplugin.artifact import Store
    from lwplugin.pipelines.plan import Plan
    from lwplugin.pipelines.result import RunResult, StepRun

ENGINES = ("local", "kubeflow", "prefect")

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
store_option = click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False), help="Step results; default: LWPLUGIN_STORE."
)
tracking_option = click.option(
    "--tracking-uri", help="MLflow; default: the recipe's, then MLFLOW_TRACKING_URI."
)
model_option = click.option("--model", help="Another model than the recipe's, as models:/name/3.")


def worst(verdicts: Collection[str]) -> Status:
    """The verdict that counts for several targets; without any, error."""
    ranked: tuple[Status, ...] = (*SEVERITY, "pass")
    return next((status for status in ranked if status in verdicts), "error")


def open_store(store: Path | None) -> Store:
    """The store of the command line or of the settings."""
    from lwplugin import shared_store

    return shared_store.open_store(store)


def plan_of(
    recipe: Path,
    model: str | None,
    tracking_uri: str | None,
    *,
    at_start: bool = False,
    examples_here: bool = False,
) -> Plan:
    """Read the recipe, ask the registry which version it means (``at_start``: ask nobody yet), and plan.

    ``examples_here``: refuse a data block whose files, columns or function are not on this machine.
    """
    from lwplugin.pipelines.plan import make_plan
    from lwplugin.recipe import load_recipe
    from lwplugin.registry import Resolved, resolve

    loaded = load_recipe(recipe)
    if model is not None:
        loaded = loaded.of_model(model)
    if examples_here:
        loaded.data.check(loaded.task)
    if at_start:
        parent = Resolved.unknown(loaded.model)
    else:
        parent = resolve(loaded.model, tracking_uri=tracking_uri or loaded.tracking_uri)
    return make_plan(loaded, parent, tracking_uri=tracking_uri)


def chosen_target(recipe: Path, named: str | None, targets: Sequence[str]) -> str:
    """The target that --target names, or the only one. Raises RecipeError."""
    if named is None and len(targets) == 1:
        return targets[0]
    if named is None:
        raise RecipeError(f"{recipe} has several targets", do=f"say --target {'|'.join(targets)}")
    if named not in targets:
        raise RecipeError(f"{recipe} has no target '{named}'", do=did_you_mean(named, targets))
    return named


@click.command("plan", help="Show what RECIPE would run and what the store already has. Runs nothing.")
@recipe_argument
@store_option
@tracking_option
@model_option
@json_option
def plan_command(
    recipe: Path, store: Path | None, tracking_uri: str | None, model: str | None, as_json: bool
) -> int:
    with only_json(as_json) as out:
        plan = plan_of(recipe, model, tracking_uri, examples_here=True)
        return _show_plan(plan, open_store(store), as_json, out)


def _show_plan(plan: Plan, store: Store, as_json: bool, out: Any) -> int:
    from lwplugin.components import step_named
    from lwplugin.pipelines.local import look_up

    found = look_up(plan, store)
    states = {
        step.id: "found" if found[step.id] else "run" if step_named(step.step).cached else "ask registry"
        for step in plan.steps
    }
    if as_json:
        document = plan.to_json()
        for step in document["steps"]:
            artifact = found[step["id"]]
            step["state"] = "found" if artifact else "run"
            step["path"] = str(artifact.path) if artifact else None
        write_json(document, out)
        return 0
    rows = [("step", "needs", "state")]
    rows += [
        (step.id, ", ".join(dict.fromkeys(step.inputs.values())), states[step.id]) for step in plan.steps
    ]
    click.echo(f"{plan.parent.uri}, recipe {plan.recipe_digest[:12]}, store {store.root}")
    click.echo(table(rows))
    return 0


@click.command("run", help="Carry RECIPE out. Steps the store already has are not run again.")
@recipe_argument
@store_option
@tracking_option
@model_option
@click.option("--dry-run", is_flag=True, help="The same as `lwplugin plan`.")
@click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True)
@click.option(
    "--host", help="Kubeflow Pipelines' address; without it, kubeflow runs here, without a cluster."
)
@click.option("--image", help="Container image of the steps on Kubeflow; default: LWPLUGIN_IMAGE.")
@click.option("--wait", is_flag=True, help="With --host: until the run has ended.")
@click.option(
    "--cron",
    metavar="'S M H D M W'",
    help="With --host: a recurring run by these six fields, seconds first; the alias is looked up each time.",
)
@click.option("--again", multiple=True, metavar="STEP", help="Run this step though the store has it.")
@click.option("--report", "reports", type=click.Path(path_type=Path), help="Copy the reports below this.")
@click.option("--quiet", is_flag=True, help="Say nothing until the end.")
@json_option
def run_command(
    recipe: Path,
    store: Path | None,
    tracking_uri: str | None,
    model: str | None,
    dry_run: bool,
    engine: str,
    host: str | None,
    image: str | None,
    wait: bool,
    cron: str | None,
    again: tuple[str, ...],
    reports: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    _check_options(engine, host, again, cron, image, wait)
    with only_json(as_json) as out:
        here = host is None
        plan = plan_of(recipe, model, tracking_uri, at_start=cron is not None, examples_here=here)
        place = open_store(store)
        known = [step.id for step in plan.steps]
        for step_id in again:
            if step_id not in known:
                raise click.UsageError(f"--again: no step '{step_id}'; {did_you_mean(step_id, known)}")
        if dry_run:
            return _show_plan(plan, place, as_json, out)
        if reports is not None:  # that it cannot be there is told before hours of work
            reports.mkdir(parents=True, exist_ok=True)
        if host is not None:
            from lwplugin.cli.compile import submit_recipe

            return submit_recipe(plan, recipe, host, image, wait, cron, as_json, out)
        result = (
            _on_prefect(plan, place, recipe, again)
            if engine == "prefect"
            else _run(plan, place, recipe, again, quiet, kubeflow=engine == "kubeflow")
        )
        summaries = _summaries(result, reports)
        verdict = worst(result.verdicts.values())
        if as_json:
            write_json(_document(result, verdict, summaries), out)
        else:
            _show_result(result, summaries, told=engine != "prefect" and not quiet)
        return EXIT_CODES[verdict]


def _check_options(
    engine: str, host: str | None, again: tuple[str, ...], cron: str | None, image: str | None, wait: bool
) -> None:
    if host is not None and engine != "kubeflow":
        raise click.UsageError("--host belongs to --engine kubeflow; Prefect's server is PREFECT_API_URL")
    if cron is not None and host is None:
        raise click.UsageError(
            "--cron belongs to --host: a schedule needs a server; for Prefect, see `lwplugin docs engines`"
        )
    if host is None and (image is not None or wait):
        raise click.UsageError("--image and --wait belong to --host: here steps run without a cluster")
    if wait and cron is not None:
        raise click.UsageError("--wait waits for one run, --cron starts many: give one of the two")
    if again and engine == "kubeflow":
        raise click.UsageError("--again works with the engines local and prefect")


def _on_prefect(plan: Plan, store: Store, recipe: Path, again: tuple[str, ...]) -> RunResult:
    from lwplugin.cli.compile import extra
    from lwplugin.recipe import load_recipe

    # Without PREFECT_API_URL Prefect starts a server of its own, which on a busy machine takes a while.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # it would tell its maker of every run
    with extra("prefect", why="--engine prefect"):
        from lwplugin.pipelines.prefect.compress import run_plan_on_prefect
    return run_plan_on_prefect(plan, store, load_recipe(recipe).resources, again=again)


def _run(
    plan: Plan, store: Store, recipe: Path, again: tuple[str, ...], quiet: bool, *, kubeflow: bool
) -> RunResult:
    from lwplugin.cli.compile import extra
    from lwplugin.log import log, log_to_stderr
    from lwplugin.pipelines.local import run_plan
    from lwplugin.recipe import load_recipe
    from lwplugin.run_context import running
    from lwplugin.settings import settings
    from lwplugin.tracing import span

    _limit_threads()
    store.sweep()
    width = max(len(step.id) for step in plan.steps)
    as_lines = settings().log == "json"
    if as_lines:
        log_to_stderr()
    progress = progress_on(sys.stderr, quiet=quiet or as_lines)

    def ended(run: StepRun) -> None:
        progress.restart()
        if as_lines:
            log("step ended", **{k: v for k, v in vars(run).items() if v is not None and k != "path"})
        elif not quiet:
            click.echo(f"{run.id:<{width}}  {run.status:<7}  {_took(run)}", err=True)

    def broke(last_lines: Sequence[str]) -> None:
        if not quiet and not as_lines:
            click.echo("\n".join(f"    | {line}" for line in last_lines), err=True)

    try:
        if not quiet and not as_lines:
            click.echo(f"{plan.parent.uri}, recipe {plan.recipe_digest[:12]}, store {store.root}", err=True)
        resources = load_recipe(recipe).resources
        what = {"run": uuid.uuid4().hex, "model": plan.parent.uri, "recipe": plan.recipe_digest}
        with running(**what), span("run"):
            log("run started")
            if kubeflow:
                with extra("kubeflow", why="--engine kubeflow"):
                    from lwplugin.pipelines.kubeflow.here import run_here
                return run_here(plan, store, progress=progress, ended=ended, broke=broke)
            return run_plan(plan, store, progress=progress, ended=ended, again=again, resources=resources)
    finally:
        progress.close()


def _took(run: StepRun) -> str:
    if run.why is not None:
        hint = " (LWPLUGIN_DEBUG=1 shows where)" if run.why.startswith("unexpected ") else ""
        return run.why + hint
    return f"{run.seconds:6.1f} s"


def _limit_threads() -> None:
    from lwplugin.settings import settings

    if settings().threads:
        import torch

        torch.set_num_threads(settings().threads)


def _summaries(result: RunResult, reports: Path | None) -> dict[str, dict[str, Any]]:
    from lwplugin.pipelines.summary import summarise

    found = {target: summarise(result, target) for target in result.plan.targets}
    if reports is not None:
        for target, place in result.reports.items():
            shutil.copytree(place, reports / target, dirs_exist_ok=True)
            found[target]["report"] = str(reports / target)
    return found


def _document(result: RunResult, verdict: str, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "recipe_digest": result.plan.recipe_digest,
        "parent": result.plan.parent.uri,
        "targets": summaries,
        "steps": [
            {
                "id": run.id,
                "step": run.step,
                "target": run.target,
                "status": run.status,
                "seconds": round(run.seconds, 3),
                "key": run.key,
                "digest": run.digest,
                "path": None if run.path is None else str(run.path),
                "error": run.why,
            }
            for run in result.steps
        ],
    }


def _show_result(result: RunResult, summaries: dict[str, dict[str, Any]], *, told: bool) -> None:
    from lwplugin.cli.tables import target_table

    for target, summary in summaries.items():
        click.echo()
        click.echo(target_table(target, summary))
    for run in result.steps:
        if run.status == "failed" and not told:
            click.echo(f"error: {run.id}: {run.why}", err=True)
