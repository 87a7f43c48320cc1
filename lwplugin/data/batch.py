"""A batch of examples and what one does with it: call a module, move it, cut it, join two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from lwplugin.errors import DataError

Inputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
"""What a module is called with; every tensor's first dimension is the batch."""


@dataclass(frozen=True)
class Batch:
    """Some examples of one split; ``ids`` are their int64 positions in that split."""

    inputs: Inputs
    targets: torch.Tensor | None
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same examples with their tensors on ``device``."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return Batch(to_device(self.inputs, device), targets, self.ids)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies; the CPU where it has none."""
    for tensor in module.parameters():
        return tensor.device
    for tensor in module.buffers():
        return tensor.device
    return torch.device("cpu")


def call(module: Callable[..., Any], inputs: Inputs) -> Any:
    """Calls the module as its forward expects: keywords for a dict, positions for a tuple.

    The inputs are taken to where a module lies; what it answers stays there. A module is given copies: its first
    operation may work in place, and the same examples are shown to others.
    """
    if isinstance(module, nn.Module):
        inputs = map_inputs(to_device(inputs, device_of(module)), torch.clone)
    if isinstance(inputs, dict):
        return module(**inputs)
    if isinstance(inputs, tuple):
        return module(*inputs)
    return module(inputs)


def map_inputs(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """Applies ``change`` to every tensor and keeps the structure."""
    if isinstance(inputs, dict):
        return {name: change(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(change(value) for value in inputs)
    return change(inputs)


def to_device(inputs: Inputs, device: torch.device | str) -> Inputs:
    """The inputs on ``device``; the very same tensors where they are there already."""
    return map_inputs(inputs, lambda tensor: tensor.to(device, non_blocking=True))


def take(inputs: Inputs, n: int) -> Inputs:
    """The first ``n`` examples (views, not copies)."""
    return map_inputs(inputs, lambda tensor: tensor[:n])


def tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Every tensor under the name it has at the module's border: ``input``, ``input_0``… or its key."""
    if isinstance(inputs, dict):
        return dict(inputs)
    if isinstance(inputs, tuple):
        return {f"input_{position}": tensor for position, tensor in enumerate(inputs)}
    return {"input": inputs}


def count(inputs: Inputs) -> int:
    """How many examples the inputs hold.

    Raises DataError where tensors disagree or there are none.
    """
    sizes = {name: len(tensor) if tensor.ndim else -1 for name, tensor in tensors(inputs).items()}
    if not sizes:
        raise DataError("Inputs are an empty dict or tuple", do="give at least one tensor")
    if len(set(sizes.values())) > 1 or -1 in sizes.values():
        raise DataError(
            "The input tensors of one set of examples must have the same first dimension",
            got=", ".join(f"{name}: {size if size >= 0 else 'a scalar'}" for name, size in sizes.items()),
            do="put the examples in the first dimension of every tensor",
        )
    return next(iter(sizes.values()))


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """Joins batches of the same structure along the first dimension."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: torch.cat([part[name] for part in parts]) for name in first}  # type: ignore[index, call-overload]
    if isinstance(first, tuple):
        return tuple(torch.cat([part[position] for part in parts]) for position in range(len(first)))  # type: ignore[index]
    return torch.cat(list(parts))  # type: ignore[arg-type]
