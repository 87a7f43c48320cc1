"""The integer forms a float model can take, each weight rounded to the nearest: what `int8` chooses among."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.quantize.calibration import LayerRanges
from lwplugin.quantize.layers import QuantLinear, quantized_like
from lwplugin.quantize.scheme import AffineGrid
from lwplugin.quantize.smoothing import smoothing_gains
from lwplugin.quantize.weights import WeightClip, channel_scales, round_weight


@dataclass(frozen=True)
class Form:
    """What is done to a model before its weights are rounded."""

    dynamic: bool = False
    """Linear layers take the range of their input while they run."""
    smoothed: bool = False
    """Linear layers scale the channels of their input (`smoothing.py`)."""

    @property
    def name(self) -> str:
        """In words, comma-separated; "plain" for none of it."""
        words = {"dynamic": self.dynamic, "smoothed": self.smoothed}
        return ", ".join(word for word, on in words.items() if on) or "plain"

    def rounded(self, how: str) -> str:
        """The name of this form with its weights rounded in another way than to the nearest."""
        return how if self == Form() else f"{self.name}, {how}"


class Maker:
    """Makes forms of ``module``, whose layers ``names`` become integer layers with weights of at most ``limit``.

    ``calibrate`` gives the ranges for inputs times gains; ``inputs`` are what gains are chosen on.
    """

    def __init__(
        self,
        module: nn.Module,
        names: list[str],
        limit: int,
        clip: WeightClip,
        calibrate: Callable[[Mapping[str, Tensor]], dict[str, LayerRanges]],
        inputs: Inputs,
    ) -> None:
        self.module, self.names, self.limit, self.clip = module, names, limit, clip
        self._calibrate, self._inputs = calibrate, inputs
        self._ranges: dict[bool, dict[str, LayerRanges]] = {}
        self._gains: dict[str, Tensor] = {}

    @property
    def over_tokens(self) -> list[str]:
        """Linear layers that were seen to read more than one row an example."""
        return [name for name in self._linear if self.ranges(smoothed=False)[name].dimensions > 2]

    def ranges(self, *, smoothed: bool) -> dict[str, LayerRanges]:
        """Calibrated once for each of the two."""
        if smoothed not in self._ranges:
            if smoothed:
                self._gains = smoothing_gains(self.module, self._inputs, self._linear, limit=self.limit)
            self._ranges[smoothed] = self._calibrate(self._gains if smoothed else {})
        return self._ranges[smoothed]

    @torch.no_grad()
    def make(self, form: Form) -> nn.Module:
        """A copy of the module in this form."""
        ranges = self.ranges(smoothed=form.smoothed)
        gains = self._gains if form.smoothed else {}
        made = copy.deepcopy(self.module)
        for name in self.names:
            layer = self._layer(made.get_submodule(name), ranges[name], gains.get(name))
            if isinstance(layer, QuantLinear):
                layer.dynamic = form.dynamic
            made.set_submodule(name, layer)
        return made

    @property
    def _linear(self) -> list[str]:
        return [name for name in self.names if isinstance(self.module.get_submodule(name), nn.Linear)]

    def _layer(self, layer: Any, ranges: LayerRanges, gain: Tensor | None) -> nn.Module:
        weight = layer.weight if gain is None else layer.weight / gain
        scale = channel_scales(weight, self.limit, clip=self.clip)
        if layer.bias is not None:
            step = AffineGrid.of_range(*ranges.inputs).scale
            scale = torch.maximum(scale, smallest_scale(layer.bias, step))
        made = quantized_like(layer, smoothed=gain is not None)
        if gain is not None:
            made.get_buffer("input_gain").copy_(gain)
        made.set_weight(round_weight(weight, scale, self.limit), scale)
        made.set_ranges(ranges.inputs, ranges.outputs)
        return made


def smallest_scale(bias: torch.Tensor, input_step: float) -> torch.Tensor:
    """Least weight scale, [out, 1], with which the bias fits a 32-bit accumulator with one bit to spare.

    Only channels whose weights are nearly nothing beside their bias come near it.
    """
    return (bias.detach().double().abs() / (input_step * 2**30)).float().unsqueeze(1)
