"""Second moments of the inputs of layers that read prunable units; in parts, where a layer is very wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data.batch import call
from lwplugin.data.padding import attention_mask
from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Group
from lwplugin.model.watching import watching
from lwplugin.model.weight_layout import groups_of
from lwplugin.moments.moments import Moments
from lwplugin.moments.rows import (
    enough_rows,
    inputs_of,
    responses_of,
    sample_rows,
    weight_rows,
)

WIDEST = 4096
"""Inputs of a layer that are looked at together."""


@dataclass(frozen=True)
class Part:
    """Some of a layer's inputs: their columns [k] and centred second moments [g, k, k]."""

    columns: np.ndarray
    xx: Tensor


@dataclass(frozen=True)
class Seen:
    """What a layer that reads units was given."""

    parts: list[Part]
    energy: float
    """Variance of its response, all outputs together."""
    mean: Tensor
    """Of its inputs, [g, k]."""


def input_moments(
    module: nn.Module,
    inputs: Any,
    layers: dict[str, nn.Module],
    parts: Mapping[str, list[np.ndarray]],
    seed: int,
) -> dict[str, Seen]:
    """Moments of each layer's inputs, second ones part by part, and the energy of its response."""
    found: dict[str, Seen] = {}
    valid = attention_mask(inputs)

    def keep(name: str, args: Any, output: Tensor) -> None:
        layer, groups = layers[name], groups_of(layers[name])
        width = weight_rows(layer).shape[-1]
        rows = sample_rows(layer, output, enough_rows(width), seed=seed, valid=valid)
        sums = [Moments.zeros(groups, len(columns), 1) for columns in parts[name]]
        for _, some in rows.parts(groups * width):
            features = inputs_of(layer, args[0], some)
            for each, columns in zip(sums, parts[name], strict=True):
                each.add(features[:, :, columns], features.new_zeros(len(features), groups))
        seen = [
            Part(columns, each.covariances(centred=True)[0])
            for each, columns in zip(sums, parts[name], strict=True)
        ]
        if not all(torch.isfinite(part.xx).all() for part in seen):
            raise MethodError(
                f"The inputs of layer '{name}' are not finite on the calibration examples",
                do="remove NaN and infinite values from them",
            )
        energy = float(responses_of(layer, output, rows).double().var(0, correction=0).sum())
        mean = torch.zeros(groups, width, dtype=torch.float64)
        for each, columns in zip(sums, parts[name], strict=True):
            mean[:, columns] = each.means()[0]
        found[name] = Seen(seen, max(energy, 1e-12), mean)

    with torch.no_grad(), watching(module, layers, keep):
        call(module, inputs)
    return found


def parts_of(name: str, layer: nn.Module, graph: Graph) -> list[np.ndarray]:
    """The columns of a layer's inputs in parts of at most ``WIDEST``, every unit's together.

    What removing one input costs grows with the cube of how many are looked at together, and their moments with the
    square. So units in different parts do not know of each other; the repair afterwards sees them all.
    """
    width = weight_rows(layer).shape[-1]
    everything = np.arange(width)
    if width <= WIDEST:
        return [everything]
    units = [
        columns
        for group in graph.groups
        if (f"{name}.weight", 1) in group.readers
        for columns in blocks_of(group, f"{name}.weight", width)
    ]
    rest = np.setdiff1d(everything, np.concatenate(units))
    count = -(-width // WIDEST)
    # Neighbours are often alike: dealing them out keeps a layer's kinds together in every part.
    return [np.sort(np.concatenate([*units[k::count], rest[k::count]])) for k in range(count)]


def blocks_of(group: Group, weight: str, width: int) -> list[np.ndarray]:
    """The columns of each unit of a group among a reader's inputs."""
    owner = group.owners[weight, 1]
    kernel = width // len(owner)
    return [_columns(np.flatnonzero(owner == unit), kernel) for unit in range(len(group))]


def _columns(channels: np.ndarray, kernel: int) -> np.ndarray:
    return (channels[:, None] * kernel + np.arange(kernel)).reshape(-1)
