"""How far a layer's weights may move towards a wanted response: as far as helps on examples not solved for."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Literal

from torch import Tensor

from lwplugin.moments.moments import Moments
from lwplugin.moments.solve import solve

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
    moments = Moments.zeros(prior.shape[0], prior.shape[2], prior.shape[1])
    if ridge == "auto":
        moments.add(rows[even], wanted[even])
        solving = copy.deepcopy(moments)
        moments.add(rows[~even], wanted[~even])
        chosen = _judged(solving, _difference(moments, solving), prior, offset)
    else:
        moments.add(rows, wanted)
        if ridge is None:
            return moments, prior
        chosen = ridge
    return moments, solve(moments, prior, offset=offset, ridge=chosen).weight.float()


def _judged(solving: Moments, judging: Moments, prior: Tensor, offset: bool) -> float:
    """The ridge whose solution leaves least error on other examples; the middle one where there are none."""
    if not solving.rows or not judging.rows:
        return RIDGES[1]
    errors = {
        ridge: _error(judging, solve(solving, prior, offset=offset, ridge=ridge).weight, offset)
        for ridge in RIDGES
    }
    return min(errors, key=errors.__getitem__)


def _difference(all_rows: Moments, some: Moments) -> Moments:
    """Moments of the rows that ``all_rows`` has beyond ``some``."""
    sums = {
        each.name: getattr(all_rows, each.name) - getattr(some, each.name)
        for each in fields(Moments)
        if not each.name.startswith("origin")
    }
    return Moments(**sums, origin_x=all_rows.origin_x, origin_y=all_rows.origin_y)


def _error(moments: Moments, weight: Tensor, offset: bool) -> float:
    """Sum over outputs of E(y − Wx)², about the means where there is an ``offset``."""
    xx, xy, yy = moments.covariances(centred=offset)
    w = weight.double().transpose(1, 2)
    return float(yy.sum() - 2 * (w * xy).sum() + (w * (xx @ w)).sum())
