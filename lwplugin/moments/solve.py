"""Closed-form answers from moments: the best remaining weights, and what removing inputs would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwplugin.moments.moments import Moments
from lwplugin.moments.support import solve_on_support

PULLS = (1.0, 10.0, 100.0, 1000.0)
"""How much harder than by the least ridge a solution may be pulled towards what the weights were."""
CHECKED = 4096
"""Inputs of a layer up to which several pulls towards the weights as they were are tried."""
_PENDING = 64
"""Columns of updates that the inverse may be behind in a removal of blocks."""


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
    lam = ridge * xx.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1e-12)
    regular = xx.clone()
    regular.diagonal(dim1=1, dim2=2).add_(lam[:, None])
    start = prior.double().cpu().transpose(1, 2)
    right = xy + lam[:, None, None] * start
    if support is None:
        weight = _solve_positive(regular, right)
    else:
        weight = solve_on_support(regular, right, start, support.cpu().transpose(1, 2))
    error = squared_error((xx, xy, yy), weight)
    constant = None
    if offset:
        mx, my = moments.means()
        constant = my - (mx[:, None, :] @ weight).squeeze(1)
    return Solution(weight.transpose(1, 2), constant, error.clamp_min(0), yy.clamp_min(0))


def squared_error(covariances: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
    """E(y − Wx)² of each output, [g, o], from ``Moments.covariances`` and Wᵀ [g, k, o]."""
    xx, xy, yy = covariances
    return yy - 2 * (weight * xy).sum(1) + (weight * (xx @ weight)).sum(1)


def solve_checked(
    fit: Moments, check: Moments, prior: Tensor, *, offset: bool, ridge: float = 1e-3
) -> Solution:
    """As ``solve``, each output pulled as hard as does best on rows that were not solved for.

    With hardly any such rows, or more than `CHECKED` inputs, it is ``solve`` on all rows.

    Args:
        fit: moments of the rows solved for while trying.
        check: moments of the other rows, about the same origin; the answer is solved on both.
    """
    both = fit.with_(check)
    if check.rows < 2 or prior.shape[-1] > CHECKED:
        return solve(both, prior, offset=offset, ridge=ridge)
    pulls = [ridge * factor for factor in PULLS]
    judging = check.covariances(centred=offset)
    tried = (solve(fit, prior, offset=offset, ridge=pull).weight for pull in pulls)
    errors = [squared_error(judging, weight.transpose(1, 2)) for weight in tried]
    chosen, best = torch.stack(errors).argmin(0).unique(return_inverse=True)
    found = [solve(both, prior, offset=offset, ridge=pulls[place]) for place in chosen.tolist()]
    return Solution(
        *(
            _picked([getattr(one, part) for one in found], best)
            for part in ("weight", "offset", "error", "energy")
        )
    )


def _picked(values: list[Tensor | None], best: Tensor) -> Any:
    """Of each output [g, o, …] the value of the pull that was best for it."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    stacked = torch.stack(known)
    index = best.reshape(1, *best.shape, *[1] * (stacked.ndim - 3)).expand(1, *stacked.shape[1:])
    return stacked.gather(0, index)[0]


def _solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info.max()) == 0:
        return torch.cholesky_solve(right, factor)
    return torch.linalg.lstsq(matrix, right, driver="gelsd").solution


class BlockRemoval:
    """Optimal brain surgeon for blocks of inputs (Hassibi 1993; ZipLM, 2302.04089).

    ``costs()`` is, for every block still there, the increase of E|Wx − W'x|² when it is removed and the remaining
    weights are re-solved; ``remove(i)`` does so, by a rank-b update of the inverse. Only what the costs need (the
    inverse's diagonal blocks, the weights) is brought up to date at once; the inverse itself follows many updates
    at a time, and what is gone is dropped from it, so that little of the work waits for memory.
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
        self._columns = permuted
        self._width = k
        self._present = torch.arange(self._count)
        """Which block each place holds; those removed since the last tidying are still among them."""
        self._gone = torch.zeros(self._count, dtype=torch.bool)
        n, b = self._count, self._size
        inner = self._inverse[: n * b, : n * b].reshape(n, b, n, b)
        self._diagonal = inner[torch.arange(n), :, torch.arange(n), :].clone()
        self._left: list[Tensor] = []
        self._right: list[Tensor] = []

    def costs(self) -> Tensor:
        """[blocks]; infinite where already removed."""
        b, n = self._size, len(self._present)
        w = self._weight[:, : n * b]
        if b == 1:
            costs = w.square().sum(0) / self._diagonal[:, 0, 0].clamp_min(1e-300)
        else:
            w = w.reshape(len(w), n, b).permute(1, 2, 0)
            costs = (w * torch.linalg.solve(self._diagonal, w)).sum((1, 2))
        found = torch.full((self._count,), torch.inf, dtype=costs.dtype)
        found[self._present] = torch.where(self._gone[self._present], torch.inf, costs.clamp_min(0))
        return found

    def weight(self) -> Tensor:
        """The weights as re-solved so far, [o, k]; zero where removed."""
        whole = torch.zeros(len(self._weight), self._width, dtype=self._weight.dtype)
        whole[:, self._columns] = self._weight
        return whole

    def remove(self, block: int) -> None:
        """Remove one block and re-solve the rest."""
        b, n = self._size, len(self._present)
        place = int((self._present == block).nonzero())
        span = slice(place * b, (place + 1) * b)
        columns = self._inverse[:, span].clone()
        for left, right in zip(self._left, self._right, strict=True):
            columns -= left @ right[:, span]
        step = torch.linalg.solve(columns[span], columns.T)
        self._weight -= self._weight[:, span].clone() @ step
        self._diagonal -= columns[: n * b].reshape(n, b, b) @ step[:, : n * b].reshape(b, n, b).transpose(
            0, 1
        )
        self._weight[:, span] = 0
        self._diagonal[place] = torch.eye(b, dtype=step.dtype)
        self._gone[block] = True
        self._left.append(columns)
        self._right.append(step)
        if len(self._left) * b >= _PENDING:
            self._tidy()

    def _tidy(self) -> None:
        """Bring the inverse up to date, without what is gone."""
        self._inverse.addmm_(torch.cat(self._left, 1), torch.cat(self._right), alpha=-1)
        self._left, self._right = [], []
        stay = ~self._gone[self._present]
        blocks = stay.repeat_interleave(self._size)
        kept = torch.cat([blocks, blocks.new_ones(len(self._inverse) - len(blocks))]).nonzero()[:, 0]
        self._inverse = self._inverse[kept][:, kept]
        self._weight = self._weight[:, kept]
        self._columns = self._columns[kept]
        self._diagonal = self._diagonal[stay]
        self._present = self._present[stay]
