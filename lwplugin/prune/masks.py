"""Which single weights stay: by a threshold, by a share, or N of every M in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.moments.rows import weight_rows


def above(weights: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Bool masks of the weights whose magnitude is at least ``threshold`` times their layer's root mean square."""
    return {name: w.abs() >= threshold * w.square().mean().sqrt() for name, w in weights.items()}


def largest(weights: Mapping[str, Tensor], kept: float, floor: float) -> dict[str, Tensor]:
    """Bool masks of the ``kept`` share of all weights, the largest relative to their layer's root mean square.

    Every layer keeps at least a ``floor`` share; the total is kept exactly.
    """
    relative = {
        name: (w.abs() / w.square().mean().sqrt().clamp_min(1e-30)).flatten() for name, w in weights.items()
    }
    total = sum(len(r) for r in relative.values())
    masks = {name: torch.zeros_like(r, dtype=torch.bool) for name, r in relative.items()}
    for name, r in relative.items():
        masks[name][r.topk(max(1, int(floor * len(r)))).indices] = True
    left = round(kept * total) - sum(int(m.sum()) for m in masks.values())
    names = list(relative)
    values = torch.cat([torch.where(masks[n], -1.0, relative[n]) for n in names])
    chosen = torch.zeros_like(values, dtype=torch.bool)
    if left > 0:
        chosen[values.topk(left).indices] = True
    parts = torch.split(chosen, [len(relative[n]) for n in names])
    return {n: (masks[n] | part).reshape(weights[n].shape) for n, part in zip(names, parts, strict=True)}


def n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """Bool mask of the ``n`` largest of every ``m`` consecutive inputs of an output.

    Consecutive inputs are what sparse matrix units count: columns of a linear layer, channels (at one place of the
    kernel) of a convolution.
    """
    blocks = _blocks(weight.detach().abs(), m)
    keep = torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, blocks.topk(n, dim=-1).indices, True)
    return _unblocked(keep, weight)


def n_of_m_holds(weight: Tensor, n: int, m: int) -> bool:
    """Whether no block of ``m`` holds more than ``n`` numbers other than zero; looks at every block."""
    return bool(((_blocks(weight.detach(), m) != 0).sum(-1) <= n).all())


def _blocks(weight: Tensor, m: int) -> Tensor:
    """[outputs × kernel places, inputs / m, m]."""
    rows = weight.flatten(2).transpose(1, 2) if weight.ndim > 2 else weight
    return rows.reshape(-1, weight.shape[1] // m, m)


def _unblocked(blocks: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return blocks.reshape(weight.shape)
    return blocks.reshape(weight.shape[0], -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def pattern_of(granularity: str) -> tuple[int, int]:
    """``"2:4"`` → (2, 4).

    Raises:
        ValueError: not 0 < N < M.
    """
    n, m = (int(part) for part in granularity.split(":"))
    if not 0 < n < m:
        raise ValueError(f"N:M keeps N of every M weights, 0 < N < M, got {granularity}")
    return n, m


def hold(masks: Mapping[str, Tensor]) -> Any:
    """A function that puts a module's zeros back in place."""

    def zero(module: nn.Module) -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                layer = module.get_submodule(name)
                weight = layer.weight
                assert isinstance(weight, Tensor)
                weight.mul_(mask.to(weight))

    return zero


def layers_with_weights(module: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Weights of the named layers.

    Raises:
        MethodError: there is none.
    """
    found = {}
    for name in names:
        layer = module.get_submodule(name)
        weight_rows(layer)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        found[name] = weight.detach()
    if not found:
        raise MethodError(
            "The model has no weights that could be masked",
            got="no linear or convolutional layer with a weight of its own",
            do="use quantize instead",
        )
    return found
