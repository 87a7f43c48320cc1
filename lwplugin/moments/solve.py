"""Closed-form answers from moments: the best remaining weights, and what removing inputs would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwplugin.moments.moments import Moments
from lwplugin.moments.support import solve_on_support


@dataclass(frozen=True)
class Solution:
    """Weights [g, o, k], offset [g, o] (None when not asked for), and the mean squared error left per output."""

    weight: Tensor
    offset: Tensor | None
    error: Tensor
    """[g, o], mean over rows of (y − ŷ)²."""
    energy: Tensor
    """[g, o], mean square of the wanted response (its variance when an offset is allowed)."""


def solve(
    moments: Moments, prior: Tensor, *, offset: bool, ridge: float = 1e-3, support: Tensor | None = None
) -> Solution:
    """Ridge regression of the wanted response on the inputs, pulled towards ``prior``, not towards zero.

    Minimises E|y − Wx − b|² + λ|W − prior|² with λ = ``ridge`` × the mean input variance, so that directions the
    examples do not show keep the weights they had.

    Args:
        prior: [g, o, k], the weights as they are.
        offset: whether the layer can add a constant.
        support: bool [g, o, k]; weights outside it stay zero.
    """
    xx, xy, yy = moments.covariances(centred=offset)
    k = xx.shape[-1]
    lam = ridge * xx.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1e-12)
    regular = xx + lam[:, None, None] * torch.eye(k, dtype=xx.dtype)
    start = prior.double().cpu().transpose(1, 2)
    right = xy + lam[:, None, None] * start
    if support is None:
        weight = _solve_positive(regular, right)
    else:
        weight = solve_on_support(regular, right, start, support.cpu().transpose(1, 2))
    error = yy - 2 * (weight * xy).sum(1) + (weight * (xx @ weight)).sum(1)
    constant = None
    if offset:
        mx, my = moments.means()
        constant = my - (mx[:, None, :] @ weight).squeeze(1)
    return Solution(weight.transpose(1, 2), constant, error.clamp_min(0), yy.clamp_min(0))


def _solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info.max()) == 0:
        return torch.cholesky_solve(right, factor)
    return torch.linalg.lstsq(matrix, right, driver="gelsd").solution


class BlockRemoval:
    """Optimal brain surgeon for blocks of inputs (Hassibi 1993; ZipLM, 2302.04089).

    ``costs()`` is, for every block still there, the increase of E|Wx − W'x|² when it is removed and the remaining
    weights are re-solved; ``remove(i)`` does so, by a rank-b update of the inverse.
    """

    def __init__(self, xx: Tensor, weight: Tensor, blocks: Sequence[np.ndarray], ridge: float) -> None:
        k = xx.shape[0]
        order = np.concatenate(blocks)
        rest = np.setdiff1d(np.arange(k), order)
        permuted = torch.from_numpy(np.concatenate([order, rest]))
        self._size = len(blocks[0])
        self._count = len(blocks)
        lam = ridge * xx.diagonal().mean().clamp_min(1e-12)
        regular = (xx + lam * torch.eye(k, dtype=xx.dtype))[permuted][:, permuted]
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(regular))
        self._weight = weight.double()[:, permuted].clone()
        self._gone = torch.zeros(self._count, dtype=torch.bool)

    def costs(self) -> Tensor:
        """[blocks]; infinite where already removed."""
        b, n = self._size, self._count
        if b == 1:
            diagonal = self._inverse.diagonal()[:n].clamp_min(1e-300)
            costs = self._weight[:, :n].square().sum(0) / diagonal
        else:
            inner = self._inverse[: n * b, : n * b].reshape(n, b, n, b)
            own = inner[torch.arange(n), :, torch.arange(n), :].clone()
            own[self._gone] = torch.eye(b, dtype=own.dtype)
            w = self._weight[:, : n * b].reshape(-1, n, b).permute(1, 2, 0)
            costs = (w * torch.linalg.solve(own, w)).sum((1, 2))
        return torch.where(self._gone, torch.inf, costs.clamp_min(0))

    def remove(self, block: int) -> None:
        """Remove one block and re-solve the rest."""
        b = self._size
        span = slice(block * b, (block + 1) * b)
        columns = self._inverse[:, span].clone()
        step = torch.linalg.solve(self._inverse[span, span], columns.T)
        self._weight -= self._weight[:, span].clone() @ step
        self._inverse -= columns @ step
        self._weight[:, span] = 0
        self._inverse[span, :] = 0
        self._inverse[:, span] = 0
        self._gone[block] = True
