"""The steps of a pipeline: one function each, called by the local runner and by every engine.

>>> from lwplugin.components import step_named
>>> step_named("gate").inputs
('comparison',)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from lwplugin.components.step import Step

from lwplugin.errors import RecipeError, did_you_mean

STEPS = (
    "pull",
    "prune",
    "factorize",
    "distill",
    "quantize",
    "export",
    "measure",
    "gate",
    "report",
    "register",
)


def installed_steps() -> tuple[str, ...]:
    """The steps this installation has, in the order they usually run."""
    specs = {name: find_spec(f"lwplugin.components.{name}") for name in STEPS}
    return tuple(name for name, spec in specs.items() if spec is not None and spec.origin is not None)


def step_named(name: str) -> Step:
    """Imports that step's folder only. Raises RecipeError for an unknown name."""
    if name not in installed_steps():
        raise RecipeError("Unknown step", got=repr(name), do=did_you_mean(name, installed_steps()))
    step: Step = import_module(f"lwplugin.components.{name}").STEP
    return step
