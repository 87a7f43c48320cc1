"""Small networks to teach: families with a width, built by name, also in a process that loads a bundle of one."""

from __future__ import annotations

from typing import Any

from torch import nn

from lwplugin.methods import checked, named
from lwplugin.students import (
    mobilenet_v1,
    mobilenet_v2,
    recurrent,
    shufflenet_v1,
    shufflenet_v2,
    squeezenet,
    transformer,
)
from lwplugin.students.options import Family, ImageOptions, StudentBudget, StudentOptions

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        mobilenet_v1,
        mobilenet_v2,
        squeezenet,
        shufflenet_v1,
        shufflenet_v2,
        transformer,
        recurrent,
    )
}

__all__ = ["FAMILIES", "Family", "ImageOptions", "StudentBudget", "StudentOptions", "build", "options_of"]


def build(family: str, **options: Any) -> nn.Module:
    """A student with fresh weights, as published where an option is left out.

    Bundles name this function and its arguments, so it must go on to build the same net for the same ones.

    Raises RecipeError for an unknown family or option.
    """
    chosen = named(FAMILIES, family, of="student")
    config = checked(chosen.options, {"family": family, **options}, of=f"student '{family}'")
    return chosen.make(config)


def options_of(options: StudentOptions) -> dict[str, Any]:
    """The arguments with which ``build`` makes the student again: plain JSON, without what is left out."""
    found: dict[str, Any] = options.model_dump(mode="json", exclude_none=True, exclude={"budget"})
    return found
