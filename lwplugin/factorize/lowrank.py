"""Low rank in the metric that matters: truncated factors of a kernel, exact or randomized.

For a layer y = Wx with inputs of covariance C, the best product of rank r in E|Wx − W'x|² projects the responses on the
leading left singular vectors U of W C^½: W' = U (UᵀW). With C = I this is the truncated SVD of the weights. Where an
error e of a response costs eᵀGe with G = HᵀH, they are those of H W C^½, and W' = H⁻¹U (UᵀHW).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Solver = Literal["exact", "randomized"]
_NOTHING = 1e-30


def regular(covariance: Tensor, ridge: float) -> Tensor:
    """C + ``ridge`` × its mean variance: directions that the examples do not show keep some weight."""
    k = covariance.shape[-1]
    lam = ridge * covariance.diagonal().mean().clamp_min(1e-12)
    return covariance + lam * torch.eye(k, dtype=covariance.dtype)


def root(covariance: Tensor) -> Tensor:
    """L [k, k] with LLᵀ = C, for a positive definite C."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info) == 0:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    found: Tensor = vectors * values.clamp_min(0).sqrt()
    return found


def singular(
    matrix: Tensor, rank: int | None = None, *, solver: Solver = "exact", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Leading left singular vectors [rows, r] and singular values [r], largest first.

    ``randomized`` needs a rank and sketches it with eight more columns and two power iterations (Halko 2009,
    0909.4061); ``exact`` goes by the smaller Gram matrix.
    """
    rows, columns = matrix.shape
    if solver == "randomized" and rank is not None and rank + 8 < min(rows, columns):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            u, s, _ = torch.svd_lowrank(matrix, q=rank + 8, niter=2)
        return u[:, :rank], s[:rank]
    if rows <= columns:
        values, vectors = torch.linalg.eigh(matrix @ matrix.T)
        s = values.flip(0).clamp_min(0).sqrt()
        u = vectors.flip(1)
    else:
        values, right = torch.linalg.eigh(matrix.T @ matrix)
        s = values.flip(0).clamp_min(0).sqrt()
        u, _ = torch.linalg.qr(matrix @ right.flip(1))
    return u[:, :rank], s[:rank]


def balanced(left: Tensor, right: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """(left, right) with each rank's strength [r] shared evenly, so that neither factor is hard to quantize."""
    strongest = float(strength.max())
    if strongest < _NOTHING:  # a layer that always answers the same
        return left, right
    scale = strength.clamp_min(1e-12 * strongest).sqrt()
    return left * scale, right / scale[:, None]


class Loss(NamedTuple):
    """What an approximation loses."""

    response: float
    """Relative squared error of the layer's response."""
    answer: float
    """Squared error of the model's answer to first order; the same as ``response`` where that is not known."""


def tails(directions: Tensor, strengths: Tensor, sensitivity: Tensor | None) -> list[Loss]:
    """Losses at every rank 0…n, for directions [o, n] of the response whose coefficients are uncorrelated.

    ``strengths`` [n]: standard deviations of the coefficients.

    ``sensitivity`` [o, o]: G, see ``sensitivity.py``.
    """
    energy = strengths.square()
    response = _left_over(energy * directions.square().sum(0))
    response = response / response[0].clamp_min(1e-300)
    answer = response
    if sensitivity is not None:
        answer = _left_over(energy * ((sensitivity @ directions) * directions).sum(0).clamp_min(0))
    return [Loss(*pair) for pair in zip(response.tolist(), answer.tolist(), strict=True)]


def _left_over(values: Tensor) -> Tensor:
    """Sum of all values but the first r, for r = 0…n."""
    return torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])


def loss(
    kernel: Tensor, approximation: Tensor, covariance: Tensor | None, sensitivity: Tensor | None
) -> Loss:
    """Of a kernel [o, i, kh, kw] on inputs of the given covariance [k, k]; None: white."""
    lost = _responses(kernel - approximation, covariance)
    response = float(lost.trace()) / max(float(_responses(kernel, covariance).trace()), 1e-300)
    answer = response if sensitivity is None else float((lost * sensitivity).sum())
    return Loss(max(response, 0.0), max(answer, 0.0))


def _responses(kernel: Tensor, covariance: Tensor | None) -> Tensor:
    """Covariance [o, o] of a kernel's responses."""
    rows = kernel.flatten(1)
    return (rows if covariance is None else rows @ covariance) @ rows.T
