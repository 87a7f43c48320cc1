"""Mixed precision: how many bits each layer gets, so that the answers move least within a size."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError
from lwplugin.model.weight_layout import layout_of, rows_of
from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.group_grid import group_grid

WIDTHS = range(2, 9)
_PROBE = 3
_LEFT_BY_COMPENSATION = 0.35
"""Of the error of nearest rounding; 0.2 to 0.5 on layers of MiniLM. Embeddings keep all of theirs."""


@dataclass(frozen=True)
class Choice:
    """A layer at one width: what it stores, and the noise it adds to the outputs (relative, of their energy)."""

    bits: int
    size_bytes: int
    noise: float


def allocate(choices: Mapping[str, list[Choice]], size_bytes: int) -> dict[str, int]:
    """Bits by layer, of least summed noise within ``size_bytes``.

    All layers start at their smallest choice; the step that takes away most noise a byte is made next (steps of the
    lower convex hull, so that none waits behind a worse one), until no further one fits.

    Raises MethodError where even the smallest choices are larger.
    """
    hulls = {name: _hull(options) for name, options in choices.items()}
    taken = dict.fromkeys(hulls, 0)
    left = size_bytes - sum(hull[0].size_bytes for hull in hulls.values())
    if left < 0:
        raise MethodError(
            "The size cannot be reached",
            got=f"{size_bytes} bytes, {size_bytes - left} with every layer at its fewest bits",
            do="allow a larger size or larger groups",
        )
    steps: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        hull, at = hulls[name], taken[name]
        if at + 1 < len(hull):
            heapq.heappush(steps, (-_slope(hull[at], hull[at + 1]), name))

    for name in hulls:
        offer(name)
    while steps:
        _, name = heapq.heappop(steps)
        hull, at = hulls[name], taken[name]
        cost = hull[at + 1].size_bytes - hull[at].size_bytes
        if cost <= left:
            left -= cost
            taken[name] += 1
            offer(name)
    return {name: hull[taken[name]].bits for name, hull in hulls.items()}


def _slope(a: Choice, b: Choice) -> float:
    """Noise taken away for a byte more."""
    return (a.noise - b.noise) / (b.size_bytes - a.size_bytes)


def _hull(options: list[Choice]) -> list[Choice]:
    """The choices worth making, by size: each step is the steepest one left."""
    hull: list[Choice] = []
    for option in sorted(options, key=lambda choice: (choice.size_bytes, choice.noise)):
        if hull and option.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


@torch.no_grad()
def choices_of(
    module: nn.Module,
    names: list[str],
    energy: Mapping[str, Tensor],
    inputs: Inputs,
    outputs: Callable[[Any], Tensor],
    group_size: int,
    compensated: Collection[str],
    progress: Callable[[int], None],
) -> dict[str, list[Choice]]:
    """What every width costs each layer.

    How strongly the outputs answer to a layer is measured: it alone is rounded to three bits and the model run. How its
    error changes with the width is in closed form, from its weights and the mean squares of its inputs.

    Args:
        energy: mean square of what each weight multiplies, output by output; layers without it count evenly.
        outputs: the tensor to judge of what the module returns.
        compensated: layers whose rounding the rest of their weights will mend.
    """
    wanted = outputs(call(module, inputs))
    found: dict[str, list[Choice]] = {}
    for done, name in enumerate(names):
        layer: Any = module.get_submodule(name)
        weight, given = layer.weight.detach().clone(), rows_of(layer)
        rows = given.reshape(len(given), -1)
        importance = energy[name].reshape(rows.shape).to(rows) if name in energy else None
        rounded = {bits: _nearest(rows, bits, group_size, importance) for bits in WIDTHS}
        errors = {bits: _error(rows, made, importance) for bits, made in rounded.items()}
        layer.weight.data.copy_(layout_of(layer).weight(rounded[_PROBE].view(given.shape)))
        moved = outputs(call(module, inputs))
        layer.weight.data.copy_(weight)
        noise = float((moved - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30))
        noise *= _LEFT_BY_COMPENSATION if name in compensated else 1
        found[name] = [
            Choice(
                bits,
                _stored(given.shape, bits, group_size),
                noise * errors[bits] / max(errors[_PROBE], 1e-30),
            )
            for bits in WIDTHS
        ]
        progress(done + 1)
    return found


def _nearest(rows: Tensor, bits: int, group_size: int, importance: Tensor | None) -> Tensor:
    grid = group_grid(rows, bits, group_size, importance=importance, search=False)
    scale, zero = grid.spread(rows.shape[1])
    return (grid.nearest(rows).float() - zero) * scale


def _error(rows: Tensor, made: Tensor, importance: Tensor | None) -> float:
    squares = (rows - made).square()
    return float((squares if importance is None else squares * importance).sum())


def _stored(shape: tuple[int, ...], bits: int, group_size: int) -> int:
    tensors = Groups(bits, min(group_size, math.prod(shape[1:]))).tensors(tuple(shape))
    return sum(tensor.nbytes for tensor in tensors.values())
