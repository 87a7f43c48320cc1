"""What corruptions do to numbers: pure functions of a batch, a severity and one random generator per example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Generators = Sequence[np.random.Generator]


@dataclass(frozen=True)
class Scale:
    """The numbers' own measure, seen on clean examples: of an image's channels [1, c, 1, 1] lowest and highest
    value, of other numbers the standard deviation, per feature where examples are plain vectors."""

    low: Tensor
    high: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scale:
        """Of a batch [n, …]."""
        if x.ndim == 4:
            return cls(x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True), x.std())
        per_feature = x.ndim == 2 and len(x) > 1
        std = x.std(0, keepdim=True) if per_feature else x.float().std(correction=0)
        return cls(x.min(), x.max(), std)


Change = Callable[[Tensor, int, Scale, Generators], Tensor]
"""([n, …], severity 1 to 5, scale, a generator per example) → the same shape."""

_IMAGE_NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)  # of the range
_NUMBER_NOISE = (0.1, 0.2, 0.35, 0.5, 0.75)  # of the standard deviation
_BLUR = (0.015, 0.022, 0.03, 0.04, 0.055)  # sigma, of the longer side
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the range
_CONTRAST = (0.75, 0.6, 0.45, 0.3, 0.2)  # of the deviations that stay
_SHIFT = (0.03, 0.06, 0.09, 0.12, 0.15)  # of the side, at least one pixel
_DIRECTIONS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def noise(x: Tensor, severity: int, scale: Scale, generators: Generators) -> Tensor:
    drawn = np.stack([each.standard_normal(x.shape[1:], dtype=np.float32) for each in generators])
    if x.ndim != 4:
        return x + torch.from_numpy(drawn) * (_NUMBER_NOISE[severity - 1] * scale.std)
    amount = _IMAGE_NOISE[severity - 1] * (scale.high - scale.low)
    return _within(x + torch.from_numpy(drawn) * amount, scale)


def blur(x: Tensor, severity: int, scale: Scale, generators: Generators) -> Tensor:
    # Less than half a pixel would leave a small image as it is.
    sigma = _BLUR[severity - 1] * max(28, *x.shape[2:])
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel[..., None], groups=x.shape[1])
    return F.conv2d(rows, kernel[:, :, None], groups=x.shape[1])


def brightness(x: Tensor, severity: int, scale: Scale, generators: Generators) -> Tensor:
    signs = torch.tensor([1.0 if each.random() < 0.5 else -1.0 for each in generators])[:, None, None, None]
    return _within(x + signs * _BRIGHTNESS[severity - 1] * (scale.high - scale.low), scale)


def contrast(x: Tensor, severity: int, scale: Scale, generators: Generators) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * _CONTRAST[severity - 1]


def shift(x: Tensor, severity: int, scale: Scale, generators: Generators) -> Tensor:
    height, width = x.shape[2:]
    steps = [max(1, round(_SHIFT[severity - 1] * side)) for side in (height, width)]
    moved = []
    for image, each in zip(x, generators, strict=True):
        down, right = _DIRECTIONS[int(each.integers(len(_DIRECTIONS)))]
        rows = (torch.arange(height) - down * steps[0]).clamp(0, height - 1)
        columns = (torch.arange(width) - right * steps[1]).clamp(0, width - 1)
        moved.append(image[:, rows][:, :, columns])
    return torch.stack(moved)


def _within(x: Tensor, scale: Scale) -> Tensor:
    return torch.minimum(torch.maximum(x, scale.low), scale.high)


OF_IMAGES: dict[str, Change] = {"blur": blur, "brightness": brightness, "contrast": contrast, "shift": shift}
OF_NUMBERS: dict[str, Change] = {"noise": noise}
