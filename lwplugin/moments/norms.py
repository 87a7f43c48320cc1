"""Batch norms that read a layer's response, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, take
from lwplugin.model.batch_statistics import running_norms


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch norm with running statistics comes to, [channels] each."""
    of: Any = norm
    scale = (of.running_var + of.eps).rsqrt() * (1 if of.weight is None else of.weight.detach())
    return scale, (0 if of.bias is None else of.bias.detach()) - scale * of.running_mean


def before(norm: nn.Module, values: Tensor, otherwise: Tensor) -> Tensor:
    """What the norm makes ``values`` [rows, channels] of; ``otherwise`` in channels that it scales down to nothing."""
    scale, shift = affine(norm)
    return torch.where(clear(scale), (values - shift) / scale, otherwise)


def clear(scale: Tensor) -> Tensor:
    """Of which channels a response says something about what comes out, bool [channels]."""
    return scale.abs() > 1e-3 * scale.abs().max()


def norms_after(module: nn.Module, inputs: Inputs, names: set[str]) -> dict[str, nn.Module]:
    """For each layer without a bias, the batch norm that reads its output as it is."""
    produced: dict[int, tuple[str, int]] = {}
    kept_alive: list[Tensor] = []
    found: dict[str, nn.Module] = {}

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            produced[id(output)] = name, output._version
            kept_alive.append(output)

        return hook

    def entering(norm: nn.Module, args: Any) -> None:
        name, version = produced.get(id(args[0]), ("", -1))
        # A tensor changed in place since (an activation) is not what the layer answered.
        if name and args[0]._version == version:
            found[name] = norm

    handles = [module.get_submodule(n).register_forward_hook(after(n)) for n in names]
    handles += [norm.register_forward_pre_hook(entering) for norm in running_norms(module)]
    try:
        with torch.no_grad():
            call(module, take(inputs, 1))
    finally:
        for handle in handles:
            handle.remove()
    # A norm that several layers share has one mean for all: no single offset fits.
    shared = [norm for norm in found.values() if sum(norm is other for other in found.values()) > 1]
    return {name: norm for name, norm in found.items() if not any(norm is other for other in shared)}
