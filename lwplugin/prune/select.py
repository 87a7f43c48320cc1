"""Which units to remove under a budget: the cheapest importance per unit of cost, in legal numbers.

Pure functions over a dependency graph and one importance per unit; every pruning method ends here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Group, Removal

Cost = Callable[[Removal], float]
"""What is left of a cost (MACs, parameters, milliseconds) after a removal; {} for the whole."""

Importance = Sequence[npt.NDArray[np.float64]]
"""For each group of a graph, what removing each unit is thought to cost; comparable across groups."""


@dataclass(frozen=True)
class Budget:
    """At most this fraction of the cost may stay."""

    kind: Literal["macs", "params", "latency", "units"]
    kept: float


@dataclass(frozen=True)
class Limits:
    """What a selection may do to one group."""

    floor: float
    """Smallest fraction of a group that stays."""
    multiple: int | None
    """Channel counts end up in multiples of this; None: 8, or less for narrow layers."""


def multiple_for(group: Group, limits: Limits) -> int:
    """Units of a group to keep a multiple of, so that its channels are one the kernels like.

    By itself 8 for layers of 32 channels and more, 4 from 16, 2 from 8: a coarser step would leave a narrow layer
    hardly a choice.
    """
    channels = len(group) * group.width
    wanted = limits.multiple
    if wanted is None:
        wanted = next((m for m in (8, 4, 2) if channels >= 4 * m), 1)
    return max(1, wanted // int(np.gcd(wanted, group.width)))


def kept_count(group: Group, wanted: int, limits: Limits) -> int:
    """The legal number of units nearest to ``wanted``: above the floor, in multiples, at most all."""
    size, multiple = len(group), multiple_for(group, limits)
    if multiple >= size:
        multiple = 1
    least = max(1, int(np.ceil(limits.floor * size)))
    least = min(size, -(-least // multiple) * multiple)
    near = round(wanted / multiple) * multiple
    return size if wanted >= size else min(size, max(least, near))


def select(
    graph: Graph,
    importance: Importance,
    budget: Budget,
    limits: Limits,
    *,
    ranking: Literal["global", "per_layer"] = "global",
    fixed: Sequence[int] = (),
    cost: Cost | None = None,
) -> dict[int, list[int]]:
    """Group → units to remove so that at most ``budget.kept`` of the cost stays, losing the least importance.

    Globally, units go in the order of importance per cost saved (the Lagrangian of the knapsack); per layer, every
    group loses the same fraction. ``fixed`` groups stay whole. ``cost`` is what the budget limits; by default the
    graph's own MACs or parameters.

    Raises:
        MethodError: the budget cannot be met within the limits; says what can.
    """
    cost = cost or (graph.macs if budget.kind == "macs" else graph.params)
    whole = float(cost({}))
    free = [g for g in graph.groups if g.index not in set(fixed)]
    orders = {g.index: np.argsort(importance[g.index], kind="stable") for g in free}

    def removal(counts: dict[int, int]) -> dict[int, list[int]]:
        out = {}
        for group in free:
            keep = kept_count(group, len(group) - counts[group.index], limits)
            out[group.index] = sorted(orders[group.index][: len(group) - keep].tolist())
        return {index: units for index, units in out.items() if units}

    plan: Callable[[int], dict[int, int]]
    if ranking == "per_layer":
        steps = 256
        plan = partial(_even, free, steps)
    else:
        queue = _queue(cost, importance, free, orders)
        steps = len(queue)
        plan = partial(_counts, free, queue)

    low, high = 0, steps
    lowest = float(cost(removal(plan(steps)))) / whole
    if lowest > budget.kept:
        stay = len(graph.groups) - len(free)
        kept = f", {stay} of {len(graph.groups)} groups whole, skipped or not scored" if stay else ""
        raise MethodError(
            f"The model cannot be pruned to {budget.kept:.1%} of its {budget.kind}",
            got=f"{lowest:.1%} with every prunable layer at its floor{kept}",
            do="ask for at least that, lower min_kept, or combine with factorize or quantize",
        )
    while low < high:
        middle = (low + high) // 2
        if float(cost(removal(plan(middle)))) / whole <= budget.kept:
            high = middle
        else:
            low = middle + 1
    found = removal(plan(high))
    if ranking == "global":
        ceiling = budget.kept * whole
        found = _give_back(importance, free, orders, limits, found, lambda r: float(cost(r)), ceiling)
    return found


def _give_back(
    importance: Importance,
    free: Sequence[Group],
    orders: dict[int, npt.NDArray[np.int64]],
    limits: Limits,
    removed: dict[int, list[int]],
    cost: Callable[[Removal], float],
    ceiling: float,
) -> dict[int, list[int]]:
    """Rounding to multiples leaves some of the budget unused: spend it where it buys the most importance back."""
    while True:
        now, best = cost(removed), None
        for group in free:
            gone = removed.get(group.index, [])
            wider = kept_count(group, len(group) - len(gone) + multiple_for(group, limits), limits)
            back = len(gone) - (len(group) - wider)
            if back <= 0:
                continue
            order = orders[group.index]
            trial = {**removed, group.index: sorted(order[: len(group) - wider].tolist())}
            spent = cost(trial)
            if spent > ceiling:
                continue
            regained = float(np.sum(importance[group.index][order[len(gone) - back : len(gone)]]))
            gain = regained / max(spent - now, 1e-9 * ceiling)
            if best is None or gain > best[0]:
                best = (gain, trial)
        if best is None:
            return {index: units for index, units in removed.items() if units}
        removed = best[1]


def _queue(
    cost: Cost, importance: Importance, free: Sequence[Group], orders: dict[int, npt.NDArray[np.int64]]
) -> list[int]:
    """Group indices in the order in which units go: the next unit of a group is its least important one left."""
    keys, owners = [], []
    for group, saved in zip(free, saved_by_unit(cost, free), strict=True):
        ordered = np.maximum.accumulate(
            np.asarray(importance[group.index], dtype=np.float64)[orders[group.index]]
        )
        keys.append(ordered / saved)
        owners.append(np.full(len(group), group.index))
    order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(owners)[order].tolist() if keys else []


def saved_by_unit(cost: Cost, groups: Sequence[Group]) -> list[float]:
    """What one unit of each group saves, about half of its group being gone."""
    whole = float(cost({}))
    found = []
    for group in groups:
        sample = list(range(max(1, len(group) // 2)))
        found.append(max((whole - float(cost({group.index: sample}))) / len(sample), 1e-9 * whole))
    return found


def _even(free: Sequence[Group], steps: int, k: int) -> dict[int, int]:
    """Units that each group loses after ``k`` of ``steps`` equal steps."""
    return {g.index: round(len(g) * k / steps) for g in free}


def _counts(free: Sequence[Group], queue: Sequence[int], k: int) -> dict[int, int]:
    """Units that each group loses after the first ``k`` of the queue."""
    width = max((g.index for g in free), default=0) + 1
    found = np.bincount(np.asarray(queue[:k], dtype=np.int64), minlength=width)
    return {g.index: int(found[g.index]) for g in free}
