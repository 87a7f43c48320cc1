"""Which families and methods there are, and their options: what recipes, API and command line agree on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from lwplugin.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M")
_ORDER = ("prune", "factorize", "distill", "quantize")


def families() -> tuple[str, ...]:
    """The installed families, in the order they usually run. Imports none of them."""
    specs = {name: find_spec(f"lwplugin.{name}") for name in _ORDER}
    return tuple(name for name, spec in specs.items() if spec is not None and spec.origin is not None)


def methods(family: str) -> Mapping[str, Any]:
    """Name → Method (name, config, run, summary) of one family. Imports the family, so torch.

    Raises RecipeError for an unknown family.
    """
    if family not in families():
        raise RecipeError(
            "Unknown family of compression methods", got=repr(family), do=did_you_mean(family, families())
        )
    found: Mapping[str, Any] = import_module(f"lwplugin.{family}").METHODS
    return found


def option_model(family: str, method: str) -> type[BaseModel]:
    """The config class of one method. Raises RecipeError for an unknown name."""
    config: type[BaseModel] = named(methods(family), method, of=family).config
    return config


def named(known: Mapping[str, M], method: str, *, of: str) -> M:
    """The method of a name. Raises RecipeError with the nearest known one; ``of`` names the family in it."""
    if method not in known:
        raise RecipeError(f"Unknown {of} method", got=repr(method), do=did_you_mean(method, known))
    return known[method]


def default_method(family: str) -> str:
    """The method a family runs when none is named: the default of its public function."""
    from inspect import signature

    parameters = signature(getattr(import_module(f"lwplugin.{family}"), family)).parameters
    return str(parameters["method"].default)


def configure(method: Any, options: Mapping[str, Any]) -> Any:
    """The options of a method as its config; see :func:`checked`."""
    return checked(method.config, options, of=f"method '{method.name}'")


def need_data(data: Any) -> None:
    """Raises DataError for what is no `lwplugin.data.Data`, such as a bare array. Imports nothing."""
    if not all(hasattr(data, name) for name in ("task", "need", "example")):
        raise DataError(
            "The data is no lwplugin.data.Data",
            got=f"a {type(data).__name__}",
            do="make one: lwplugin.data.from_arrays(train=(x, y), test=(x, y)), or lwplugin.data.load",
        )


def checked(config: type[BaseModel], options: Mapping[str, Any], *, of: str) -> Any:
    """Options as a config. Raises RecipeError naming the nearest known option, or what is wrong with one."""
    from pydantic import ValidationError

    known = config.model_fields
    if not isinstance(options, Mapping):
        raise RecipeError(
            f"{of[0].upper()}{of[1:]} is a mapping",
            got=repr(options),
            do=f"write {{'{next(iter(known))}': …}}",
        )
    for name in options:
        if name not in known:
            raise RecipeError(
                f"{of[0].upper()}{of[1:]} has no option of this name",
                got=repr(name),
                do=did_you_mean(name, known),
            )
    try:
        return config(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        what = f"Option '{name}' of {of} is wrong" if name else f"The options of {of} are wrong"
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(what, got=repr(first["input"]) if name else None, do=said) from error
