"""Turns any model in an MLflow registry into the smallest, fastest version that is still good enough.

``import lwplugin`` is cheap: every name below is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lwplugin import errors

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lwplugin import data, registry, report, students
    from lwplugin.distill import distill
    from lwplugin.export import export
    from lwplugin.factorize import factorize
    from lwplugin.gate import gate
    from lwplugin.measure import measure
    from lwplugin.model import FactoryOrigin, LightModel, light, load
    from lwplugin.prune import prune
    from lwplugin.quantize import quantize
    from lwplugin.recipe import Recipe, load_recipe

__all__ = [
    "FactoryOrigin",
    "LightModel",
    "Recipe",
    "__version__",
    "data",
    "distill",
    "errors",
    "export",
    "factorize",
    "gate",
    "light",
    "load",
    "load_recipe",
    "measure",
    "prune",
    "quantize",
    "registry",
    "report",
    "students",
]

_FROM = {
    "FactoryOrigin": "lwplugin.model",
    "LightModel": "lwplugin.model",
    "light": "lwplugin.model",
    "load": "lwplugin.model",
    "Recipe": "lwplugin.recipe",
    "load_recipe": "lwplugin.recipe",
}
# A function and the folder it lives in share these names.
_CALLABLE = {"prune", "factorize", "distill", "quantize", "export", "measure", "gate"}
_FOLDERS = {*_CALLABLE, "data", "registry", "report", "students"}


class _CallableModule(ModuleType):
    """A folder that is called like its main function: ``lwplugin.prune(…)``, ``lwplugin.prune.METHODS``."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)

    @property
    def __wrapped__(self) -> Any:  # what inspect.signature and help() follow
        return getattr(self, self.__name__.rpartition(".")[2])


class _Package(ModuleType):
    """Importing ``lwplugin.prune`` anywhere binds the folder here; this makes it callable."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _CALLABLE and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _FROM:
        value = getattr(import_module(_FROM[name]), name)
    elif name in _FOLDERS:
        value = import_module(f"lwplugin.{name}")
    else:
        raise AttributeError(f"module 'lwplugin' has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


sys.modules[__name__].__class__ = _Package
