"""Importance of a unit from what it answers to calibration examples; no labels, one streaming pass.

``apoz``: how seldom it is zero (Hu 2016, 1607.03250); ``variance``: how much it varies; ``rank``: the rank of its
feature map (HRank, Lin 2020, 2002.10179). All are taken where the unit is read, after norm and activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.data.padding import attention_mask
from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.reading import Reading, by_unit, inputs_of_readers, readings, rows_of
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data


class ActivationConfig(PruneConfig):
    """Options of ``activation``."""

    statistic: Literal["variance", "apoz", "rank"] = Field(
        "variance",
        description="variance of the activation; apoz: share of answers above zero; rank of the feature map.",
    )
    activation_examples: int = Field(512, ge=2, description="Calibration examples looked at; no labels.")


class _Variance:
    """Variance of each channel over rows, summed over a unit's channels, relative to the group's mean."""

    def __init__(self, channels: int) -> None:
        self.rows = 0
        self.sums = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, reading: Reading, given: Tensor, valid: Tensor | None) -> None:
        rows = rows_of(reading, given, valid).double()
        self.rows += len(rows)
        self.sums += torch.stack([rows.sum(0), rows.square().sum(0)]).cpu()

    def of_units(self, reading: Reading, units: int) -> np.ndarray:
        mean, square = self.sums / max(self.rows, 1)
        found = by_unit(reading, (square - mean.square()).clamp_min(0), units)
        return found / max(float(found.mean()), 1e-30)


class _Apoz:
    """1 − the average percentage of zeros: the share of a unit's answers that are above zero."""

    def __init__(self, channels: int) -> None:
        self.rows = 0
        self.active = torch.zeros(channels, dtype=torch.float64)

    def add(self, reading: Reading, given: Tensor, valid: Tensor | None) -> None:
        rows = rows_of(reading, given, valid)
        self.rows += len(rows)
        self.active += (rows > 0).sum(0).double().cpu()

    def of_units(self, reading: Reading, units: int) -> np.ndarray:
        width = by_unit(reading, torch.ones(len(reading.owner)), units)
        return by_unit(reading, self.active / max(self.rows, 1), units) / np.maximum(width, 1)


_MAPS = 128
"""Ranks hardly differ between examples (2002.10179, figure 2) and cost a decomposition each: so many are enough."""


class _Rank:
    """Mean rank of a channel's h × w map, or of a head's tokens × channels, as a share of the largest possible."""

    def __init__(self, channels: int) -> None:
        self.maps = 0
        self.ranks: np.ndarray | None = None

    def add(self, reading: Reading, given: Tensor, valid: Tensor | None) -> None:
        maps = _maps(reading, given)
        if maps is None or self.maps >= _MAPS:
            return
        rank = torch.linalg.matrix_rank(maps.float()).double() / min(maps.shape[-2:])
        total = rank.sum(0).cpu().numpy()
        self.ranks = total if self.ranks is None else self.ranks + total
        self.maps += len(maps)

    def of_units(self, reading: Reading, units: int) -> np.ndarray:
        if self.ranks is None:
            return np.full(units, np.inf)
        if len(self.ranks) == units:
            return np.asarray(self.ranks / self.maps)
        width = by_unit(reading, torch.ones(len(reading.owner)), units)
        return by_unit(reading, torch.from_numpy(self.ranks / self.maps), units) / np.maximum(width, 1)


def _maps(reading: Reading, given: Tensor) -> Tensor | None:
    """[n, channels, h, w] of a convolution's input, [n, units, tokens, width] of heads; None for single numbers."""
    if reading.spatial:
        return given if given.ndim == 4 and min(given.shape[2:]) > 1 else None
    owner = reading.owner
    units = int(owner.max()) + 1
    columns = [torch.nonzero(owner == unit)[:, 0] for unit in range(units)]
    if (
        given.ndim != 3
        or given.shape[1] < 2
        or {len(c) for c in columns} != {len(columns[0])}
        or len(columns[0]) < 2
    ):
        return None
    return torch.stack([given[..., c] for c in columns], dim=1)


_STATISTICS: dict[str, Callable[[int], _Variance | _Apoz | _Rank]] = {
    "variance": _Variance,
    "apoz": _Apoz,
    "rank": _Rank,
}


def score(
    module: nn.Module, graph: Graph, data: Data, config: ActivationConfig, progress: Progress
) -> Importance:
    """The chosen statistic of every unit, the mean over the layers that read it.

    Groups that no convolution or linear layer reads, and for ``rank`` single numbers, stay whole (infinite).
    """
    found = readings(module, graph)
    tallies = [_STATISTICS[config.statistic](len(reading.owner)) for reading in found]
    split = data.to_fit().head(config.activation_examples)
    total, module = -(-len(split) // 64), module.eval()
    for done, batch in enumerate(split.batches(64), start=1):
        _observe(module, found, tallies, batch.inputs)
        progress("activations", done, total)
    parts: list[list[np.ndarray]] = [[] for _ in graph.groups]
    for reading, tally in zip(found, tallies, strict=True):
        parts[reading.group].append(tally.of_units(reading, len(graph.groups[reading.group])))
    return [
        np.mean(part, axis=0) if part else np.full(len(group), np.inf)
        for part, group in zip(parts, graph.groups, strict=True)
    ]


def _observe(
    module: nn.Module, found: list[Reading], tallies: list[_Variance | _Apoz | _Rank], inputs: Inputs
) -> None:
    valid = attention_mask(inputs)
    position = {id(reading): tally for reading, tally in zip(found, tallies, strict=True)}
    for reading, given in inputs_of_readers(module, found, inputs):
        position[id(reading)].add(reading, given, valid)


METHOD = Method(
    "activation", ActivationConfig, score, "units that answer least: variance, zeros or rank; no labels"
)
