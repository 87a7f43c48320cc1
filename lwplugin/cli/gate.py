"""`lwplugin gate`."""

from __future__ import annotations

from pathlib import Path

import click

from lwplugin.cli.output import json_option, only_json, table, write_file, write_json
from lwplugin.cli.run import chosen_target


@click.command("gate", help="Judge the COMPARISON directory of a measure step by the policy of a recipe.")
@click.argument("comparison", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--recipe", type=click.Path(path_type=Path), required=True, help="Holds the policy and budgets."
)
@click.option("--target", help="Whose budget counts; may be left out where the recipe has one target.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Save verdict.json in this directory.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the checks as JUnit XML.")
@json_option
def gate_command(
    comparison: Path, recipe: Path, target: str | None, output: Path | None, junit: Path | None, as_json: bool
) -> int:
    with only_json(as_json) as out:
        from lwplugin.gate import gate, junit_xml
        from lwplugin.recipe import load_recipe

        loaded = load_recipe(recipe)
        names = [each.name for each in loaded.targets]
        target = chosen_target(recipe, target, names)
        budget = loaded.targets[names.index(target)].budget
        verdict = gate(comparison, loaded.gate, budget=budget)
        if output is not None:
            verdict.save(output)
        if junit is not None:
            write_file(junit, junit_xml(verdict))
        if as_json:
            write_json(verdict.model_dump(mode="json"), out)
        else:
            click.echo(f"{verdict.status.upper()}. {verdict.reason}")
            rows = [(check.name, check.status, check.message) for check in verdict.checks]
            if rows:
                click.echo(table([("check", "status", "answer"), *rows]))
    return verdict.exit_code
