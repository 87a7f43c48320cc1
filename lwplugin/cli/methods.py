"""`lwplugin methods` and `lwplugin settings`."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import click

from lwplugin.cli.output import json_option, only_json, table, write_json


@click.command("methods", help="List the methods of every FAMILY (or one), and the options of one METHOD.")
@click.argument("family", required=False)
@click.argument("method", required=False)
@json_option
def methods_command(family: str | None, method: str | None, as_json: bool) -> int:
    from lwplugin.methods import default_method, families, methods

    with only_json(as_json) as out:
        wanted = (family,) if family else families()
        rows = []
        for name in wanted:
            known = methods(name)
            chosen = known if method is None else (method,)
            rows += [_described(name, each, default_method(name)) for each in chosen]
        if as_json:
            write_json(rows, out)
        elif method is not None:
            click.echo(f"{rows[0]['family']}/{rows[0]['method']}: {rows[0]['summary']}\n")
            click.echo(table([("option", "default", "what it does"), *map(_option_row, rows[0]["options"])]))
        else:
            lines = [
                (row["family"], row["method"] + (" *" if row["default"] else ""), row["summary"])
                for row in rows
            ]
            click.echo(table([("family", "method", "what it does"), *lines]))
            click.echo(
                "* runs where a recipe names no method. `lwplugin methods FAMILY METHOD` lists its options."
            )
    return 0


def _described(family: str, method: str, default: str) -> dict[str, Any]:
    from lwplugin.methods import methods, option_model

    model = option_model(family, method)
    options = [
        {
            "name": name,
            "required": field.is_required(),
            "default": None if field.is_required() else field.get_default(call_default_factory=True),
            "description": field.description or "",
        }
        for name, field in model.model_fields.items()
        if name != "method"
    ]
    summary = methods(family)[method].summary
    return {
        "family": family,
        "method": method,
        "default": method == default,
        "summary": summary,
        "options": options,
    }


def _option_row(option: dict[str, Any]) -> tuple[str, str, str]:
    default = "(required)" if option["required"] else json.dumps(option["default"], default=str)
    return option["name"], default, option["description"]


@click.command("settings", help="List the LWPLUGIN_* environment variables and their values now.")
@json_option
def settings_command(as_json: bool) -> int:
    from lwplugin.settings import Settings, settings, variable

    now = settings()
    rows = [
        {"variable": variable(entry.name), "value": getattr(now, entry.name), "help": entry.metadata["help"]}
        for entry in fields(Settings)
    ]
    with only_json(as_json) as out:
        if as_json:
            write_json(rows, out)
        else:
            lines = [(row["variable"], str(row["value"]), row["help"]) for row in rows]
            click.echo(table([("variable", "value", "what it is"), *lines]))
    return 0
