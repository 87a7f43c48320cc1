"""How much each weight of a layer matters to its output: the mean square of the input it multiplies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.padding import attention_mask, real_tokens
from lwplugin.model.watching import watching
from lwplugin.model.weight_layout import groups_of, rows_of


@torch.no_grad()
def input_energy(module: nn.Module, batches: Iterable[Batch], names: Iterable[str]) -> dict[str, Tensor]:
    """Diagonal of E[xxᵀ] of linear layers and convolutions by name, as their weights are output by output; streamed.

    All positions of a convolution's kernel get their channel's mean square. Embeddings and layers that did not run are
    missing.
    """
    layers: dict[str, Any] = {name: module.get_submodule(name) for name in names}
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    valid: Tensor | None = None

    def watch(name: str, args: tuple[Any, ...], output: Any) -> None:
        x = real_tokens(args[0].detach(), valid)
        flat = (
            x.reshape(-1, x.shape[-1])
            if isinstance(layers[name], nn.Linear)
            else x.transpose(0, 1).flatten(1).T
        )
        squares = flat.square().sum(0).double().cpu()
        sums[name] = sums[name] + squares if name in sums else squares
        rows[name] = rows.get(name, 0) + len(flat)

    watched = [name for name, layer in layers.items() if not isinstance(layer, nn.Embedding)]
    with watching(module, watched, watch):
        for batch in batches:
            valid = attention_mask(batch.inputs)
            call(module, batch.inputs)
    return {name: _spread(layers[name], total / rows[name]) for name, total in sums.items()}


def _spread(layer: Any, energy: Tensor) -> Tensor:
    shape, groups = rows_of(layer).shape, groups_of(layer)
    per_group = energy.view(groups, -1).repeat_interleave(shape[0] // groups, 0)
    return per_group.view(shape[0], shape[1], *[1] * (len(shape) - 2)).expand(shape)
