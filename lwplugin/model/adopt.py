"""Finds the origin of a module that was handed over as an object."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.difference import diff
from lwplugin.model.hooks import hooked
from lwplugin.model.layers import type_path
from lwplugin.model.origin import FactoryOrigin, InMemoryOrigin, Origin
from lwplugin.model.skeleton import Skeleton
from lwplugin.model.tensors import need_storable


def adopt(module: Any, origin: Origin | None) -> tuple[Origin, Skeleton]:
    """The module's origin and the skeleton of the unmodified model.

    Raises ModelError where the given origin's model cannot be turned into the module.
    """
    if isinstance(module, torch.jit.ScriptModule) or not isinstance(module, nn.Module):
        raise ModelError(
            "Not a module whose layers can be changed",
            got=type(module).__name__,
            do="pass the torch.nn.Module that it was made of",
        )
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ModelError(
            "A part of the model is TorchScript, whose layers cannot be seen or changed",
            got=f"'{scripted[0]}'",
            do="put the torch.nn.Module there that it was made of",
        )
    integers = [name for name, part in module.named_modules() if _quantized_by_torch(part)]
    if integers:
        raise ModelError(
            "The model is quantized by torch already, and its float weights are gone",
            got=f"'{integers[0]}', a {type_path(type(module.get_submodule(integers[0])))}",
            do="begin with the float model",
        )
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or nn.parameter.is_lazy(tensor):
            continue
        if tensor.is_meta:
            raise ModelError(
                "The model has no numbers, only shapes",
                got=f"'{name}' on the meta device",
                do="load its weights first, as with to_empty and load_state_dict",
            )
        need_storable(name, tensor)
    if origin is not None:
        if isinstance(origin, InMemoryOrigin):
            return origin, Skeleton.of(module)
        built = origin.build(numbers=False)
        skeleton = Skeleton.of(built)
        diff(skeleton, module)
        lost = sorted(hooked(module).items() - hooked(built).items())
        if lost:
            raise ModelError(
                "Hooks were hung on the model that its origin does not make",
                got=f"{lost[0][1]} on '{lost[0][0]}'",
                do="remove them (handle.remove()), or register them where the model is built",
            )
        return origin, skeleton
    return (
        _as_own_factory(module)
        or _as_layers(module)
        or (
            InMemoryOrigin(type_path(type(module))),
            Skeleton.of(module),
        )
    )


def _quantized_by_torch(module: nn.Module) -> bool:
    place = type(module).__module__
    return place.startswith("torch.ao.nn.") and ".quantized" in place


def unwrapped(module: Any) -> Any:
    """The module itself, without what only says how it runs: ``torch.compile``, data parallelism."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif type(module).__name__ == "OptimizedModule" and isinstance(module, nn.Module):
            module = module._orig_mod
        else:
            return module


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
        built = origin.build(numbers=False)
        skeleton = Skeleton.of(built)
    except (TypeError, ValueError, ModelError):
        return None
    same = skeleton == Skeleton.of(module) and hooked(built) == hooked(module)
    return (origin, skeleton) if same else None


def _as_layers(module: nn.Module) -> tuple[Origin, Skeleton] | None:
    """A Sequential of listed layers is rebuilt from its layers' specs alone."""
    if type(module) is not nn.Sequential or hooked(module):
        return None
    skeleton = Skeleton.of(nn.Sequential())
    try:
        diff(skeleton, module)
    except ModelError:
        return None
    return FactoryOrigin("torch.nn:Sequential"), skeleton
