"""Packages that import a name when it is asked for, so that nobody pays for what others need (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """``__getattr__`` and ``__all__`` of a package: its modules, and the names each gives, with spaces between.

    ``dir`` lists them too, and with it the completion of a notebook. Type checkers see nothing of it: a package
    repeats its imports under ``TYPE_CHECKING``.
    """
    home_of = {name: module for module, given in names.items() for name in given.split()}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    module = sys.modules[package]
    module.__dir__ = lambda: sorted({*vars(module), *home_of})  # type: ignore[method-assign]
    return find, sorted(home_of)
