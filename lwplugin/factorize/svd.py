"""Truncated singular values: of the weights, or in the metric of the layer's inputs; exact or randomized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from lwplugin.factorize.base import FactorizeConfig, Method
from lwplugin.factorize.forms import Factors, Form, FormName, joined
from lwplugin.factorize.lowrank import Loss, Solver, balanced, loss, regular, root, singular, tails
from lwplugin.factorize.sequence import RIDGE, Seen
from lwplugin.factorize.sites import KINDS


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
    """Factors of rank r: the leading directions U of the responses, and Uᵀ times the kernel."""
    (r,) = form.ranks
    matrix = unfolded(kernel, form.name)
    left, strength = singular(
        weighed(matrix, kernel, form.name, seen), r, solver=config.solver, seed=config.seed
    )
    return folded(kernel, form, left, matrix, strength)


def folded(kernel: Tensor, form: Form, left: Tensor, matrix: Tensor, strength: Tensor) -> Factors:
    """The kernels of left (leftᵀ matrix), for orthonormal columns ``left`` [rows, r]."""
    o, i, kh, kw = kernel.shape
    mixed, first = balanced(left, left.T @ matrix, strength)
    if form.name == "channel":
        return first.reshape(-1, i, kh, kw), mixed[:, :, None, None]
    return first.reshape(-1, i, kh, 1), mixed.reshape(o, kw, -1).transpose(1, 2)[:, :, None, :]


def errors(kernel: Tensor, offered: Sequence[Form], seen: Seen | None, config: SvdConfig) -> list[Loss]:
    """From the singular values; for the spatial form, whose metric is a mean over columns, by its own kernel."""
    name = offered[0].name
    matrix = unfolded(kernel, name)
    left, strength = singular(weighed(matrix, kernel, name, seen))
    if name == "channel":
        at = tails(left, strength, None if seen is None else seen.sensitivity)
        return [at[form.ranks[0]] for form in offered]
    found = []
    for form in offered:
        (r,) = form.ranks
        approximation = joined(form, folded(kernel, form, left[:, :r], matrix, strength[:r]))
        found.append(loss_of(kernel, approximation, seen))
    return found


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
