"""Coupling through ``view``: merging dimensions, and splitting one into heads, groups or shuffled channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from lwplugin.model.atoms import Atoms, IntArray

Dim = IntArray | None
Shape = tuple[int, ...]


def shape_of(node: Any) -> Shape:
    """The traced shape of a node's (first) tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return tuple(int(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()


def blocks(source: Shape, target: Shape) -> list[tuple[range, range]] | None:
    """The shortest runs of dimensions with equal products on both sides; None where sizes interleave oddly.

    >>> blocks((2, 12, 7), (2, 3, 4, 7))
    [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 3)), (range(2, 3), range(3, 4))]
    """
    found, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        left = right = 1
        if i < len(source):
            left, i = source[i], i + 1
        if j < len(target):
            right, j = target[j], j + 1
        while left != right:
            if left < right and i < len(source):
                left, i = left * source[i], i + 1
            elif right < left and j < len(target):
                right, j = right * target[j], j + 1
            else:
                return None
        found.append((range(i0, i), range(j0, j)))
    return found


def couple_view(atoms: Atoms, dims: list[Dim], source: Shape, target: Shape, node: fx.Node) -> list[Dim]:
    """Dimensions after ``view(source → target)``; couples what must go together to stay rectangular."""
    out: list[Dim] = [None] * len(target)
    runs = blocks(source, target)
    if runs is None:
        for dim in dims:
            if dim is not None:
                atoms.freeze(dim, "reshaped across dimensions")
        return out
    for inner, outer in runs:
        merged = _merge(atoms, [dims[i] for i in inner], [source[i] for i in inner])
        if merged is None:
            continue
        sizes = tuple(target[j] for j in outer)
        live = [j for j in outer if target[j] > 1]
        if len(live) == 1:
            out[live[0]] = merged
            continue
        grid = atoms.roots(merged).reshape(sizes)
        chosen = _depends_on(grid)
        if chosen is None:
            chosen = _choose(node, list(outer), target) - outer.start
            moved = np.moveaxis(grid, chosen, 0).reshape(sizes[chosen], -1)
            atoms.join(np.repeat(moved[:, 0], moved.shape[1]), moved.reshape(-1).copy())
            grid = atoms.roots(grid.reshape(-1)).reshape(sizes)
        out[outer.start + chosen] = np.moveaxis(grid, chosen, 0).reshape(sizes[chosen], -1)[:, 0].copy()
    return out


def _merge(atoms: Atoms, dims: list[Dim], sizes: list[int]) -> Dim:
    """One dimension out of several: an index lives while its one tracked coordinate lives."""
    tracked = [i for i, dim in enumerate(dims) if dim is not None]
    if not tracked:
        return None
    if len(tracked) > 1:
        # Two prunable coordinates in one dimension would need a grid of removals: keep the widest one's freedom.
        widest = max(tracked, key=lambda i: sizes[i])
        for i in tracked:
            if i != widest:
                atoms.freeze(dims[i], "merged with another prunable dimension")  # type: ignore[arg-type]
        tracked = [widest]
    axis = tracked[0]
    before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
    return np.tile(np.repeat(dims[axis], after), before)  # type: ignore[arg-type]


def _depends_on(grid: IntArray) -> int | None:
    """The one axis along which the atoms vary, if it is only one: then the split couples nothing."""
    varying = [
        axis
        for axis in range(grid.ndim)
        if grid.shape[axis] > 1 and not (grid == np.take(grid, [0], axis)).all()
    ]
    return varying[0] if len(varying) == 1 else None


def _choose(node: fx.Node, outer: list[int], target: Shape) -> int:
    """Which of the split's dimensions stays prunable.

    A channel shuffle (split, transpose, merge) keeps its inner one: every group loses the same channels.
    Otherwise the outermost one that no later operation picks from by number: attention heads, not q/k/v.
    """
    live = [d for d in outer if target[d] > 1]
    positions = {node: list(range(len(target)))}
    queue, dead = [node], set()
    while queue:
        current = queue.pop()
        places = positions[current]
        for user in current.users:
            name = str(getattr(getattr(user.target, "_schema", None), "name", "")).split("::")[-1]
            moved = _follow(user, name, places)
            if moved is not None:
                if user not in positions:
                    positions[user] = moved
                    queue.append(user)
            elif name in {"select", "unbind", "split", "split_with_sizes", "slice", "index_select"}:
                position = 2 if name.startswith("split") else 1
                axis = int(user.args[position]) if len(user.args) > position else 0  # type: ignore[arg-type]
                if -len(places) <= axis < len(places) and places[axis] >= 0:
                    dead.add(places[axis])
            elif name in {"view", "_unsafe_view", "reshape"} and len(live) == 2:
                runs = blocks(shape_of(current), shape_of(user)) or []
                for inner, _ in runs:
                    order = [places[i] for i in inner if places[i] in live]
                    if len(order) == 2 and order == sorted(order, reverse=True):
                        return live[1]
    alive = [d for d in live if d not in dead]
    return (alive or live)[0]


def _follow(user: fx.Node, name: str, places: list[int]) -> list[int] | None:
    """Where each dimension of the split stands after a rearranging user; −1 marks a new one."""
    rank = len(places)
    if name == "permute":
        return [places[int(a) % rank] for a in user.args[1]]  # type: ignore[union-attr, arg-type]
    if name == "transpose":
        a, b = (int(x) % rank for x in user.args[1:3])  # type: ignore[arg-type]
        moved = list(places)
        moved[a], moved[b] = moved[b], moved[a]
        return moved
    if name == "unsqueeze":
        moved = list(places)
        moved.insert(int(user.args[1]) % (rank + 1), -1)  # type: ignore[arg-type]
        return moved
    if name == "squeeze" and len(user.args) > 1 and isinstance(user.args[1], int):
        return [p for i, p in enumerate(places) if i != user.args[1] % rank]
    if name in {"clone", "contiguous", "alias", "_to_copy", "expand"} and len(shape_of(user)) == rank:
        return list(places)
    return None
