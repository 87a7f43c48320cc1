"""SmoothQuant (Xiao 2022, 2211.10438): before both are rounded, channels of large inputs shrink and their weights grow.

The gain stays with the layer, one product an input, so it need not be folded into whatever lies before: that may be a
normalization whose output a residual connection reads too. How far to go is measured, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.data.padding import attention_mask
from lwplugin.model.watching import watching
from lwplugin.moments.rows import inputs_of, sample_rows
from lwplugin.quantize.scheme import AffineGrid, around_zero, dynamically_rounded
from lwplugin.quantize.weights import channel_scales, dequantize, round_weight

_INPUT_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_WEIGHT_STRENGTHS = (0.0, 0.25, 0.5)
_ROWS = 512


@torch.no_grad()
def smoothing_gains(
    module: nn.Module,
    inputs: Inputs,
    names: Iterable[str],
    *,
    limit: int,
    symmetric: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Gains [in] of linear layers by name; a layer whose error none of them lowers is missing.

    A gain is max|w|^b / max|x|^a, channel by channel; a and b are those with the least error of the rounded product
    on sampled rows. Layers that read the same tensor get the same gains, so that it is rounded once.

    Args:
        limit: largest magnitude of an integer weight.
        symmetric: inputs will be rounded in ranges around zero.
    """
    seen: dict[int, tuple[str, Tensor]] = {}
    readers: dict[str, list[str]] = {}
    rows: dict[str, tuple[Tensor, Tensor]] = {}
    valid = attention_mask(inputs)

    def watch(name: str, args: tuple[Any, ...], output: Tensor) -> None:
        x = args[0]
        # The tensor is kept so that no other can take its place in memory.
        first, _ = seen.setdefault(id(x), (name, x))
        readers.setdefault(first, []).append(name)
        if first == name:
            layer: Any = module.get_submodule(name)
            chosen = sample_rows(layer, output, _ROWS, seed=seed, valid=valid)
            rows[name] = inputs_of(layer, x, chosen).squeeze(1), x.reshape(-1, x.shape[-1]).abs().amax(0)

    with watching(module, names, watch):
        call(module, inputs)
    gains: dict[str, Tensor] = {}
    for first, (x, peak) in rows.items():
        group = list(dict.fromkeys(readers[first]))
        layers: list[Any] = [module.get_submodule(name) for name in group]
        gain = best_gain(x, peak, torch.cat([layer.weight for layer in layers]), limit, symmetric)
        if gain is not None:
            gains |= dict.fromkeys(group, gain)
    return gains


def best_gain(x: Tensor, peak: Tensor, weight: Tensor, limit: int, symmetric: bool = False) -> Tensor | None:
    """The gain [in] for inputs ``x`` [rows, in] of largest magnitudes ``peak`` [in]; None where none helps.

    ``weight`` is [out, in].
    """
    wanted = x @ weight.T
    largest = weight.abs().amax(0).clamp_min(1e-5)
    peak = peak.clamp_min(1e-5)

    def round_input(x: Tensor) -> Tensor:
        if not symmetric:
            return dynamically_rounded(x)
        return AffineGrid.of_range(*around_zero(float(x.min()), float(x.max()))).fake_quantize(x)

    def error(gain: Tensor) -> float:
        scaled = weight / gain
        scale = channel_scales(scaled, limit, clip="max")
        rounded = dequantize(round_weight(scaled, scale, limit), scale)
        return float((round_input(x * gain) @ rounded.T - wanted).square().sum())

    best, least = None, error(torch.ones_like(peak))
    for a, b in product(_INPUT_STRENGTHS, _WEIGHT_STRENGTHS):
        gain = largest**b / peak**a
        gain = gain / gain.log().mean().exp()
        found = error(gain)
        if found < least:
            best, least = gain, found
    return best
