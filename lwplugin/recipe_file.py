"""From a recipe's text to a Recipe, or to errors a person can act on: line, place, nearest known key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lwplugin.data.spec import DataSpec, TaskSpec
from lwplugin.errors import RecipeError, did_you_mean
from lwplugin.methods import option_model
from lwplugin.recipe import PASSWORD, Recipe

Place = tuple[str | int, ...]
_INTERPOLATION = re.compile(r"\$\{|\$[A-Z_]{2,}\b")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    place: Place
    message: str


def dotted(place: Place) -> str:
    """``("compress", 0, "prune")`` → ``compress[0].prune``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the recipe"


def read_recipe(path: Path) -> Recipe:
    """Raises RecipeError for a file that is absent, not YAML, or not a recipe."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"Recipe {path} cannot be read", got=error.strerror, do="`lwplugin init` writes an example"
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"Recipe {path} is not UTF-8 text", got=str(error)) from None
    return parse_recipe(text, name=str(path))


def parse_recipe(text: str, *, name: str = "recipe") -> Recipe:
    """Like :func:`read_recipe` from text; ``name`` stands in the messages."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {_yaml_message(error)}") from None
    if not isinstance(document, dict) or tree is None:
        raise RecipeError(
            f"{name} holds no recipe", got=type(document).__name__, do="`lwplugin init` writes an example"
        )
    problems = [*_duplicates(tree), *_interpolations(document)]
    blocks, block_problems = _own_blocks(document)
    problems += block_problems
    recipe = None
    try:
        recipe = Recipe.model_validate({**document, **blocks})
    except ValidationError as error:
        problems += _problems(error, document, Recipe, ())
    problems += _option_problems(document, known_bad={problem.place[:2] for problem in problems})
    if problems or recipe is None:
        raise RecipeError(_report(name, tree, problems))
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


def _report(name: str, tree: yaml.Node, problems: list[Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: _line(tree, problem.place))
    lines = [
        f"{name}:{_line(tree, problem.place)}: {dotted(problem.place)}: {problem.message}"
        for problem in ordered
    ]
    return lines[0] if len(lines) == 1 else f"{len(lines)} problems\n  " + "\n  ".join(lines)


def _yaml_message(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else what


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node, yaml.Node]]:
    """(key, the node that names it, the node of its value)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value, value


def _line(tree: yaml.Node, place: Place) -> int:
    """Line of the deepest part of ``place`` that stands in the file."""
    node, line = tree, tree.start_mark.line
    for part in place:
        found = [(named, value) for key, named, value in _children(node) if key == part]
        if not found:
            break
        named, node = found[-1]
        line = named.start_mark.line
    return int(line) + 1


def _duplicates(node: yaml.Node, place: Place = ()) -> Iterator[Problem]:
    seen: set[str | int] = set()
    for key, _, value in _children(node):
        if key in seen:
            yield Problem((*place, key), "is written twice; YAML would silently keep the last one")
        seen.add(key)
        yield from _duplicates(value, (*place, key))


def _interpolations(value: Any, place: Place = ()) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _interpolations(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _interpolations(item, (*place, index))
    elif isinstance(value, str) and _INTERPOLATION.search(value):
        yield Problem(
            place,
            "environment variables are not filled in; write the value (secrets do not belong in a recipe)",
        )


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
            problems += _problems(error, options, model, place, also_known={"method"})
    return problems


def _problems(
    error: ValidationError,
    document: Any,
    model: type[BaseModel],
    prefix: Place,
    also_known: set[str] | None = None,
) -> list[Problem]:
    problems = []
    for detail in error.errors(include_url=False):
        place = _written_place(document, detail["loc"], detail["type"])
        ours = detail["msg"].startswith("Value error, ")
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its items are wrong, which is said where they stand
        if detail["type"] == "extra_forbidden":
            known = _known_keys(model, place[:-1]) | (also_known if len(place) == 1 and also_known else set())
            message = f"unknown key; {did_you_mean(str(place[-1]), known)}"
        elif detail["type"] == "missing":
            message = "is missing"
        elif detail["type"] == "string_pattern_mismatch" and (meant := _description(model, place)):
            message = f"must be {meant}; got {detail['input']!r}"
        elif not isinstance(detail["input"], dict | list):
            said = message if ours else message[:1].lower() + message[1:]
            message = f"{said}; got {PASSWORD.sub('://…@', repr(detail['input']))}"
        problems.append(Problem((*prefix, *place), message))
    return list(dict.fromkeys(problems))


def _written_place(document: Any, location: tuple[str | int, ...], kind: str) -> Place:
    """pydantic's location without the names of union members, which stand in no file."""
    place: list[str | int] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        in_list = isinstance(document, list) and isinstance(part, int) and part < len(document)
        if in_list or (isinstance(document, dict) and part in document):
            document = document[part]
        elif not (last and kind == "missing"):
            continue
        place.append(part)
    return tuple(place)


def _known_keys(model: type[BaseModel], place: Place) -> set[str]:
    found = _models_at(model, place)
    return {field.alias or name for each in found for name, field in each.model_fields.items()}


def _description(model: type[BaseModel], place: Place) -> str | None:
    for each in _models_at(model, place[:-1]):
        for name, field in each.model_fields.items():
            if place[-1] in (name, field.alias):
                return field.description
    return None


def _models_at(model: type[BaseModel], place: Place) -> set[type[BaseModel]]:
    """The models whose fields may stand at ``place``, by the types of the fields on the way there."""
    models = {model}
    for part in place:
        if isinstance(part, int):
            continue
        inner: set[type[BaseModel]] = set()
        for candidate in models:
            for name, field in candidate.model_fields.items():
                if part in (name, field.alias):
                    inner |= _models_in(field.annotation)
        models = inner or models
    return models


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(_models_in(argument) for argument in get_args(annotation)))
