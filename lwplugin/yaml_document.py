"""From a YAML file to a checked pydantic model, or to errors a person can act on: line, place, nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lwplugin.errors import RecipeError, did_you_mean
from lwplugin.secret import redact

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
_INTERPOLATION = re.compile(r"\$\{|\$[A-Z_]{2,}\b")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    place: Place
    message: str


def dotted(place: Place) -> str:
    """``("compress", 0, "prune")`` → ``compress[0].prune``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the document"


def read_text(path: Path, *, what: str, do: str) -> str:
    """The text of a file a person wrote; ``what`` names it ("Recipe") and ``do`` the way out in the error."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{what} {path} cannot be read", got=error.strerror, do=do) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} {path} is not UTF-8 text", got=str(error)) from None


def compose(text: str, *, name: str, holds: str, do: str) -> tuple[yaml.Node, dict[str, Any]]:
    """The nodes (which know their lines) and the mapping of a YAML text. Raises RecipeError."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {_yaml_message(error)}") from None
    if not isinstance(document, dict) or tree is None:
        got = "an empty file" if document is None else f"a {type(document).__name__}"
        raise RecipeError(f"{name} holds no {holds}", got=got, do=do)
    return tree, document


def load_document(path: Path, model: type[Model], *, holds: str, do: str) -> Model:
    """Read a YAML (or JSON) file into ``model``; ``holds`` says what it is ("policy").

    Raises RecipeError with line, place and the nearest known key of everything that is wrong.
    """
    text = read_text(path, what=holds.capitalize(), do=do)
    tree, document = compose(text, name=str(path), holds=holds, do=do)
    found = [*duplicates(tree), *interpolations(document)]
    try:
        loaded = model.model_validate(document)
    except ValidationError as error:
        found += explain(error, document, model, ())
    if found:
        raise RecipeError(report(str(path), tree, found))
    return loaded


def report(name: str, tree: yaml.Node, problems: list[Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: line_of(tree, problem.place))
    lines = [
        f"{name}:{line_of(tree, problem.place)}: {dotted(problem.place)}: {problem.message}"
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


def line_of(tree: yaml.Node, place: Place) -> int:
    """Line of the deepest part of ``place`` that stands in the file."""
    node, line = tree, tree.start_mark.line
    for part in place:
        found = [(named, value) for key, named, value in _children(node) if key == part]
        if not found:
            break
        named, node = found[-1]
        line = named.start_mark.line
    return int(line) + 1


def duplicates(node: yaml.Node, place: Place = ()) -> Iterator[Problem]:
    seen: set[str | int] = set()
    for key, _, value in _children(node):
        if key in seen:
            yield Problem((*place, key), "is written twice; YAML would silently keep the last one")
        seen.add(key)
        yield from duplicates(value, (*place, key))


def interpolations(value: Any, place: Place = ()) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from interpolations(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from interpolations(item, (*place, index))
    elif isinstance(value, str) and _INTERPOLATION.search(value):
        yield Problem(
            place,
            "environment variables are not filled in; write the value (secrets do not belong in a recipe)",
        )


def explain(
    error: ValidationError,
    document: Any,
    model: type[BaseModel],
    prefix: Place,
    also_known: set[str] | None = None,
) -> list[Problem]:
    """What pydantic says, in a person's words and at the place it stands in ``document``."""
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
            message = f"{said}; got {redact(repr(detail['input']))}"
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
