"""Tucker-2 of convolutions (Kim 2015, 1511.06530): few input channels, a small kernel, few output channels.

By tensorly. Data-aware, the input channels are weighted by their covariance first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.errors import MissingExtraError
from lwplugin.factorize.base import FactorizeConfig, Method
from lwplugin.factorize.forms import Factors, Form, FormName, joined
from lwplugin.factorize.lowrank import Loss, regular, root, singular
from lwplugin.factorize.sequence import RIDGE, Seen
from lwplugin.factorize.svd import loss_of


class TuckerConfig(FactorizeConfig):
    """Options of ``tucker``."""

    iterations: int = Field(50, ge=1, description="Rounds of the alternating fit (HOOI), at most.")


def forms(layer: nn.Module, config: TuckerConfig) -> Sequence[FormName] | str:
    """Convolutions whose kernel has more than one tap."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or all(size == 1 for size in layer.kernel_size):
        return "tucker is for convolutions with kernels above 1 × 1: use svd"
    return ["tucker"]


def split(kernel: Tensor, form: Form, seen: Seen | None, config: TuckerConfig) -> Factors:
    """Alternating least squares in the weighted metric, the weighting undone in the first factor.

    Raises MissingExtraError without tensorly.
    """
    scale = _scale(kernel, seen)
    core, (outer, inner) = _partial_tucker(_scaled(kernel, scale), form.ranks, config.iterations)
    return _undo(scale, inner).T[:, :, None, None], core, outer[:, :, None, None]


def errors(kernel: Tensor, offered: Sequence[Form], seen: Seen | None, config: TuckerConfig) -> list[Loss]:
    """Of the truncated higher-order SVD, which the alternating fit starts from and improves on."""
    scale = _scale(kernel, seen)
    weighted = _scaled(kernel, scale)
    outer, _ = singular(weighted.flatten(1))
    inner, _ = singular(weighted.transpose(0, 1).flatten(1))
    found = []
    for form in offered:
        a, b = inner[:, : form.ranks[0]], outer[:, : form.ranks[1]]
        core = torch.einsum("oihw,ia,ob->bahw", weighted, a, b)
        factors = (_undo(scale, a).T[:, :, None, None], core, b[:, :, None, None])
        found.append(loss_of(kernel, joined(form, factors), seen))
    return found


def _scale(kernel: Tensor, seen: Seen | None) -> Tensor:
    """Lower triangular root [i, i] of the covariance of the input channels, over all taps."""
    _, i, kh, kw = kernel.shape
    if seen is None:
        return torch.eye(i, dtype=kernel.dtype)
    blocks = seen.inputs.reshape(i, kh * kw, i, kh * kw)
    return root(regular(blocks.diagonal(dim1=1, dim2=3).mean(-1), RIDGE))


def _scaled(kernel: Tensor, scale: Tensor) -> Tensor:
    return torch.einsum("oihw,ia->oahw", kernel, scale)


def _undo(scale: Tensor, inner: Tensor) -> Tensor:
    """[i, a]: directions in the weighted channels as weights of the channels themselves."""
    return torch.linalg.solve(scale.T, inner)


def _partial_tucker(kernel: Tensor, ranks: tuple[int, ...], iterations: int) -> tuple[Tensor, list[Tensor]]:
    try:
        from tensorly.decomposition import partial_tucker
    except ImportError as error:
        raise MissingExtraError("tensorly", extra="tucker", why="factorize's method 'tucker'") from error
    inner, outer = ranks
    (core, factors), _ = partial_tucker(
        kernel.numpy(), rank=[outer, inner], modes=[0, 1], init="svd", n_iter_max=iterations, tol=1e-6
    )
    return torch.from_numpy(core.copy()), [torch.from_numpy(factor.copy()) for factor in factors]


METHOD = Method(
    "tucker", TuckerConfig, forms, split, errors, "Tucker-2 of convolutions through tensorly (extra: tucker)"
)
