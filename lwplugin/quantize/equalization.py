"""Cross-layer equalization (Nagel 2019, 1906.04721): channels between two layers are scaled so that both weights fit.

Where a layer's output reaches the next one through nothing but a ReLU (or nothing at all), a channel may shrink by any
factor if the weights that read it grow by the same. Under a ReLU6 only channels that never reach its bound may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.model.weight_layout import groups_of
from lwplugin.quantize.fold import flat_outputs, outputs_agree
from lwplugin.quantize.in_a_row import in_a_row

_ROUNDS = 20
_LARGEST_SCALE = 1e3


@dataclass(frozen=True)
class Pair:
    """Two layers by dotted name; ``ceiling``: where the activation between them clips; ``peak`` [c]: what it met."""

    first: str
    second: str
    ceiling: float
    peak: Tensor


@torch.no_grad()
def equalized(module: nn.Module, names: list[str], inputs: Inputs) -> list[Pair]:
    """Equalize, in place, all pairs of the named layers that leave the outputs unchanged; the pairs.

    Pairs are found by values: the second layer's input is the first one's output, clipped below at zero and above at 6
    or not. That nothing else reads that output is then seen from the outputs.
    """
    before = flat_outputs(call(module, inputs))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def agrees(pairs: list[Pair]) -> bool:
        _equalize(module, pairs)
        if outputs_agree(before, flat_outputs(call(module, inputs))):
            return True
        module.load_state_dict(state)
        return False

    pairs = pairs_of(module, names, inputs)
    if not pairs or agrees(pairs):
        return pairs
    kept = []
    for pair in pairs:
        if agrees([pair]):
            kept.append(pair)
            module.load_state_dict(state)
    return kept if kept and agrees(kept) else []


@torch.no_grad()
def pairs_of(module: nn.Module, names: list[str], inputs: Inputs) -> list[Pair]:
    """Layers called once each, in a row, with only a clip between them."""

    def between(first: str, given: Tensor, taken: Tensor) -> tuple[float, Tensor] | None:
        ceiling = _clip_between(given, taken)
        return None if ceiling is None else (ceiling, _channel_peaks(module.get_submodule(first), given))

    return [Pair(first, second, *said) for first, second, said in in_a_row(module, names, inputs, between)]


def _clip_between(given: Tensor, taken: Tensor) -> float | None:
    """The upper bound of what lies between two tensors: infinite for a ReLU or nothing, None for anything else."""
    if torch.equal(given, taken) or torch.equal(given.clamp_min(0), taken):
        return float("inf")
    return 6.0 if torch.equal(given.clamp(0, 6), taken) else None


def _channel_peaks(layer: nn.Module, output: Tensor) -> Tensor:
    rows = (
        output.reshape(-1, output.shape[-1])
        if isinstance(layer, nn.Linear)
        else output.transpose(0, 1).flatten(1).T
    )
    return rows.amax(0)


def _equalize(module: nn.Module, pairs: list[Pair]) -> None:
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in pairs:
            first: Any = module.get_submodule(pair.first)
            second: Any = module.get_submodule(pair.second)
            given = first.weight.flatten(1).abs().amax(1)
            columns = _columns(second)
            taken = columns.abs().amax((1, 3)).reshape(-1)
            scale = (given / taken.clamp_min(1e-12)).sqrt().clamp(1 / _LARGEST_SCALE, _LARGEST_SCALE)
            if pair.ceiling < float("inf"):
                # Only shrinking keeps a channel below the ceiling that it stayed below before.
                below = pair.peak < pair.ceiling
                scale = torch.where(below, scale.clamp_min(1.0), torch.ones_like(scale))
            scale = torch.where((given > 0) & (taken > 0), scale, torch.ones_like(scale))
            first.weight.div_(scale.view(-1, *[1] * (first.weight.ndim - 1)))
            if first.bias is not None:
                first.bias.div_(scale)
            columns.mul_(scale.view(columns.shape[0], 1, columns.shape[2], 1))
            moved = max(moved, float(scale.log().abs().max()))
        if moved < 1e-3:
            break


def _columns(layer: Any) -> Tensor:
    """A view of the weight as [groups, outputs, inputs, kernel]: its third dimension is the group's input channels."""
    groups = groups_of(layer)
    weight: Tensor = layer.weight
    return weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
