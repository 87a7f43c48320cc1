"""`lwplugin report`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from lwplugin.cli.output import json_option, only_json, write_json
from lwplugin.cli.run import model_option, open_store, plan_of, recipe_argument, store_option, tracking_option
from lwplugin.errors import RecipeError


@click.command("report", help="Say where the reports of RECIPE lie; copy or open them.")
@recipe_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Copy each target's report below this.")
@click.option("--open", "browse", is_flag=True, help="Open them in a browser.")
@store_option
@tracking_option
@model_option
@json_option
def report_command(
    recipe: Path,
    output: Path | None,
    browse: bool,
    store: Path | None,
    tracking_uri: str | None,
    model: str | None,
    as_json: bool,
) -> int:
    with only_json(as_json) as out:
        from lwplugin.pipelines.local import look_up

        plan = plan_of(recipe, model, tracking_uri)
        found = look_up(plan, open_store(store), judge=False)
        made = {step.target: found[step.id] for step in plan.steps if step.step == "report"}
        reports = {str(target): item.path for target, item in made.items() if item is not None}
        if not reports:
            raise RecipeError("The store has no report of this recipe", do=f"lwplugin run {recipe}")
        if output is not None:
            for target, place in reports.items():
                shutil.copytree(place, output / target, dirs_exist_ok=True)
            reports = {target: output / target for target in reports}
        if as_json:
            write_json({target: str(place) for target, place in reports.items()}, out)
        for target, place in reports.items():
            if not as_json:
                click.echo(f"{target}: {place / 'report.html'}")
            if browse:
                click.launch(str(place / "report.html"))
    return 0
