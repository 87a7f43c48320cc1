"""What the layers that read a group are given: the activations of its units, as rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.model.graph import Graph
from lwplugin.model.watching import watching

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Reading:
    """One layer that reads one group."""

    group: int
    layer: str
    owner: Tensor
    """int64 [input channels of the layer]: the unit each belongs to, or −1."""
    spatial: bool
    """Channels are the second dimension (convolutions), else the last."""


def readings(module: nn.Module, graph: Graph) -> list[Reading]:
    """Every reader whose input can be seen from outside: convolutions and linear layers."""
    found = []
    for group in graph.groups:
        for name, axis in group.readers:
            path, _, kind = name.rpartition(".")
            layer = module.get_submodule(path)
            convolution = isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED))
            linear = isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
            transposed = isinstance(layer, _TRANSPOSED) or type(layer).__name__ == "Conv1D"
            if kind != "weight" or not (convolution or linear) or axis != (0 if transposed else 1):
                continue
            owner = group.owners[name, axis]
            # A grouped convolution numbers its inputs within a group; transposed ones number them all.
            times = 1 if transposed or not convolution else int(layer.groups)  # type: ignore[arg-type]
            found.append(Reading(group.index, path, torch.from_numpy(np.tile(owner, times)), convolution))
    return found


def inputs_of_readers(
    module: nn.Module, found: list[Reading], inputs: Inputs
) -> list[tuple[Reading, Tensor]]:
    """Run ``module`` once; what each reading's layer was given, [n, channels, …] or [n, …, channels]."""
    given: list[tuple[str, Tensor]] = []

    def keep(name: str, args: tuple[object, ...], output: object) -> None:
        if isinstance(args[0], Tensor):
            given.append((name, args[0].detach()))

    with torch.no_grad(), watching(module, sorted({r.layer for r in found}), keep):
        call(module, inputs)
    return [(reading, tensor) for name, tensor in given for reading in found if reading.layer == name]


def rows_of(reading: Reading, given: Tensor, valid: Tensor | None) -> Tensor:
    """[rows, channels] of a layer's input; ``valid`` bool [n, tokens] leaves out padding."""
    if reading.spatial:
        return given.flatten(2).transpose(1, 2).reshape(-1, given.shape[1])
    rows = given.reshape(-1, given.shape[-1])
    if valid is not None and given.shape[:-1] == valid.shape:
        rows = rows[valid.reshape(-1).to(rows.device)]
    return rows


def by_unit(reading: Reading, values: Tensor, units: int) -> np.ndarray:
    """Sum over a unit's channels of ``values`` [channels] → float64 [units]."""
    mine = reading.owner >= 0
    total = torch.zeros(units, dtype=torch.float64)
    total.index_add_(0, reading.owner[mine], values.double().cpu()[mine])
    return total.numpy()
