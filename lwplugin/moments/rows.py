"""A layer as a matrix product: its inputs and responses as rows, sampled where a convolution has too many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.model.weight_layout import CONVOLUTIONS, TRANSPOSED, groups_of, rows_of


@dataclass(frozen=True)
class Rows:
    """Which rows of a layer's matrix product are used: flat (example × position) indices, int64 [rows]."""

    index: Tensor
    positions: int
    """Positions per example (output pixels, tokens)."""

    def __len__(self) -> int:
        return len(self.index)

    def parts(self, width: int) -> Iterator[tuple[slice, Rows]]:
        """The rows in pieces whose inputs, ``width`` numbers each, stay under 128 MiB; and where each lies."""
        size = max(1, 2**25 // max(width, 1))
        for start in range(0, len(self), size):
            span = slice(start, min(start + size, len(self)))
            yield span, Rows(self.index[span], self.positions)


def supports(layer: nn.Module) -> bool:
    """Whether a layer's moments can be taken: exactly torch's Linear, Conv1d, Conv2d or a subclass of them."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and has_rows(layer)


def has_rows(layer: nn.Module) -> bool:
    """Whether `inputs_of` times `weight_rows` is what the layer answers: the same and all other convolutions."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def weight_rows(layer: nn.Module) -> Tensor:
    """The weight as [groups, outputs per group, inputs per group × kernel]; a view where outputs lie first."""
    return rows_of(layer).unflatten(0, (groups_of(layer), -1)).flatten(2)


def answers_of(features: Tensor, weight: Tensor) -> Tensor:
    """What weights [g, o, k] answer to inputs [rows, g, k], [rows, g × o]; without the constant."""
    return torch.einsum("rgk,gok->rgo", features.float(), weight.to(features.device).float()).flatten(1)


def set_apart(rows: Rows) -> Tensor:
    """Which rows are of every eighth example, bool [rows]: not solved for until it is known how hard to pull."""
    apart: Tensor = rows.index // rows.positions % 8 == 7
    return apart


def enough_rows(width: int, per_input: int = 16) -> int:
    """How many rows tell the moments of so many inputs; wide layers make do with fewer for each input."""
    return max(8192, min(per_input * width, 2**16))


def rows_of_convolution(layer: nn.Conv1d | nn.Conv2d) -> int:
    """How many rows a repaired convolution is solved from: neighbouring positions tell much the same, so more of them
    than of tokens, as long as its responses stay under 16 MiB."""
    many = max(2**15, min(64 * weight_rows(layer).shape[-1], 2**16))
    return min(many, 2**22 // layer.out_channels)


def sample_rows(
    layer: nn.Module, response: Tensor, wanted: int, *, seed: int, valid: Tensor | None = None
) -> Rows:
    """Choose up to ``wanted`` rows of a layer's ``response``, evenly over examples, each at other positions drawn by
    ``seed``.

    ``valid`` (bool [examples, positions]) leaves out positions that are padding.
    """
    examples = response.shape[0]
    positions = (
        response[0, 0].numel()
        if isinstance(layer, CONVOLUTIONS)
        else response[0].numel() // response.shape[-1]
    )
    total = examples * positions
    generator = torch.Generator().manual_seed(seed)
    if valid is not None and valid.numel() == total:
        allowed = torch.nonzero(valid.reshape(-1).cpu(), as_tuple=True)[0]
    elif total <= wanted:
        return Rows(torch.arange(total), positions)
    else:
        each = max(1, wanted // examples)
        drawn = torch.rand(examples, positions, generator=generator).topk(each).indices
        return Rows((drawn + torch.arange(examples)[:, None] * positions).reshape(-1), positions)
    if len(allowed) > wanted:
        allowed = allowed[torch.randperm(len(allowed), generator=generator)[:wanted]]
    return Rows(allowed, positions)


def reaches(layer: nn.Module, x: Tensor, rows: Rows) -> bool:
    """Whether an input of the layer has all these rows."""
    if isinstance(layer, nn.Linear):
        return int(rows.index.max()) < x.numel() // x.shape[-1]
    return int(rows.index.max()) // rows.positions < len(x)


def inputs_of(layer: nn.Module, x: Tensor, rows: Rows) -> Tensor:
    """The chosen input rows of a layer, [rows, groups, inputs per group × kernel]."""
    index = rows.index.to(x.device)
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])[index][:, None, :]
    assert isinstance(layer, CONVOLUTIONS)
    padded, stride = _as_read(layer, x)
    channels, *space = padded.shape[1:]
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    counts = [(n - span - 1) // s + 1 for n, span, s in zip(space, spans, stride, strict=True)]
    places = torch.unravel_index(index % rows.positions, counts)
    corner, taps = index // rows.positions, index.new_zeros(1)
    for axis, size in enumerate(space):
        steps = torch.arange(layer.kernel_size[axis], device=x.device) * layer.dilation[axis]
        # What a transposed convolution spreads, its outputs gather from the kernel's end.
        steps = steps.flip(0) if isinstance(layer, TRANSPOSED) else steps
        corner = corner * size + places[axis] * stride[axis]
        taps = (taps[:, None] * size + steps).reshape(-1)
    pixels = padded.movedim(1, -1).reshape(-1, channels)
    patch = pixels.index_select(0, (corner[:, None] + taps).reshape(-1)).reshape(len(index), -1, channels)
    return patch.transpose(1, 2).reshape(len(index), groups_of(layer), -1)


def _as_read(layer: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input with the zeros a convolution reads around it, those of a transposed one between its values too; the
    stride over it."""
    padding, stride = layer.padding, layer.stride
    before = after = padding
    if isinstance(layer, TRANSPOSED):
        spread = x.new_zeros(
            *x.shape[:2], *(s * (n - 1) + 1 for n, s in zip(x.shape[2:], stride, strict=True))
        )
        spread[(..., *(slice(None, None, s) for s in stride))] = x
        x, stride = spread, (1,) * len(stride)
        before = tuple(
            d * (k - 1) - p for d, k, p in zip(layer.dilation, layer.kernel_size, padding, strict=True)
        )
        after = tuple(b + more for b, more in zip(before, layer.output_padding, strict=True))
    pads = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(x, pads), stride


def responses_of(layer: nn.Module, y: Tensor, rows: Rows) -> Tensor:
    """The chosen rows of a layer's response, [rows, outputs]."""
    index = rows.index.to(y.device)
    if isinstance(layer, nn.Linear | nn.Embedding):
        return y.reshape(-1, y.shape[-1])[index]
    flat = y.flatten(2)
    return flat[index // rows.positions, :, index % rows.positions]
