"""One-dimensional k-means: the values that many weights, or the weights of a row, can share at least cost."""

from __future__ import annotations

import torch
from torch import Tensor

_ITERATIONS = 60


def shared_values(weights: Tensor, count: int, *, importance: Tensor | None = None) -> Tensor:
    """``count`` sorted values, float32, with a small Σ importance · (w − nearest value)².

    Lloyd's algorithm on sorted weights, started from evenly spaced values (Han 2015, 1510.00149) and from evenly
    filled ones; the better end is kept. Weights of no importance still count a little.
    """
    flat, order = weights.detach().reshape(-1).double().sort()
    cost = torch.ones_like(flat) if importance is None else importance.reshape(-1).to(flat)[order]
    cost = cost.clamp_min(1e-6 * float(cost.mean().clamp_min(1e-30)))
    zero = flat.new_zeros(1)
    mass, moment = (torch.cat((zero, part.cumsum(0))) for part in (cost, cost * flat))
    places = (torch.arange(count, dtype=torch.float64, device=flat.device) + 0.5) / count
    starts = (
        flat[0] + (flat[-1] - flat[0]) * places,
        flat[torch.searchsorted(mass[1:], places * mass[-1]).clamp_max(len(flat) - 1)],
    )
    ends = [_lloyd(flat, mass, moment, start) for start in starts]
    best = min(ends, key=lambda values: float((cost * (flat - nearest(flat, values)).square()).sum()))
    return best.float()


def two_values(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Threshold, lower and upper value of each row with the least Σ (w − value)², float32 [n, 1] each.

    Two values need no iteration: of all splits of a sorted row the best is the one whose means lie furthest apart,
    weighed by what they stand for (Otsu 1979, 10.1109/TSMC.1979.4310076). Rows [n, k] of one weight get it twice.
    """
    ordered = rows.detach().double().sort(1).values
    ordered = ordered if ordered.shape[1] > 1 else ordered.expand(-1, 2)
    below = torch.arange(1, ordered.shape[1], dtype=torch.float64, device=rows.device)
    above = ordered.shape[1] - below
    sums = ordered.cumsum(1)[:, :-1]
    rest = ordered.sum(1, keepdim=True) - sums
    at = (sums.square() / below + rest.square() / above).argmax(1, keepdim=True)
    low, high = sums.gather(1, at) / (at + 1), rest.gather(1, at) / above[at]
    threshold = (ordered.gather(1, at) + ordered.gather(1, at + 1)) / 2
    return threshold.float(), low.float(), high.float()


def indices(weights: Tensor, values: Tensor) -> Tensor:
    """Index of the nearest of the sorted ``values``, uint8 in the weights' shape."""
    middles = (values[1:] + values[:-1]) / 2
    return torch.bucketize(weights.detach().contiguous(), middles).to(torch.uint8)


def nearest(weights: Tensor, values: Tensor) -> Tensor:
    """The nearest of the sorted ``values`` for each weight."""
    return values[indices(weights, values).long()]


def _lloyd(flat: Tensor, mass: Tensor, moment: Tensor, values: Tensor) -> Tensor:
    ends = torch.tensor([0, len(flat)], device=flat.device).split(1)
    for _ in range(_ITERATIONS):
        cuts = torch.searchsorted(flat, (values[1:] + values[:-1]) / 2)
        bounds = torch.cat((ends[0], cuts, ends[1]))
        weight = mass[bounds[1:]] - mass[bounds[:-1]]
        centre = (moment[bounds[1:]] - moment[bounds[:-1]]) / weight.clamp_min(1e-300)
        moved = torch.where(weight > 0, centre, values)
        if torch.equal(moved, values):
            break
        values = moved
    return values.sort().values
