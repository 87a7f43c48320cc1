"""Finds the origin of a module that was handed over as an object."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.difference import diff
from lwplugin.model.layers import type_path
from lwplugin.model.origin import FactoryOrigin, InMemoryOrigin, Origin
from lwplugin.model.skeleton import Skeleton


def adopt(module: Any, origin: Origin | None) -> tuple[Origin, Skeleton]:
    """The module's origin and the skeleton of the unmodified model.

    Raises ModelError where the given origin's model cannot be turned into the module.
    """
    if isinstance(module, torch.jit.ScriptModule) or not isinstance(module, nn.Module):
        raise ModelError(
            "Not a module whose layers can be changed",
            got=type(module).__name__,
            do="pass the torch.nn.Module itself",
        )
    if origin is not None:
        if isinstance(origin, InMemoryOrigin):
            return origin, Skeleton.of(module)
        skeleton = Skeleton.of(origin.build(numbers=False))
        diff(skeleton, module)
        return origin, skeleton
    return (
        _as_own_factory(module)
        or _as_layers(module)
        or (
            InMemoryOrigin(type_path(type(module))),
            Skeleton.of(module),
        )
    )


def _as_own_factory(module: nn.Module) -> tuple[Origin, Skeleton] | None:
    cls = type(module)
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not cls or cls.__module__ == "__main__":
        return None
    try:
        inspect.signature(cls).bind()
        origin = FactoryOrigin(f"{cls.__module__}:{cls.__qualname__}")
        skeleton = Skeleton.of(origin.build(numbers=False))
    except (TypeError, ValueError, ModelError):
        return None
    return (origin, skeleton) if skeleton == Skeleton.of(module) else None


def _as_layers(module: nn.Module) -> tuple[Origin, Skeleton] | None:
    """A Sequential of listed layers is rebuilt from its layers' specs alone."""
    if type(module) is not nn.Sequential:
        return None
    skeleton = Skeleton.of(nn.Sequential())
    try:
        diff(skeleton, module)
    except ModelError:
        return None
    return FactoryOrigin("torch.nn:Sequential"), skeleton
