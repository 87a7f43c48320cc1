"""One layer solved in place: its weights and constant, from its inputs and what it should answer at sampled rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lwplugin.moments.moments import Moments
from lwplugin.moments.paths import Relu
from lwplugin.moments.rows import Rows, answers_of, inputs_of, set_apart, weight_rows
from lwplugin.moments.solve import Solution, solve, solve_checked

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
    features = _Features(layer, x, rows)
    solved, solution, before = _solved(layer, features, values, offset, ridge, support)
    if relu is not None:
        now = features.answers(weight_rows(layer), None if bias is None else bias.detach())
        before = float((relu.wanted(values, now) - now).double().square().sum()) / max(len(rows), 1)
        now = features.answers(solved, solution.offset)
        solved, solution, _ = _solved(layer, features, relu.wanted(values, now), offset, ridge, support)
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


class _Features:
    """A layer's input rows, unfolded once where they fit into one piece."""

    def __init__(self, layer: nn.Module, x: Tensor, rows: Rows) -> None:
        self._layer, self._x, self._rows = layer, x, rows
        weight = weight_rows(layer)
        self._parts = list(rows.parts(weight.shape[0] * weight.shape[-1]))
        self._whole: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[slice, Rows, Tensor]]:
        """Where a piece lies, which rows it has, and their inputs [rows, g, k]."""
        for span, some in self._parts:
            features = inputs_of(self._layer, self._x, some) if self._whole is None else self._whole
            self._whole = features if len(self._parts) == 1 else None
            yield span, some, features

    def answers(self, weight: Tensor, constant: Tensor | None) -> Tensor:
        """What the layer would answer with these weights [g, o, k], [rows, outputs]."""
        found = torch.cat([answers_of(features, weight) for _, _, features in self])
        return found if constant is None else found + constant.reshape(-1).to(found)


def _solved(
    layer: nn.Module,
    features: _Features,
    values: Tensor,
    offset: bool,
    ridge: float,
    support: Tensor | None,
) -> tuple[Tensor, Solution, float]:
    """Weights [g, o, k], the last solution (its constant is the layer's), and how far off the layer is as it was."""
    weight = weight_rows(layer)
    mask = None if support is None else support.reshape(weight.shape)
    solved = weight.clone()
    before = 0.0
    for columns in _columns(weight.shape[-1]):
        fit, check, off = _residual_moments(layer, features, values, solved, columns)
        prior = solved[:, :, columns]
        if mask is None:
            solution = solve_checked(fit, check, prior, offset=offset, ridge=ridge)
        else:
            both, here = fit.with_(check), mask[:, :, columns]
            solution = solve(both, prior, offset=offset, ridge=ridge, support=here)
        solved[:, :, columns] = solution.weight.to(solved)
        before = before or off
    return solved, solution, before


def _columns(width: int) -> list[slice]:
    """A layer's inputs, or, where they are very many, stretches of them that are solved one after another."""
    return [slice(start, min(start + WIDEST, width)) for start in range(0, width, WIDEST)]


def _residual_moments(
    layer: nn.Module, seen: _Features, values: Tensor, weight: Tensor, columns: slice
) -> tuple[Moments, Moments, float]:
    """Moments of some inputs against what the other inputs leave of the wanted values, those of every eighth example
    apart; and how far off the layer is."""
    groups, outputs, width = weight.shape
    fit = Moments.zeros(groups, weight[:, :, columns].shape[-1], outputs)
    check = fit.beside()
    off = 0.0
    for span, some, features in seen:
        wanted = values[span]
        answered = answers_of(features, weight)
        missing = wanted - answered - (0 if layer.bias is None else layer.bias)
        off += float(missing.square().sum())
        if fit.xx.shape[-1] < width:
            wanted = wanted - answered + answers_of(features[:, :, columns], weight[:, :, columns])
        apart = set_apart(some).to(features.device)
        if not fit.known_origin:
            apart[0] = False  # both need the origin of a row that is solved for
        fit.add(features[~apart][:, :, columns], wanted[~apart])
        check = check if check.known_origin else fit.beside()
        check.add(features[apart][:, :, columns], wanted[apart])
    return fit, check, off / max(len(seen), 1)
