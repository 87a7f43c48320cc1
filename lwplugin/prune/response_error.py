"""What removing units costs the layers that read them, in closed form from second moments (OBS; ZipLM, 2302.04089;
ThiNet, 1707.06342)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Group
from lwplugin.model.watching import watching
from lwplugin.moments.moments import Moments
from lwplugin.moments.repair import attention_mask
from lwplugin.moments.rows import groups_of, inputs_of, sample_rows, supports, weight_rows
from lwplugin.moments.solve import BlockRemoval
from lwplugin.progress import Progress
from lwplugin.prune.select import Importance

RIDGE = 1e-3


def response_errors(
    module: nn.Module, graph: Graph, inputs: Inputs, *, ridge: float = RIDGE, seed: int, progress: Progress
) -> Importance:
    """For each unit the relative squared error its removal adds to the layers that read it, in greedy order.

    The units of a group are removed one after another, cheapest first, and the weights that remain are re-solved
    after each: a unit that another can stand in for is cheap until that other one is gone. Infinite for a group
    whose readers have no moments.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if supports(layer) and any((f"{name}.weight", 1) in g.readers for g in graph.groups)
    }
    moments = _input_moments(module, inputs, layers, seed)
    found = []
    for done, group in enumerate(graph.groups, start=1):
        found.append(_greedy(group, layers, moments, ridge))
        progress("response errors", done, len(graph.groups))
    return found


def _input_moments(
    module: nn.Module, inputs: Any, layers: dict[str, nn.Module], seed: int
) -> dict[str, tuple[Tensor, float]]:
    """Centred second moments of each layer's inputs [g, k, k] and the energy (variance) of its response."""
    found: dict[str, tuple[Tensor, float]] = {}
    valid = attention_mask(inputs)

    def keep(name: str, args: Any, output: Tensor) -> None:
        layer = layers[name]
        weight = weight_rows(layer)
        rows = sample_rows(layer, output, max(8192, 16 * weight.shape[-1]), seed=seed, valid=valid)
        sums = Moments.zeros(groups_of(layer), weight.shape[-1], 1)
        features = inputs_of(layer, args[0], rows)
        sums.add(features, features.new_zeros(len(features), groups_of(layer)))
        xx, _, _ = sums.covariances(centred=True)
        if not torch.isfinite(xx).all():
            raise MethodError(
                f"The inputs of layer '{name}' are not finite on the calibration examples",
                do="remove NaN and infinite values from them",
            )
        w = weight.double().cpu()
        energy = float(((w @ xx) * w).sum())
        found[name] = (xx, max(energy, 1e-12))

    with torch.no_grad(), watching(module, layers, keep):
        call(module, inputs)
    return found


def _greedy(
    group: Group, layers: dict[str, nn.Module], moments: dict[str, tuple[Tensor, float]], ridge: float
) -> np.ndarray:
    """Relative error added by each unit's removal, increasing along the order of removal."""
    removals: list[tuple[BlockRemoval, float]] = []
    for name, axis in group.readers:
        layer_name = name.rpartition(".")[0]
        if axis != 1 or layer_name not in moments:
            continue
        xx, energy = moments[layer_name]
        weight = weight_rows(layers[layer_name])
        owner = group.owners[name, axis]
        kernel = weight.shape[-1] // len(owner)
        blocks = [_columns(np.flatnonzero(owner == unit), kernel) for unit in range(len(group))]
        if len({len(block) for block in blocks}) != 1:
            continue
        removals += [
            (BlockRemoval(xx[g], weight[g].cpu(), blocks, ridge), energy) for g in range(weight.shape[0])
        ]
    scores = np.zeros(len(group))
    if not removals:
        return np.full(len(group), np.inf)
    reached = 0.0
    for _ in range(len(group)):
        costs = torch.stack([removal.costs() / energy for removal, energy in removals]).sum(0)
        unit = int(costs.argmin())
        # Strictly rising, so that sorting by importance gives back the order of removal.
        reached = max(float(np.nextafter(reached, np.inf)), float(costs[unit]))
        scores[unit] = reached
        for removal, _ in removals:
            removal.remove(unit)
    return scores


def _columns(channels: np.ndarray, kernel: int) -> np.ndarray:
    return (channels[:, None] * kernel + np.arange(kernel)).reshape(-1)
