"""What removing units costs the layers that read them, in closed form from second moments (OBS; ZipLM, 2302.04089;
ThiNet, 1707.06342)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.model.graph import Graph, Group
from lwplugin.moments.rows import supports, weight_rows
from lwplugin.moments.solve import BlockRemoval
from lwplugin.progress import Progress
from lwplugin.prune.answer_loss import Trials
from lwplugin.prune.input_moments import Part, Seen, blocks_of, input_moments, parts_of
from lwplugin.prune.select import Importance

RIDGE = 1e-3


@dataclass(frozen=True)
class GroupErrors:
    """What the units of one group cost, in the order in which they went."""

    units: list[int]
    added: np.ndarray
    """Relative squared error that each added to the layers that read it."""
    losses: Mapping[int, float]
    """Units gone → what that cost the model's answer; 0 units at least."""

    def importance(self, answer: float) -> np.ndarray:
        """One number for each unit: its error, drawn towards what it costs the answer (0: not at all, 1: wholly)."""
        added = self.added
        if answer and self.losses:
            known = scaled(added, self.losses)
            added = added ** (1 - answer) * known**answer
        scores = np.zeros(len(added))
        # Strictly rising, so that sorting by importance gives back the order of removal.
        scores[self.units] = _rising(added)
        return scores


def response_errors(
    module: nn.Module, graph: Graph, inputs: Inputs, *, ridge: float = RIDGE, seed: int, progress: Progress
) -> Importance:
    """For each unit the relative squared error its removal adds to the layers that read it, in greedy order."""
    found = group_errors(module, graph, inputs, ridge=ridge, seed=seed, progress=progress)
    return [each.importance(0.0) for each in found]


def group_errors(
    module: nn.Module,
    graph: Graph,
    inputs: Inputs,
    *,
    ridge: float = RIDGE,
    trials: Trials | None = None,
    seed: int,
    progress: Progress,
) -> list[GroupErrors]:
    """The errors of every group's units, greedily removed.

    The units of a group are removed one after another, cheapest first, and the weights that remain are re-solved
    after each: a unit that another can stand in for is cheap until that other one is gone. Infinite for a group
    whose readers have no moments.

    With ``trials`` the model is also run with a part of each group gone: layers differ in how far their errors reach.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if supports(layer) and any((f"{name}.weight", 1) in g.readers for g in graph.groups)
    }
    parts = {name: parts_of(name, layer, graph) for name, layer in layers.items()}
    seen = input_moments(module, inputs, layers, parts, seed)
    found = []
    for done, group in enumerate(graph.groups, start=1):
        found.append(_greedy(group, layers, seen, ridge, trials))
        progress("response errors", done, len(graph.groups))
    return found


def _greedy(
    group: Group,
    layers: dict[str, nn.Module],
    seen: Mapping[str, Seen],
    ridge: float,
    trials: Trials | None,
) -> GroupErrors:
    removals: list[_Removal] = []
    for name, axis in group.readers:
        layer_name = name.rpartition(".")[0]
        if axis != 1 or layer_name not in seen:
            continue
        weight = weight_rows(layers[layer_name])
        blocks = blocks_of(group, name, weight.shape[-1])
        if len({len(block) for block in blocks}) != 1:
            continue
        of = seen[layer_name]
        removals += [
            _Removal(layer_name, g, part, weight[g].double().cpu(), blocks, ridge, of.energy)
            for part in of.parts
            for g in range(len(weight))
        ]
    if not removals:
        return GroupErrors(list(range(len(group))), np.full(len(group), np.inf), {})
    added, order, losses = [], [], {0: 0.0}
    stops = trials.stops(len(group)) if trials is not None else ()
    for done in range(1, len(group) + 1):
        costs = torch.stack([removal.costs() for removal in removals]).sum(0)
        unit = int(costs.argmin())
        order.append(unit)
        added.append(float(costs[unit]))
        for removal in removals:
            removal.remove(unit)
        if done in stops and trials is not None:
            losses[done] = trials.loss(_weights(removals, layers), {n: of.mean for n, of in seen.items()})
    return GroupErrors(order, np.array(added), losses if trials is not None else {})


def scaled(added: np.ndarray, losses: Mapping[int, float]) -> np.ndarray:
    """Errors in the order of removal, stretch by stretch brought to the measured losses.

    ``losses``: units gone → measured loss. After the last of them the last stretch's scale holds on.
    """
    if len(losses) < 2:
        return added
    found, stops = added.copy(), sorted(losses)
    scale = 0.0
    for start, stop in pairwise(stops):
        closed = float(added[start:stop].sum())
        scale = max(losses[stop] - losses[start], 0.0) / max(closed, 1e-30)
        found[start:stop] *= scale
    found[stops[-1] :] *= max(scale, losses[stops[-1]] / max(float(added[: stops[-1]].sum()), 1e-30))
    return found


def _rising(values: np.ndarray) -> np.ndarray:
    found, reached = np.empty_like(values), 0.0
    for place, value in enumerate(values):
        reached = found[place] = max(float(np.nextafter(reached, np.inf)), float(value))
    return found


class _Removal:
    """The units of a group in one part of a layer's inputs."""

    def __init__(
        self,
        layer: str,
        g: int,
        part: Part,
        weight: Tensor,
        blocks: list[np.ndarray],
        ridge: float,
        energy: float,
    ) -> None:
        here = [np.searchsorted(part.columns, block) for block in blocks]
        inside = [
            bool(places.max() < len(part.columns) and (part.columns[places] == block).all())
            for places, block in zip(here, blocks, strict=True)
        ]
        self.layer, self.g, self.columns = layer, g, torch.from_numpy(part.columns)
        self.units = np.flatnonzero(inside)
        self.place = {int(unit): place for place, unit in enumerate(self.units)}
        self.count, self.energy = len(blocks), energy
        own = weight[:, self.columns]
        self.removal = (
            BlockRemoval(part.xx[g], own, [here[u] for u in self.units], ridge) if self.place else None
        )

    def costs(self) -> Tensor:
        """[units of the group], relative; 0 for those in other parts, infinite where already removed."""
        found = torch.zeros(self.count, dtype=torch.float64)
        if self.removal is not None:
            found[torch.from_numpy(self.units)] = self.removal.costs() / self.energy
        return found

    def remove(self, unit: int) -> None:
        if self.removal is not None and unit in self.place:
            self.removal.remove(self.place[unit])


def _weights(removals: list[_Removal], layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Layer → its weights [g, o, k] as the removals have re-solved them."""
    found: dict[str, Tensor] = {}
    for each in removals:
        if each.removal is not None:
            rows = found.setdefault(each.layer, weight_rows(layers[each.layer]).double().cpu().clone())
            rows[each.g][:, each.columns] = each.removal.weight()
    return found
