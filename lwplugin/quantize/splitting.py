"""Outlier channel splitting (Zhao 2019, 1901.09504): a channel in several copies, each read with a part of its weight.

One weight far larger than the rest of its row sets the step of the whole row. Where two linear layers have nothing but
a function of each value between them, the first may give that channel several times, so that no part is large. Nothing
is added to the graph; the two layers grow by one channel in a hundred.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, take
from lwplugin.quantize.fold import flat_outputs, outputs_agree
from lwplugin.quantize.in_a_row import in_a_row

_SHARE, _MULTIPLE = 1 / 96, 16
"""Channels added, of those there are, in whole multiples that kernels like; layers too small for one stay."""

_PAYS = 0.25
"""The squared steps of all rows must fall to this share, or the channels are not worth their time."""

_EXAMPLES, _ROWS = 4, 256


@dataclass(frozen=True)
class Split:
    """Channels between the layers ``first`` and ``second``: which came to which copy, int64 [channels + added]."""

    first: str
    second: str
    origin: Tensor

    @property
    def added(self) -> int:
        """How many channels more there are."""
        return len(self.origin) - int(self.origin.max()) - 1


@torch.no_grad()
def split_channels(
    module: nn.Module, names: list[str], inputs: Inputs, gains: Mapping[str, Tensor]
) -> tuple[nn.Module, list[Split]]:
    """A copy of the module that answers as it does, with channels split between linear layers where that pays.

    Args:
        names: the layers that may change.
        gains: of layers' inputs that will be scaled against outliers; what that moves to the weights is split as well.
    """
    few = take(inputs, _EXAMPLES)
    pairs = [
        (first, second)
        for first, second in pairs_of(module, names, few)
        if _added(module.get_submodule(second))
    ]
    splits = []
    for first, second in pairs:
        layer: Any = module.get_submodule(second)
        weight = layer.weight if second not in gains else layer.weight / gains[second]
        origin = channels_to_split(weight, _added(layer))
        if _squared_steps(_read_in_parts(weight, origin)) <= _PAYS * _squared_steps(weight):
            splits.append(Split(first, second, origin))
    before = flat_outputs(call(module, few))
    made = _widened(module, splits)
    if not splits or _agrees(made, few, before):
        return made, splits
    splits = [one for one in splits if _agrees(_widened(module, [one]), few, before)]
    made = _widened(module, splits)
    return (made, splits) if _agrees(made, few, before) else (copy.deepcopy(module), [])


@torch.no_grad()
def pairs_of(module: nn.Module, names: list[str], inputs: Inputs) -> list[tuple[str, str]]:
    """Linear layers called once each, in a row, the second of which reads a function of each value of the first."""
    linear = [name for name in names if type(module.get_submodule(name)) is nn.Linear]

    def between(_: str, given: Tensor, taken: Tensor) -> bool | None:
        return _by_value(given, taken) or None

    return [(first, second) for first, second, _ in in_a_row(module, linear, inputs, between)]


def channels_to_split(weight: Tensor, added: int) -> Tensor:
    """``added`` channels of a weight [out, in], one after the other, each where it takes most off the squared steps.

    A row's step is that of its largest weight. Returns the channel of every copy, the ones there were first.
    """
    copies = torch.ones(weight.shape[1], dtype=torch.int64)
    left = weight.detach().abs().cpu().clone()
    origin = list(range(weight.shape[1]))
    for _ in range(added):
        (largest, second), (channel, _) = (t.unbind(1) for t in left.topk(2, dim=1))
        after = torch.maximum(second, largest * copies[channel] / (copies[channel] + 1))
        less = torch.zeros(weight.shape[1]).index_add(0, channel, largest.square() - after.square())
        best = int(less.argmax())
        left[:, best] *= copies[best] / (copies[best] + 1)
        copies[best] += 1
        origin.append(best)
    return torch.tensor(origin)


def _added(layer: Any) -> int:
    return int(layer.in_features * _SHARE) // _MULTIPLE * _MULTIPLE


def _by_value(given: Tensor, taken: Tensor) -> bool:
    """Whether one tensor is a function of the other value by value: in the order of the one, the other hardly jumps."""
    given, taken = (tensor.reshape(-1, tensor.shape[-1])[:_ROWS].flatten() for tensor in (given, taken))
    ordered = taken[given.argsort()].double()
    way = float(ordered.diff().abs().sum())
    return way <= 4 * float(ordered.max() - ordered.min())


def _widened(module: nn.Module, splits: list[Split]) -> nn.Module:
    made = copy.deepcopy(module)
    for split in splits:
        first: Any = made.get_submodule(split.first)
        second: Any = made.get_submodule(split.second)
        bias = None if first.bias is None else first.bias[split.origin]
        made.set_submodule(split.first, _linear(first.weight[split.origin], bias))
        made.set_submodule(split.second, _linear(_read_in_parts(second.weight, split.origin), second.bias))
    return made


def _read_in_parts(weight: Tensor, origin: Tensor) -> Tensor:
    return weight[:, origin] / torch.bincount(origin)[origin].to(weight)


def _squared_steps(weight: Tensor) -> float:
    return float(weight.abs().amax(1).square().sum())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(
        weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype
    )
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    return made.eval()


def _agrees(module: nn.Module, inputs: Inputs, before: list[Tensor]) -> bool:
    try:
        return outputs_agree(before, flat_outputs(call(module, inputs)))
    except Exception:  # what else reads the channels may not take more of them
        return False
