"""Convolutions that are told their padding by a word, as numbers, which is what methods know."""

from __future__ import annotations

from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def padded_by_word(module: nn.Module) -> list[nn.Module]:
    """Convolutions with padding ``valid``, or ``same`` where that is as much on either side."""
    return [
        layer for layer in module.modules() if type(layer) in _CONVOLUTIONS and _numbers(layer) is not None
    ]


def as_numbers(module: nn.Module) -> None:
    """Gives these their padding in numbers, in place; they compute the same bits."""
    for layer in padded_by_word(module):
        layer.padding = _numbers(layer)  # type: ignore[assignment]


def _numbers(layer: nn.Module) -> tuple[int, ...] | None:
    assert isinstance(layer, _CONVOLUTIONS)
    if not isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(size % 2 for size in total) else tuple(size // 2 for size in total)
