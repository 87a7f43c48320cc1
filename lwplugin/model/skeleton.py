"""A model's structure without its numbers: every module's type, integers and tensor shapes, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.layers import NOTHING, SHARED, LayerSpec, layer_type, spec_of, type_path

Kind = Literal["parameter", "buffer", "plain"]
Integers = int | list[int] | None


@dataclass(frozen=True)
class Entry:
    """One name in a model: the type there, its own tensors and integers, not its children's."""

    type: str
    """Import path of the type, or ``None``/``Shared``."""
    spec: LayerSpec | None = None
    loose: bool = False
    container: bool = False
    attributes: Mapping[str, Integers] = field(default_factory=dict)
    tensors: Mapping[str, tuple[Kind, list[int] | None]] = field(default_factory=dict)
    """Own tensors by attribute name: how they are held, and their shape (None: an empty slot)."""


@dataclass(frozen=True)
class Skeleton:
    """Structure of a module without its numbers: every name, the root's is ``""``, parents first."""

    entries: Mapping[str, Entry]

    @staticmethod
    def of(module: nn.Module) -> Skeleton:
        """Raises ModelError for what a bundle cannot hold: extra state, lazy parameters."""
        return Skeleton({name: _entry(name, found) for name, found in walk(module)})


def walk(module: nn.Module) -> Iterator[tuple[str, nn.Module | str | None]]:
    """(name, module) parents first; a module met before gives the name it was met under, an empty slot None.

    Raises ModelError for a module that contains itself.
    """
    seen: dict[int, str] = {}
    open_now: set[int] = set()

    def visit(name: str, found: nn.Module | None) -> Iterator[tuple[str, nn.Module | str | None]]:
        if found is None or id(found) in seen:
            if id(found) in open_now:
                raise ModelError(f"Module '{name}' contains itself")
            yield name, None if found is None else seen[id(found)]
            return
        seen[id(found)] = name
        open_now.add(id(found))
        yield name, found
        for child, below in found._modules.items():
            yield from visit(join(name, child), below)
        open_now.discard(id(found))

    yield from visit("", module)


def join(name: str, child: str) -> str:
    """Dotted name of a child; the root's own name is empty."""
    return f"{name}.{child}" if name else child


def own_tensors(module: nn.Module) -> dict[str, tuple[Kind, torch.Tensor | None]]:
    """The module's own tensors: parameters, buffers (persistent or not) and plain attributes."""
    found: dict[str, tuple[Kind, torch.Tensor | None]] = {}
    found.update({name: ("parameter", tensor) for name, tensor in module._parameters.items()})
    found.update({name: ("buffer", tensor) for name, tensor in module._buffers.items()})
    plain = ((name, value) for name, value in vars(module).items() if isinstance(value, torch.Tensor))
    found.update({name: ("plain", tensor) for name, tensor in plain})
    return found


def _entry(name: str, found: nn.Module | str | None) -> Entry:
    if found is None:
        return Entry(type=NOTHING)
    if isinstance(found, str):
        return Entry(type=SHARED, spec=LayerSpec(type=SHARED, args={"name": found}))
    if type(found).get_extra_state is not nn.Module.get_extra_state:
        raise ModelError(
            f"Module '{name}' keeps extra state, which cannot be kept without pickling",
            got=type_path(type(found)),
            do="keep its state in buffers instead of get_extra_state",
        )
    tensors: dict[str, tuple[Kind, list[int] | None]] = {}
    for tensor_name, (kind, tensor) in own_tensors(found).items():
        if tensor is not None and torch.nn.parameter.is_lazy(tensor):
            raise ModelError(
                f"'{join(name, tensor_name)}' has no shape yet", do="run the model once before using it here"
            )
        tensors[tensor_name] = (kind, None if tensor is None else list(tensor.shape))
    layer = layer_type(found)
    return Entry(
        type=type_path(type(found)),
        spec=spec_of(found),
        loose=layer is not None and layer.loose,
        container=layer is not None and layer.container,
        attributes={} if layer is not None and not layer.loose else integers(found),
        tensors=tensors,
    )


def integers(module: nn.Module) -> dict[str, Integers]:
    """Attributes that are integers, sequences of integers, or None (where an integer may come)."""
    found: dict[str, Integers] = {}
    for name, value in vars(module).items():
        if value is None or _is_int(value):
            found[name] = value
        elif type(value) in (list, tuple, torch.Size) and all(_is_int(item) for item in value):
            found[name] = list(value)
    return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
