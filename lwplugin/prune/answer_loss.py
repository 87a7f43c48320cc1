"""What an error of a layer costs the model's answer, by running the model with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwplugin.model.watching import replacing
from lwplugin.moments.rows import weight_rows
from lwplugin.prune.divergence import Divergence

if TYPE_CHECKING:
    from lwplugin.data import Data

FRACTIONS = (1 / 3, 2 / 3)
"""Of a group: how much of it is gone when the model is run."""


class Trials:
    """Runs a model with other weights in some layers; the model itself is left as it is."""

    def __init__(self, module: nn.Module, data: Data, examples: int) -> None:
        self._module = module
        self._divergence = Divergence(module, data, examples)

    @staticmethod
    def stops(units: int) -> tuple[int, ...]:
        """After how many units of a group it is worth a run."""
        return tuple(sorted({round(units * fraction) for fraction in FRACTIONS} - {0}))

    def loss(self, weights: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> float:
        """Divergence of the answers with these weights [g, o, k]; each layer's mean response stays what it was.

        ``means``: of the layers' inputs, [g, k].
        """

        def other(name: str, args: Any, output: Tensor) -> Tensor:
            layer = self._module.get_submodule(name)
            owner = layer.weight
            assert isinstance(owner, Tensor)
            kept, wanted = owner.data, weights[name].reshape(owner.shape).to(owner)
            moved = ((weight_rows(layer).double().cpu() - weights[name]) * means[name][:, None, :]).sum(-1)
            constant = moved.reshape(-1).to(output)
            try:
                owner.data = wanted
                answer: Tensor = layer.forward(args[0])
            finally:
                owner.data = kept
            return answer + (
                constant if isinstance(layer, nn.Linear) else constant.reshape(-1, *[1] * (answer.ndim - 2))
            )

        with torch.no_grad(), replacing(self._module, weights, other):
            return self._divergence(self._module)
