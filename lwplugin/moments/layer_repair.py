"""One layer solved in place: its weights and constant, from its inputs and what it should answer at sampled rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.moments.moments import Moments
from lwplugin.moments.paths import Relu
from lwplugin.moments.rows import Rows, answers_of, inputs_of, set_apart, weight_rows
from lwplugin.moments.solve import Solution, solve, solve_checked, squared_error

WIDEST = 8192
"""Inputs of a layer that are solved for together; their moments take 8 × 8,192² bytes."""


@dataclass(frozen=True)
class LayerRepair:
    """What a repair did to one layer: relative squared error of its response before and after the solve; where a ReLU
    reads it, only of what comes through."""

    name: str
    error_before: float
    error_after: float


def solve_layer(
    name: str,
    layer: nn.Module,
    x: Tensor,
    rows: Rows,
    values: Tensor,
    norm: nn.Module | None,
    ridge: float,
    support: Tensor | None = None,
    relu: Relu | None = None,
) -> LayerRepair:
    """Solve one layer in place from its input ``x`` and the wanted ``values`` [rows, outputs] at ``rows``.

    ``norm``: the batch norm that takes the constant where the layer has no bias. ``relu``: what reads the response;
    the layer is then solved once more, for the nearest that comes through as the wanted values do.
    """
    owner, bias = layer.weight, layer.bias
    assert isinstance(owner, Tensor)
    offset = bias is not None or norm is not None
    # Rows of the examples that are set apart last, so that both kinds are slices.
    order = set_apart(rows).argsort(stable=True)
    rows, values = Rows(rows.index[order], rows.positions), values[order.to(values.device)]
    seen = _Seen(layer, x, rows)
    solved, solution, before = _solved(layer, seen, values, offset, ridge, support)
    if relu is not None:
        relu = relu.at(order)
        now = seen.answers(weight_rows(layer), None if bias is None else bias.detach())
        before = float((relu.wanted(values, now) - now).double().square().sum()) / max(len(rows), 1)
        now = seen.answers(solved, solution.offset)
        solved, solution, _ = _solved(layer, seen, relu.wanted(values, now), offset, ridge, support)
    energy = float(
        values.double().var(0, correction=0).sum() if offset else values.double().square().mean(0).sum()
    )
    energy = energy or 1.0
    owner.data.copy_(solved.reshape(owner.shape))
    if solution.offset is not None:
        constant = solution.offset.reshape(-1)
        if isinstance(bias, Tensor):
            bias.data.copy_(constant)
        elif norm is not None:
            # Without a bias the constant goes where the next norm subtracts its mean.
            norm.running_mean.sub_(constant.to(norm.running_mean))  # type: ignore[operator, union-attr]
    return LayerRepair(name, before / energy, float(solution.error.sum()) / energy)


class _Seen:
    """A layer's input rows, those set apart last; unfolded once where they fit into one piece, their second moments
    taken once where the layer is solved as a whole."""

    def __init__(self, layer: nn.Module, x: Tensor, rows: Rows) -> None:
        self._layer, self._x = layer, x
        weight = weight_rows(layer)
        self._parts = list(rows.parts(weight.shape[0] * weight.shape[-1]))
        self._unfolded: Tensor | None = None
        self._known: tuple[Moments, Moments] | None = None

    def __iter__(self) -> Iterator[tuple[slice, Rows, Tensor]]:
        """Where a piece lies, which rows it has, and their inputs [rows, g, k]."""
        for span, some in self._parts:
            features = inputs_of(self._layer, self._x, some) if self._unfolded is None else self._unfolded
            self._unfolded = features if len(self._parts) == 1 else None
            yield span, some, features

    def answers(self, weight: Tensor, constant: Tensor | None) -> Tensor:
        """What the layer would answer with these weights [g, o, k], [rows, outputs]."""
        found = torch.cat([answers_of(features, weight) for _, _, features in self])
        return found if constant is None else found + constant.reshape(-1).to(found)

    def moments(self, values: Tensor, weight: Tensor, columns: slice) -> tuple[Moments, Moments]:
        """Moments of some inputs against what the others, with these weights [g, o, k], leave of the wanted values:
        of the rows solved for, and of those of every eighth example."""
        groups, outputs, width = weight.shape
        others = weight.clone()
        others[:, :, columns] = 0
        whole = columns == slice(0, width)
        fit = Moments.zeros(groups, others[:, :, columns].shape[-1], outputs)
        check = fit.beside()
        add = Moments.add
        if self._known is not None and whole:
            fit, check = (of.without_responses() for of in self._known)
            add = Moments.add_responses
        for span, some, features in self:
            wanted = values[span] if whole else values[span] - answers_of(features, others)
            features = features[:, :, columns]
            split = int((~set_apart(some)).sum())
            add(fit, features[:split], wanted[:split])
            check = check if check.known_origin else fit.beside()
            add(check, features[split:], wanted[split:])
        if whole:
            self._known = fit, check
        return fit, check


def _solved(
    layer: nn.Module,
    seen: _Seen,
    values: Tensor,
    offset: bool,
    ridge: float,
    support: Tensor | None,
) -> tuple[Tensor, Solution, float]:
    """Weights [g, o, k], the last solution (its constant is the layer's), and how far off the layer is as it was."""
    weight = weight_rows(layer)
    mask = None if support is None else support.reshape(weight.shape)
    solved = weight.clone()
    before: float | None = None
    for columns in _columns(weight.shape[-1]):
        fit, check = seen.moments(values, solved, columns)
        both, prior = fit.with_(check), solved[:, :, columns]
        before = _squared_error(both, prior, layer.bias) if before is None else before
        if mask is None:
            solution = solve_checked(fit, check, prior, offset=offset, ridge=ridge)
        else:
            solution = solve(both, prior, offset=offset, ridge=ridge, support=mask[:, :, columns])
        solved[:, :, columns] = solution.weight.to(solved)
    assert before is not None, "a layer has inputs"
    return solved, solution, before


def _squared_error(moments: Moments, weight: Tensor, constant: Any) -> float:
    """E|y − Wx − b|², all outputs together, with weights [g, o, k]."""
    of = weight.double().cpu().transpose(1, 2)
    (x, y), spread = moments.means(), squared_error(moments.covariances(centred=True), of)
    off = y - (x[:, None, :] @ of).squeeze(1)
    if constant is not None:
        off = off - constant.detach().double().cpu().reshape(off.shape)
    return float((spread.clamp_min(0) + off.square()).sum())


def _columns(width: int) -> list[slice]:
    """A layer's inputs, or, where they are very many, stretches of them that are solved one after another."""
    return [slice(start, min(start + WIDEST, width)) for start in range(0, width, WIDEST)]
