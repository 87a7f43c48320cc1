"""How far a layer's weights may move towards a wanted response: as far as helps on examples not solved for."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lwplugin.moments.moments import Moments
from lwplugin.moments.solve import solve, squared_error

Ridge = float | Literal["auto"] | None
RIDGES = (0.01, 0.1, 1.0, 10.0)


def solved(
    rows: Tensor, wanted: Tensor, even: Tensor, prior: Tensor, *, offset: bool, ridge: Ridge
) -> tuple[Moments, Tensor]:
    """Moments of all rows and the solved weights, float32 [g, o, k]; with no ridge they are ``prior``.

    With ``auto`` each of `RIDGES` is solved on the even examples and judged on the odd ones; the best solves for all.

    Args:
        rows: [rows, g, k], as `moments.rows.inputs_of` gives them; ``wanted`` [rows, g × o].
        even: bool [rows], which belong to even examples.
        prior: weights to hold on to, [g, o, k].
        offset: whether the layer can add a constant.
    """
    some = Moments.zeros(prior.shape[0], prior.shape[2], prior.shape[1])
    if ridge != "auto":
        some.add(rows, wanted)
        return some, prior if ridge is None else _weight(some, prior, offset, ridge).float()
    some.add(rows[even], wanted[even])
    others = some.beside()
    others.add(rows[~even], wanted[~even])
    moments = some.with_(others)
    return moments, _weight(moments, prior, offset, _judged(some, others, prior, offset)).float()


def _weight(moments: Moments, prior: Tensor, offset: bool, ridge: float) -> Tensor:
    return solve(moments, prior, offset=offset, ridge=ridge).weight


def _judged(solving: Moments, judging: Moments, prior: Tensor, offset: bool) -> float:
    """The ridge whose solution leaves least error on other examples; the middle one where there are none."""
    if not solving.rows or not judging.rows:
        return RIDGES[1]
    judge = judging.covariances(centred=offset)
    errors = {
        ridge: float(squared_error(judge, _weight(solving, prior, offset, ridge).transpose(1, 2)).sum())
        for ridge in RIDGES
    }
    return min(errors, key=errors.__getitem__)
