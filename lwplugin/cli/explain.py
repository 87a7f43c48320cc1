"""`lwplugin explain`: what the blocks of a recipe may say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import click
from pydantic import BaseModel

from lwplugin.cli.output import json_option, only_json, table, write_json
from lwplugin.errors import RecipeError, did_you_mean

BLOCKS = {
    "model": "the parent: models:/name@alias or models:/name/3",
    "data": "where the examples come from and how they are split",
    "task": "what the answers are, and how they are scored",
    "seed": "decides every draw of every step that names none of its own; 0",
    "compress": "the methods, in the order in which they run: see `lwplugin methods`",
    "targets": "formats and devices, each measured and judged by itself",
    "budget": "what a target may cost; a key of each target",
    "measure": "how long and what is measured",
    "gate": "how much may be lost, and how sure that must be",
    "register": "under which alias what passed goes back; left out, nothing is registered",
    "resources": "what an engine gives a step: processes, retries, hardware",
    "tracking_uri": "the MLflow server; by default MLFLOW_TRACKING_URI",
}
_CHOICES = ("data", "task")


@click.command("explain", help="Explain a BLOCK of a recipe, or one of its choices: `explain data parquet`.")
@click.argument("block", required=False)
@click.argument("choice", required=False)
@json_option
def explain_command(block: str | None, choice: str | None, as_json: bool) -> int:
    with only_json(as_json) as out:
        found = _explained(block, choice)
        if as_json:
            write_json(found, out)
            return 0
        if found["about"]:
            click.echo(f"{found['about']}\n")
        for part in ("choices", "options"):
            rows = found[part]
            if rows:
                click.echo(table([tuple(rows[0]), *(tuple(row.values()) for row in rows)]))
                click.echo()
        if found["next"]:
            click.echo(found["next"])
    return 0


def _explained(block: str | None, choice: str | None) -> dict[str, Any]:
    if block is None:
        rows = [{"block": name, "what it says": text} for name, text in BLOCKS.items()]
        return _answer(choices=rows, then="`lwplugin explain BLOCK` lists its keys.")
    if block not in BLOCKS:
        raise RecipeError(f"A recipe has no block '{block}'", do=did_you_mean(block, BLOCKS))
    if block in _CHOICES:
        return {"data": _data, "task": _task}[block](choice)
    if choice is not None:
        raise RecipeError(
            f"The block '{block}' has no choices", got=repr(choice), do=f"use `lwplugin explain {block}`"
        )
    if block in _KEYS:
        model, choices, then = _KEYS[block]()
        return _answer(BLOCKS[block], choices=choices, options=_options(model), then=then)
    return _answer(f"{block}: {BLOCKS[block]}")


def _data(source: str | None) -> dict[str, Any]:
    from lwplugin.data.sources import PYTHON_FUNCTION, SOURCES
    from lwplugin.data.spec import DataSpec

    known = {**SOURCES, "module:function": PYTHON_FUNCTION}
    if source is None:
        rows = [{"source": name, "what it is": each.summary} for name, each in known.items()]
        shared = [row for row in _options(DataSpec) if row["key"] not in ("source", "options")]
        then = "Every source takes these keys; `lwplugin explain data SOURCE` lists its own."
        return _answer(BLOCKS["data"], choices=rows, options=shared, then=then)
    found = known.get("module:function" if ":" in source else source)
    if found is None:
        raise RecipeError(f"Unknown data source '{source}'", do=did_you_mean(source, known))
    about = f"{found.name}: {found.summary}\n{inspect.getdoc(found.read) or ''}"
    return _answer(about, options=_options(found.options))


def _task(name: str | None) -> dict[str, Any]:
    from lwplugin.data.spec import TASKS
    from lwplugin.data.task import Task
    from lwplugin.data.user_code import load_object

    if name is None:
        rows = [
            {
                "task": each,
                "metric": kind.metric,
                "what it is": (inspect.getdoc(kind) or "").partition("\n")[0],
            }
            for each, kind in ((each, load_object(path, what="task")) for each, path in TASKS.items())
        ]
        rows.append({"task": "module:Class", "metric": "", "what it is": "A subclass of lwplugin.data.Task."})
        then = "Write a name, or {name: …, options: {…}}; `lwplugin explain task NAME` lists metrics and options."
        return _answer(BLOCKS["task"], choices=rows, then=then)
    if name == "module:Class":
        return _answer(
            f"module:Class, or path/to/file.py:Class\n{inspect.getdoc(Task)}", options=_options(Task.Options)
        )
    if name not in TASKS:
        raise RecipeError(f"Unknown task '{name}'", do=did_you_mean(name, [*TASKS, "module:Class"]))
    kind = load_object(TASKS[name], what="task")
    return _answer(f"{name}\n{inspect.getdoc(kind)}", options=_options(kind.Options))


def _targets() -> tuple[type[BaseModel], list[dict[str, str]], str]:
    from lwplugin.export.base import FORMATS
    from lwplugin.recipe import Target

    rows = [{"format": name, "what it is": each.summary} for name, each in FORMATS.items()]
    return Target, rows, "`lwplugin explain budget` lists what a budget may limit."


def _model(path: str) -> Callable[[], tuple[type[BaseModel], list[dict[str, str]], str]]:
    from importlib import import_module

    place, _, name = path.partition(":")
    return lambda: (getattr(import_module(place), name), [], "")


_KEYS: dict[str, Callable[[], tuple[type[BaseModel], list[dict[str, str]], str]]] = {
    "targets": _targets,
    "budget": _model("lwplugin.gate.policy:Budget"),
    "measure": _model("lwplugin.measure.config:MeasureOptions"),
    "gate": _model("lwplugin.gate.policy:Policy"),
    "register": _model("lwplugin.recipe:Register"),
    "resources": _model("lwplugin.resources:Resources"),
}


def _options(model: type[BaseModel]) -> list[dict[str, str]]:
    return [
        {
            "key": name,
            "default": "(required)"
            if field.is_required()
            else json.dumps(field.get_default(call_default_factory=True), default=_plain),
            "what it is": field.description or "",
        }
        for name, field in model.model_fields.items()
    ]


def _plain(value: object) -> object:
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else str(value)


def _answer(
    about: str = "",
    *,
    choices: list[dict[str, str]] | None = None,
    options: list[dict[str, str]] | None = None,
    then: str = "",
) -> dict[str, Any]:
    return {"about": about, "choices": choices or [], "options": options or [], "next": then}
