"""Folds BatchNorm into the convolution or linear layer that feeds it: one layer to quantize, not two."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lwplugin.data.batch import Inputs, call
from lwplugin.model.weight_layout import CONVOLUTIONS, layout_of, rows_of

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Folding:
    """A BatchNorm and the layer in front of it, by dotted name."""

    layer: str
    norm: str


@torch.no_grad()
def fold_batchnorm(module: nn.Module, inputs: Inputs) -> list[Folding]:
    """Folds every BatchNorm that directly follows a convolution or linear layer; in place, BatchNorm → Identity.

    Pairs are found by running ``inputs`` once and seeing which tensor goes where, so functional forwards
    work too. What the hooks cannot see (the layer's raw output used elsewhere as well) is caught by
    comparing outputs: a fold that changes them by more than 1e-4 of their largest value is not made.
    Returns the folds made.
    """
    pairs = foldable(module, inputs)
    if not pairs:
        return []
    before = flat_outputs(call(module, inputs))
    trial = copy.deepcopy(module)
    for pair in pairs:
        _fold(trial, pair)
    if not outputs_agree(before, flat_outputs(call(trial, inputs))):
        pairs = [pair for pair in pairs if outputs_agree(before, _outputs_with(module, pair, inputs))]
    for pair in pairs:
        _fold(module, pair)
    return pairs


@torch.no_grad()
def foldable(module: nn.Module, inputs: Inputs) -> list[Folding]:
    """Pairs (layer, BatchNorm) where one's output tensor is the other's input, each called exactly once."""
    produced: dict[int, tuple[str, torch.Tensor]] = {}
    calls: Counter[str] = Counter()
    pairs: list[Folding] = []
    names = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    handles = []

    def watch_layer(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            calls[name] += 1
            if not (isinstance(layer, nn.Linear) and output.ndim != 2):
                produced[id(output)] = (name, output)

        return hook

    def watch_norm(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            calls[name] += 1
            if args and id(args[0]) in produced:
                pairs.append(Folding(layer=produced[id(args[0])][0], norm=name))

        return hook

    for name, child in module.named_modules():
        if names[id(child)] > 1:
            continue
        if type(child) in (*CONVOLUTIONS, nn.Linear):
            handles.append(child.register_forward_hook(watch_layer(name)))
        elif type(child) in _NORMS and child.running_mean is not None:
            handles.append(child.register_forward_pre_hook(watch_norm(name)))
    try:
        call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    fed = Counter(pair.layer for pair in pairs)
    return [p for p in pairs if calls[p.layer] == 1 and calls[p.norm] == 1 and fed[p.layer] == 1]


def _outputs_with(module: nn.Module, pair: Folding, inputs: Inputs) -> list[torch.Tensor]:
    trial = copy.deepcopy(module)
    _fold(trial, pair)
    return flat_outputs(call(trial, inputs))


def _fold(module: nn.Module, pair: Folding) -> None:
    layer: Any = module.get_submodule(pair.layer)
    norm: Any = module.get_submodule(pair.norm)
    variance = norm.running_var.double() + norm.eps
    gain = torch.ones_like(variance) if norm.weight is None else norm.weight.double()
    shift = torch.zeros_like(variance) if norm.bias is None else norm.bias.double()
    gain = gain / variance.sqrt()
    bias = torch.zeros_like(variance) if layer.bias is None else layer.bias.double()
    rows = rows_of(layer).double() * gain.reshape(-1, *[1] * (layer.weight.ndim - 1))
    weight = layout_of(layer).weight(rows)
    dtype = layer.weight.dtype
    trainable = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=trainable)
    layer.bias = nn.Parameter(
        ((bias - norm.running_mean.double()) * gain + shift).to(dtype), requires_grad=trainable
    )
    module.set_submodule(pair.norm, nn.Identity().train(norm.training))


def flat_outputs(raw: Any) -> list[torch.Tensor]:
    """All floating tensors in whatever a module returned."""
    if isinstance(raw, torch.Tensor):
        return [raw] if raw.is_floating_point() else []
    if isinstance(raw, dict):
        raw = list(raw.values())
    if isinstance(raw, list | tuple):
        return [tensor for item in raw for tensor in flat_outputs(item)]
    return []


def outputs_agree(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Whether two sets of outputs differ by less than 1e-4 of their largest value."""
    return all(
        float((a - b).abs().max()) <= _TOLERANCE * max(float(a.abs().max()), 1e-6)
        for a, b in zip(before, after, strict=True)
        if a.numel()
    )
