"""Learned rounding (AdaRound; Nagel 2020, 2004.10568): each weight goes up or down as its layer's response asks."""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA, _ZETA = -0.1, 1.1
_WARM_UP = 0.2
"""Share of the steps before the variables are drawn to 0 and 1."""
_BETA = (20.0, 2.0)


def adaptive_codes(
    weight: Tensor,
    second_moment: Tensor,
    scale: Tensor,
    zero: Tensor,
    levels: int,
    *,
    steps: int = 400,
    lr: float = 0.1,
    pull: float = 30.0,
) -> Tensor:
    """Codes, uint8 [g, o, k], each one of the two grid points around its weight; on the CPU, deterministic.

    A rectified sigmoid says how far up a weight goes. Adam lowers the squared error of the layer's response, which the
    second moment gives without the inputs themselves, so that memory does not depend on how many there were; a
    regulariser that grows sharper draws every variable to 0 or 1. Other than in the paper, each step sees all inputs,
    the error is that of the layer before its activation, and it is counted in errors of nearest rounding, so that
    ``pull`` means the same for every layer.

    Args:
        weight: [g, o, k].
        second_moment: E[xxᵀ] [g, k, k].
        scale: of every weight, [g, o, k], as is ``zero``; codes lie in [0, levels].
        pull: weight of the regulariser.
    """
    weight, scale, zero = (t.detach().float().cpu() for t in (weight, scale, zero))
    moment = second_moment.float().cpu()
    down = (weight / scale).floor()
    fraction = weight / scale - down
    spread = (moment.diagonal(dim1=1, dim2=2)[:, None, :] * scale.square()).mean() / 12
    variable = (((fraction - _GAMMA) / (_ZETA - _GAMMA)).clamp(1e-3, 1 - 1e-3)).logit()
    first, second = torch.zeros_like(variable), torch.zeros_like(variable)
    warm = int(_WARM_UP * steps)
    for step in range(1, steps + 1):
        sigmoid = variable.sigmoid()
        free = sigmoid * (_ZETA - _GAMMA) + _GAMMA
        up = free.clamp(0, 1)
        code = down + up + zero
        error = (code.clamp(0, levels) - zero) * scale - weight
        slope = 2 / spread * (error @ moment) * scale * ((code >= 0) & (code <= levels))
        if step > warm:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - (step - warm) / (steps - warm))
            away = 2 * up - 1
            slope -= pull * 2 * beta * away.abs().pow(beta - 1) * away.sign()
        slope *= (sigmoid * (1 - sigmoid) * (_ZETA - _GAMMA)) * ((free > 0) & (free < 1))
        first.lerp_(slope, 0.1)
        second.lerp_(slope.square(), 0.001)
        corrected = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        variable -= lr / (1 - 0.9**step) * first / corrected
    up = (variable.sigmoid() * (_ZETA - _GAMMA) + _GAMMA) >= 0.5
    return (down + up + zero).clamp(0, levels).to(torch.uint8)
