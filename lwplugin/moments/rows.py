"""A layer as a matrix product: its inputs and responses as rows, sampled where a convolution has too many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Conv1d | nn.Conv2d | nn.Linear


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
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def groups_of(layer: nn.Module) -> int:
    """Independent blocks of the product: the groups of a convolution, 1 for a linear layer."""
    return int(layer.groups) if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else 1


def weight_rows(layer: nn.Module) -> Tensor:
    """The weight as [groups, outputs per group, inputs per group × kernel]; a view."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().reshape(groups_of(layer), weight.shape[0] // groups_of(layer), -1)


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
    """Choose up to ``wanted`` rows of a layer's ``response``, evenly over examples, at positions drawn by ``seed``.

    ``valid`` (bool [examples, positions]) leaves out positions that are padding.
    """
    examples = response.shape[0]
    positions = (
        response[0, 0].numel()
        if isinstance(layer, (nn.Conv1d, nn.Conv2d))
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
        drawn = torch.randint(positions, (examples, each), generator=generator)
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
    if isinstance(layer, nn.Conv1d):
        x = x[:, :, None, :]
        kernel, stride, padding, dilation = ((1, layer.kernel_size[0]), (1, layer.stride[0]),
                                             (0, layer.padding[0]), (1, layer.dilation[0]))  # fmt: skip
    else:
        assert isinstance(layer, nn.Conv2d)
        kernel, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation  # type: ignore[assignment]
    padded = F.pad(x, (int(padding[1]), int(padding[1]), int(padding[0]), int(padding[0])))
    channels, height, across = padded.shape[1:]
    width = (across - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    example, position = index // rows.positions, index % rows.positions
    corner = (example * height + position // width * stride[0]) * across + position % width * stride[1]
    down, right = (torch.arange(size, device=x.device) for size in kernel)
    taps = (down[:, None] * dilation[0] * across + right * dilation[1]).reshape(-1)
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels)
    patch = pixels.index_select(0, (corner[:, None] + taps).reshape(-1)).reshape(len(index), -1, channels)
    return patch.transpose(1, 2).reshape(len(index), groups_of(layer), -1)


def responses_of(layer: nn.Module, y: Tensor, rows: Rows) -> Tensor:
    """The chosen rows of a layer's response, [rows, outputs]."""
    index = rows.index.to(y.device)
    if isinstance(layer, nn.Linear | nn.Embedding):
        return y.reshape(-1, y.shape[-1])[index]
    flat = y.flatten(2)
    return flat[index // rows.positions, :, index % rows.positions]
