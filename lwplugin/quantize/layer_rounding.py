"""Rounds one layer so that it gives a wanted response to the inputs it meets; a wide layer block by block.

The work grows with the cube of a layer's width and the memory with its square. A layer wider than `WIDEST` is therefore
taken in blocks of input channels, as if their inputs were uncorrelated with those of the other blocks: each block is
solved and rounded for what the others leave of the response, so that it also mends the error of those before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lwplugin.model.weight_layout import groups_of, taps_of
from lwplugin.moments.responses import Response
from lwplugin.moments.rows import Rows, answers_of, inputs_of
from lwplugin.quantize.ridge import Ridge, solved

WIDEST = 2304
"""Inputs of a block, at most: 256 channels of a 3 × 3 kernel."""
_ROWS_PER_INPUT = 16


class Rule(Protocol):
    """How weights are rounded."""

    def __call__(
        self, weight: Tensor, second_moment: Tensor, scale: Tensor, zero: Tensor, levels: int, /
    ) -> tuple[Tensor, Tensor]:
        """Codes, uint8 [g, o, k], and the scales they stand on, for inputs of second moment [g, k, k]."""


def keeping_scale(codes_of: Callable[..., Tensor]) -> Rule:
    """The rule that takes codes such as `compensation.compensated_codes` finds on the scales as they are."""
    return lambda weight, second_moment, scale, zero, levels: (
        codes_of(weight, second_moment, scale, zero, levels),
        scale,
    )


@dataclass(frozen=True)
class Grid:
    """``scale`` and ``zero`` of every weight, float32 [g, o, k]; codes lie in [0, levels]."""

    scale: Tensor
    zero: Tensor
    levels: int


@dataclass(frozen=True)
class Rounded:
    """``codes`` uint8 and their ``scale`` float32, [g, o, k].

    ``bias`` float32 [g × o] takes up the mean error, None where there is none.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None


def round_to_response(
    layer: nn.Module,
    weight: Tensor,
    x: Tensor,
    response: Response,
    *,
    grid_of: Callable[[Tensor, Tensor], Grid],
    rule: Rule,
    bias: bool,
    ridge: Ridge,
    widest: int = WIDEST,
) -> Rounded:
    """Codes and bias with which ``weight`` [g, o, k] answers ``x`` as ``response`` says.

    Args:
        layer: Linear or a convolution whose geometry it is; its weights are not read.
        grid_of: the grid for a weight and the mean squares [g, k] of its inputs; asked once, with the solved weight, or
            with the given one where there are several blocks.
        ridge: how strongly solved weights hold on to the given ones (`ridge.py`); None rounds them as they are.
        widest: inputs of a block, at most; the kernel of one channel is never parted.
    """
    weight = weight.detach().float().cpu()
    blocks = input_blocks(layer, weight.shape[-1], widest)
    several = len(blocks) > 1
    if several:
        response = _thinned(response, _ROWS_PER_INPUT * widest)

    def features(block: slice) -> Tensor:
        return inputs_of(layer, x if not several else _channels(layer, x, block), response.rows)

    even = (response.rows.index // response.rows.positions % 2 == 0).to(response.values.device)
    # What the blocks together do not give yet; a single block owes the whole response.
    left = response.values.float()
    grid = None
    if several:
        energy = []
        for block in blocks:
            rows = features(block)
            left = left - answers_of(rows, weight[:, :, block])
            energy.append(
                (rows.float().var(0, correction=0) if bias else rows.float().square().mean(0)).cpu()
            )
        grid = grid_of(weight, torch.cat(energy, -1))
    codes, scales = torch.empty(weight.shape, dtype=torch.uint8), torch.empty(weight.shape)
    mean_answer = torch.zeros(weight.shape[:2], dtype=torch.float64)
    for block in blocks:
        part, rows = weight[:, :, block], features(block)
        wanted = left + answers_of(rows, part) if several else left
        moments, part = solved(rows, wanted, even, part, offset=bias, ridge=ridge)
        second_moment = moments.covariances(centred=bias)[0]
        if grid is None:
            grid = grid_of(part, second_moment.diagonal(dim1=1, dim2=2).float())
        scale, zero = grid.scale[:, :, block], grid.zero[:, :, block]
        codes[:, :, block], scales[:, :, block] = rule(part, second_moment, scale, zero, grid.levels)
        made = (codes[:, :, block].float() - zero) * scales[:, :, block]
        mean_answer += torch.einsum("gok,gk->go", made.double(), moments.means()[0])
        if several:
            left = wanted - answers_of(rows, made)
    if not bias:
        return Rounded(codes, scales, None)
    mean_response = response.values.double().mean(0).cpu()
    return Rounded(codes, scales, (mean_response - mean_answer.reshape(-1)).float())


def input_blocks(layer: nn.Module, width: int, widest: int) -> list[slice]:
    """The inputs of a row as runs of whole channels, as even as they go, each of at most ``widest`` or one channel."""
    kernel = taps_of(layer)
    channels = width // kernel
    count = -(-channels // max(1, widest // kernel))
    edges = [kernel * (channels * i // count) for i in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def _channels(layer: nn.Module, x: Tensor, block: slice) -> Tensor:
    """``x`` with only those channels, of every group, that a block of inputs reads."""
    kernel = taps_of(layer)
    span = slice(block.start // kernel, block.stop // kernel)
    if isinstance(layer, nn.Linear):
        return x[..., span]
    return x.unflatten(1, (groups_of(layer), -1))[:, :, span].flatten(1, 2)


def _thinned(response: Response, most: int) -> Response:
    """At most so many rows, evenly taken."""
    step = -(-len(response.rows) // most)
    rows = Rows(response.rows.index[::step], response.rows.positions)
    return Response(rows, response.values[::step])
