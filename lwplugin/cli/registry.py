"""`lwplugin register`, `promote` and `rollback`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from lwplugin.cli.check import held_to
from lwplugin.cli.output import json_option, only_json, progress_on, table, write_json
from lwplugin.cli.run import (
    chosen_target,
    model_option,
    open_store,
    plan_of,
    recipe_argument,
    store_option,
    tracking_option,
)
from lwplugin.errors import RecipeError, RegistryError

_VERSION = re.compile(r"^models:/(?P<name>[^/@]+)/(?P<version>\d+)$")
_ALIAS = re.compile(r"^models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)$")


@click.command("register", help="Register what RECIPE made for a target, from the store; runs nothing else.")
@recipe_argument
@click.option("--target", help="May be left out where the recipe has one target.")
@click.option("--override", metavar="REASON", help="Register against the verdict; the reason is recorded.")
@store_option
@tracking_option
@model_option
@json_option
def register_command(
    recipe: Path,
    target: str | None,
    override: str | None,
    store: Path | None,
    tracking_uri: str | None,
    model: str | None,
    as_json: bool,
) -> int:
    with only_json(as_json) as out:
        from lwplugin.components import step_named
        from lwplugin.components.step import execute
        from lwplugin.pipelines.local import look_up

        plan, place = plan_of(recipe, model, tracking_uri), open_store(store)
        target = chosen_target(recipe, target, plan.targets)
        planned = next(
            (step for step in plan.steps if (step.step, step.target) == ("register", target)), None
        )
        if planned is None:
            raise RecipeError(f"{recipe} registers nothing", do="add a block `register: {alias: …}` to it")
        found = look_up(plan, place, judge=False)
        inputs = {name: found[source] for name, source in planned.inputs.items()}
        ready = {name: item for name, item in inputs.items() if item is not None}
        if len(ready) < len(inputs):
            lacking = sorted(planned.inputs[name] for name, item in inputs.items() if item is None)
            raise RecipeError(
                "The store has not all that a registration needs",
                got=f"nothing of {', '.join(lacking)}",
                do=f"lwplugin run {recipe}",
            )
        step = step_named("register")
        config = step.config.model_validate({**planned.config, "override": override})
        progress = progress_on(sys.stderr)
        try:
            done = execute(step, config, ready, place, progress=progress)
        finally:
            progress.close()
        text = (done.path / "registration.json").read_text(encoding="utf-8")
        if as_json:
            out.write(text)
        else:
            import json

            made = json.loads(text)
            state = "registered" if made["created"] else "was registered already"
            click.echo(f"{made['uri']} {state}, alias {made['alias']}")
    return 0


@click.command("promote", help="Point an alias to VERSION, written models:/name/3.")
@click.argument("version")
@click.option("--alias", required=True)
@click.option("--reason", required=True, help="Recorded in the decision log.")
@click.option(
    "--override", metavar="REASON", help="Promote without a passing verdict or against the policy; recorded."
)
@click.option(
    "--policy", type=click.Path(path_type=Path, dir_okay=False), help="Must hold for it under this alias."
)
@click.option("--by", metavar="NAME", help="Who decides; default: the account.")
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def promote_command(
    version: str,
    alias: str,
    reason: str,
    override: str | None,
    policy: Path | None,
    by: str | None,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    match = _VERSION.match(version)
    if match is None:
        raise RegistryError("Not a version", got=version, do="write models:/<name>/<number>")
    with only_json(as_json) as out:
        from lwplugin.registry import promote

        if policy is not None:
            found = held_to(policy, version, tracking_uri, as_alias=alias)
            if found.status != "pass" and override is None:
                click.echo(f"not promoted, {found.status}: {found.reason}", err=True)
                if as_json:
                    write_json(found.document(everything=False), out)
                return found.exit_code
        moved = promote(
            match["name"],
            match["version"],
            alias,
            reason=reason,
            override=override,
            who=by,
            tracking_uri=tracking_uri,
        )
        if as_json:
            write_json(moved.model_dump(mode="json"), out)
        else:
            before = f", before: version {moved.previous}" if moved.previous else ""
            click.echo(f"{moved.name}@{moved.alias} is version {moved.version}{before}")
    return 0


@click.command("rollback", help="Point ALIAS, written models:/name@alias, back to the version before.")
@click.argument("alias")
@click.option("--reason", default="rolled back", show_default=True, help="Recorded in the decision log.")
@click.option("--by", metavar="NAME", help="Who decides; default: the account.")
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def rollback_command(alias: str, reason: str, by: str | None, tracking_uri: str | None, as_json: bool) -> int:
    match = _ALIAS.match(alias)
    if match is None:
        raise RegistryError("Not an alias", got=alias, do="write models:/<name>@<alias>")
    with only_json(as_json) as out:
        from lwplugin.registry import rollback

        moved = rollback(match["name"], match["alias"], reason=reason, who=by, tracking_uri=tracking_uri)
        if as_json:
            write_json(moved.model_dump(mode="json"), out)
        else:
            click.echo(f"{moved.name}@{moved.alias} is version {moved.version} again")
    return 0


@click.command("decisions", help="Show or export the decision log of MODEL, checked to be as it was written.")
@click.argument("model")
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def decisions_command(model: str, tracking_uri: str | None, as_json: bool) -> int:
    with only_json(as_json) as out:
        from lwplugin.registry import decision_log

        log = decision_log(model.removeprefix("models:/"), tracking_uri=tracking_uri)
        if as_json:
            write_json([entry.model_dump(mode="json") for entry in log], out)
            return 0
        rows = [("at", "who", "what", "verdict", "why")]
        for entry in log:
            what = f"{entry.action} {entry.alias}: {entry.previous or '–'} → {entry.version}"
            override = f" (override: {entry.override})" if entry.override else ""
            rows.append((entry.at, entry.who, what, entry.verdict or "–", entry.reason + override))
        click.echo(table(rows) if log else "no decisions")
    return 0
