"""Putting layers into a module in place of others that compute the same, where the module then answers as before."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.data.evaluation import kept_modes
from lwplugin.model.trace import plain_kernels, tensors_of

_SAME = 1e-4
"""Of the output's scale: two orders of the same sums differ by far less."""


def stand_in(module: nn.Module, by: Mapping[int, nn.Module], inputs: Inputs) -> bool:
    """Puts the layers of ``by`` (id of a layer → what takes its place) into ``module`` if a copy with them agrees.

    Says whether it did: code around a layer may reach for what another has under another name.
    """
    # The numbers are not copied: nothing writes into parameters while a model answers.
    trial = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    replace(trial, {id(a): by[id(b)] for a, b in zip(trial.modules(), module.modules()) if id(b) in by})
    if not _agree(module, trial, inputs):
        return False
    replace(module, by)
    return True


def replace(module: nn.Module, by: Mapping[int, nn.Module]) -> None:
    """Puts the layers of ``by`` wherever those with these ids are, in place."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in by:
                parent._modules[name] = by[id(child)]


def _agree(one: nn.Module, other: nn.Module, inputs: Inputs) -> bool:
    try:
        first, second = _answers(one, inputs), _answers(other, inputs)
        pairs = list(zip(first, second, strict=True))
    except Exception:
        return False
    return all(a.shape == b.shape and _close(a.double(), b.double()) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    gap = (a - b).abs().nan_to_num(nan=torch.inf if a.isnan().any() != b.isnan().any() else 0.0)
    return not gap.numel() or float(gap.max()) <= _SAME * max(float(a.nan_to_num().abs().max()), 1e-12)


def _answers(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad(), kept_modes(module), plain_kernels(module):
        module.eval()
        return tensors_of(call(module, inputs))
