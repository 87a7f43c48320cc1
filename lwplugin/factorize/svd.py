"""Truncated singular values: of the weights, or in the metric of the layer's inputs; exact or randomized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.factorize.base import FactorizeConfig, Method
from lwplugin.factorize.forms import Factors, Form, FormName, joined
from lwplugin.factorize.lowrank import Loss, Solver, balanced, loss, regular, root, singular, tails
from lwplugin.factorize.sequence import RIDGE, Seen
from lwplugin.factorize.sites import KINDS

OUTER_RIDGE = 0.05
"""Of the mean sensitivity: gradients are to first order and few, so that no direction counts as nothing."""


class SvdConfig(FactorizeConfig):
    """Options of ``svd``."""

    solver: Solver = Field(
        "exact", description="Exact singular vectors, or a randomized sketch (Halko, 0909.4061)."
    )
    form: Literal["auto", "channel", "spatial"] = Field(
        "auto",
        description="Convolutions: r channels mixed by a 1 × 1, a vertical and a horizontal kernel, or the better.",
    )


def forms(layer: nn.Module, config: SvdConfig) -> Sequence[FormName] | str:
    """Channel form for every layer, spatial for two-dimensional kernels."""
    possible = [name for name in KINDS[type(layer)] if name in ("channel", "spatial")]
    if config.form == "auto" or not isinstance(layer, nn.Conv2d) or min(layer.kernel_size) == 1:
        return possible
    return [config.form]


def split(kernel: Tensor, form: Form, seen: Seen | None, config: SvdConfig) -> Factors:
    """Factors of rank r: the leading directions of the responses, and the kernel projected on them."""
    (r,) = form.ranks
    return folded(kernel, form, *_leading(kernel, form.name, seen, r, config))


def folded(kernel: Tensor, form: Form, left: Tensor, right: Tensor, strength: Tensor) -> Factors:
    """Kernels of the product of ``left`` [rows, r] and ``right`` [r, columns] of the unfolded kernel."""
    o, i, kh, kw = kernel.shape
    mixed, first = balanced(left, right, strength)
    if form.name == "channel":
        return first.reshape(-1, i, kh, kw), mixed[:, :, None, None]
    return first.reshape(-1, i, kh, 1), mixed.reshape(o, kw, -1).transpose(1, 2)[:, :, None, :]


def errors(kernel: Tensor, offered: Sequence[Form], seen: Seen | None, config: SvdConfig) -> list[Loss]:
    """From the singular values; for the spatial form, whose metric is a mean over columns, by its own kernel."""
    name = offered[0].name
    left, right, strength = _leading(kernel, name, seen, None, config)
    if name == "channel":
        at = tails(left, strength, None if seen is None else seen.sensitivity)
        return [at[form.ranks[0]] for form in offered]
    found = []
    for form in offered:
        (r,) = form.ranks
        factors = folded(kernel, form, left[:, :r], right[:r], strength[:r])
        found.append(loss_of(kernel, joined(form, factors), seen))
    return found


def _leading(
    kernel: Tensor, name: FormName, seen: Seen | None, rank: int | None, config: SvdConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right factor of the unfolded kernel and the strength of each rank, in the metrics of what was seen."""
    matrix = unfolded(kernel, name)
    weighted, outer = weighed(matrix, kernel, name, seen), None
    if seen is not None and seen.sensitivity is not None:
        outer = root(regular(seen.sensitivity, OUTER_RIDGE)).T
        if name == "spatial":
            outer = torch.kron(outer, torch.eye(kernel.shape[3], dtype=outer.dtype))
        weighted = outer @ weighted
    left, strength = singular(weighted, rank, solver=config.solver, seed=config.seed)
    if outer is None:
        return left, left.T @ matrix, strength
    return torch.linalg.solve(outer, left), left.T @ (outer @ matrix), strength


def loss_of(kernel: Tensor, approximation: Tensor, seen: Seen | None) -> Loss:
    """What an approximation loses on what the layer saw, or of the weights alone."""
    if seen is None:
        return loss(kernel, approximation, None, None)
    return loss(kernel, approximation, seen.inputs, seen.sensitivity)


def unfolded(kernel: Tensor, name: FormName) -> Tensor:
    """[o, i × kh × kw], or [o × kw, i × kh] for the spatial form."""
    o, i, kh, kw = kernel.shape
    if name == "channel":
        return kernel.reshape(o, -1)
    return kernel.permute(0, 3, 1, 2).reshape(o * kw, i * kh)


def weighed(matrix: Tensor, kernel: Tensor, name: FormName, seen: Seen | None) -> Tensor:
    """The matrix times the root of its inputs' covariance."""
    if seen is None:
        return matrix
    if seen.entries:
        return (matrix - (matrix @ seen.inputs)[:, None]) * seen.inputs.sqrt()
    covariance = seen.inputs
    if name == "spatial":
        _, i, kh, kw = kernel.shape
        blocks = covariance.reshape(i * kh, kw, i * kh, kw)
        covariance = blocks.diagonal(dim1=1, dim2=3).mean(-1)
    return matrix @ root(regular(covariance, RIDGE))


METHOD = Method(
    "svd",
    SvdConfig,
    forms,
    split,
    errors,
    "truncated singular values of linear layers, convolutions and embeddings, in the metric of their inputs",
)
