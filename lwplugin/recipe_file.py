"""From a recipe's text to a Recipe, or to errors a person can act on: line, place, nearest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lwplugin.data.spec import TASKS, DataSpec, TaskSpec
from lwplugin.data.user_code import load_object
from lwplugin.errors import RecipeError, did_you_mean
from lwplugin.export import foreseen
from lwplugin.measure.inventory import check_target
from lwplugin.methods import option_model
from lwplugin.recipe import Recipe
from lwplugin.yaml_document import (
    Place,
    Problem,
    compose,
    duplicates,
    explain,
    interpolations,
    read_text,
    report,
)

_WAY_OUT = "`lwplugin init` writes an example"


def read_recipe(path: Path) -> Recipe:
    """Raises RecipeError for a file that is absent, not YAML, or not a recipe."""
    return parse_recipe(read_text(path, what="Recipe", do=_WAY_OUT), name=str(path))


def parse_recipe(text: str, *, name: str = "recipe") -> Recipe:
    """Like :func:`read_recipe` from text; ``name`` stands in the messages."""
    tree, document = compose(text, name=name, holds="recipe", do=_WAY_OUT)
    problems = [*duplicates(tree), *interpolations(document)]
    blocks, block_problems = _own_blocks(document)
    problems += block_problems
    recipe = None
    try:
        recipe = Recipe.model_validate({**document, **blocks})
    except ValidationError as error:
        problems += explain(error, document, Recipe, ())
    problems += _device_problems(recipe)
    problems += _format_problems(recipe)
    problems += _gate_problems(recipe)
    problems += _option_problems(document, known_bad={problem.place[:2] for problem in problems})
    if problems or recipe is None:
        raise RecipeError(report(name, tree, problems))
    return recipe


def _own_blocks(document: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """`data` and `task` raise errors of their own, which name the key but not its place."""
    blocks: dict[str, Any] = {}
    problems = []
    for name, model, stand_in in (("data", DataSpec, "digits"), ("task", TaskSpec, "classification")):
        if name not in document:
            continue
        written = document[name]
        try:
            if not isinstance(written, str | dict):
                raise RecipeError("a name or a mapping is needed", got=repr(written))
            blocks[name] = model.of(written)
        except RecipeError as error:
            keys = written if isinstance(written, dict) else {}
            named = next((key for key in keys if f"'{key}'" in str(error)), None)
            place: Place = (name,) if named is None else (name, named)
            problems.append(Problem(place, str(error).rstrip(".")))
            blocks[name] = model.of(stand_in)
    return blocks, problems


def _device_problems(recipe: Recipe | None) -> list[Problem]:
    """What the device inventory says against the targets; only the file that a person wrote is held against
    it, for a recipe that is on record stays one wherever it is read."""
    problems = []
    for index, target in enumerate(recipe.targets if recipe else ()):
        try:
            check_target(target.device, target.format, target.threads)
        except RecipeError as error:
            problems.append(Problem(("targets", index, "device"), str(error).rstrip(".")))
    return problems


def _format_problems(recipe: Recipe | None) -> list[Problem]:
    """What is known from the names of formats and methods: the export would refuse it after all the work."""
    if recipe is None:
        return []
    problems = []
    for index, target in enumerate(recipe.targets):
        place: Place = ("targets", index, "format")
        if reason := foreseen.device(target.format, target.device):
            problems.append(Problem(place, reason))
        for line, step in enumerate(recipe.compress):
            if step.family == "quantize" and (
                reason := foreseen.quantized(target.format, step.method, step.options)
            ):
                problems.append(Problem(place, f"after compress[{line}] (quantize: {step.method}), {reason}"))
        if recipe.register_ is not None and (reason := foreseen.registered(target.format)):
            problems.append(Problem(place, reason))
    return problems


def _gate_problems(recipe: Recipe | None) -> list[Problem]:
    """What the gate could only answer with an error, hours later, where that is known now: a built-in task has
    its metrics, a built-in source its columns; a function of the user's own may bring others."""
    if recipe is None:
        return []
    problems: list[Problem] = []
    gate, data, task = recipe.gate, recipe.data, recipe.task.name
    if not gate.has_threshold:
        problems.append(Problem(("gate",), "has no threshold; give max_drop, must_reach or min_agreement"))
    if ":" in data.source or task not in TASKS:
        return problems
    metrics = load_object(TASKS[task], what="task").bounded_metrics()
    for option, metric in [("max_drop", m) for m in gate.max_drop] + [
        ("must_reach", m) for m in gate.must_reach
    ]:
        if metric not in metrics:
            message = f"is no metric of {task} that the gate can bound; {did_you_mean(metric, metrics)}"
            problems.append(Problem(("gate", option, metric), message))
    columns = {*data.slices, *(["label"] if task == "classification" else [])}
    for index, column in enumerate(gate.slices):
        if column not in columns:
            message = f"'{column}' is no column of data.slices; {did_you_mean(column, columns)}"
            problems.append(Problem(("gate", "slices", index), message))
    return problems


def _option_problems(document: dict[str, Any], known_bad: set[Place]) -> list[Problem]:
    """What the methods' own config classes say about `compress`."""
    problems: list[Problem] = []
    lines = document.get("compress")
    for index, line in enumerate(lines if isinstance(lines, list) else ()):
        if ("compress", index) in known_bad or not isinstance(line, dict):
            continue
        (family,) = line
        options = dict(line[family] or {})
        place: Place = ("compress", index, family)
        from lwplugin.methods import default_method

        method = options.pop("method", None) or default_method(family)
        try:
            model = option_model(family, method)
        except RecipeError as error:
            problems.append(Problem((*place, "method"), f"{method!r} is no {family} method; {error.do}"))
            continue
        try:
            model.model_validate(options)
        except ValidationError as error:
            problems += explain(error, options, model, place, also_known={"method"})
    return problems
