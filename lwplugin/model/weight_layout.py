"""How the weight of each kind of layer lies, and the same numbers output by output.

All but the transposed convolutions have theirs as [out, in / groups, …]; these have [in, out / groups, …].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass(frozen=True)
class Layout:
    """Where the outputs of a weight are: first, or second in each of ``groups`` runs of inputs."""

    by_input: bool = False
    groups: int = 1

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as [out, in / groups, …]; a view unless it lies by input."""
        return self._turned(weight) if self.by_input else weight

    def weight(self, rows: Tensor) -> Tensor:
        """What `rows` makes of it."""
        return self._turned(rows) if self.by_input else rows

    def _turned(self, tensor: Tensor) -> Tensor:
        """Turned twice it lies as before."""
        return tensor.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)


def layout_of(layer: nn.Module) -> Layout:
    """Of torch's layers; any other layer's weight is taken to have its outputs first."""
    return Layout(True, groups_of(layer)) if isinstance(layer, TRANSPOSED) else Layout()


def rows_of(layer: Any) -> Tensor:
    """The layer's weight output by output, [out, in / groups, …], without gradient."""
    return layout_of(layer).rows(layer.weight.detach())


def matrices_of(layer: nn.Module) -> list[Tensor]:
    """The parameters worth fewer bits: of a recurrent layer one for each layer and direction, twice."""
    return [tensor for name, tensor in layer.named_parameters(recurse=False) if name.startswith("weight")]


def groups_of(layer: nn.Module) -> int:
    """Independent blocks of the product: the groups of a convolution, 1 for any other layer."""
    return int(layer.groups) if isinstance(layer, CONVOLUTIONS) else 1


def taps_of(layer: nn.Module) -> int:
    """Weights that one output has for one input channel."""
    return math.prod(layer.kernel_size) if isinstance(layer, CONVOLUTIONS) else 1  # type: ignore[arg-type]
