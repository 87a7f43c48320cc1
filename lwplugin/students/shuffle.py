"""The channel shuffle that both ShuffleNets live on."""

from __future__ import annotations

from torch import Tensor


def shuffled(x: Tensor, groups: int) -> Tensor:
    """[n, c, h, w] with the channels of ``groups`` blocks dealt out in turn, so that the next groups see all."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
