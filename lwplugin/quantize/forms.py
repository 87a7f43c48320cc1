"""The integer forms a float model can take, each weight rounded to the nearest: what `int8` chooses among."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, take
from lwplugin.quantize.calibration import LayerRanges
from lwplugin.quantize.equalization import Pair, equalized
from lwplugin.quantize.layers import QuantLinear, quantized_like
from lwplugin.quantize.scheme import AffineGrid
from lwplugin.quantize.smoothing import smoothing_gains
from lwplugin.quantize.splitting import Split, split_channels
from lwplugin.quantize.weights import WeightClip, channel_scales, round_weight

_EQUALIZING_EXAMPLES = 16


@dataclass(frozen=True)
class Form:
    """What is done to a model before its weights are rounded."""

    equalized: bool = False
    """Channels are scaled between layers (`equalization.py`)."""
    dynamic: bool = False
    """Linear layers take the range of their input while they run."""
    smoothed: bool = False
    """Linear layers scale the channels of their input (`smoothing.py`)."""
    split: bool = False
    """Channels of large weights are there several times (`splitting.py`)."""

    @property
    def name(self) -> str:
        """In words, comma-separated; "plain" for none of it."""
        words = {
            "equalized": self.equalized,
            "dynamic": self.dynamic,
            "smoothed": self.smoothed,
            "split": self.split,
        }
        return ", ".join(word for word, on in words.items() if on) or "plain"

    def rounded(self, how: str) -> str:
        """The name of this form with its weights rounded in another way than to the nearest."""
        return how if self == Form() else f"{self.name}, {how}"


class Maker:
    """Makes forms of ``module``, whose layers ``names`` become integer layers with weights of at most ``limit``.

    ``calibrate`` gives a module's ranges for inputs times gains, around zero where ``symmetric``; ``inputs`` are what
    gains are chosen on.
    """

    def __init__(
        self,
        module: nn.Module,
        names: list[str],
        limit: int,
        clip: WeightClip,
        calibrate: Callable[[nn.Module, Mapping[str, Tensor]], dict[str, LayerRanges]],
        inputs: Inputs,
        *,
        symmetric: bool = False,
    ) -> None:
        self.module, self.names, self.limit, self.clip = module, names, limit, clip
        self.symmetric = symmetric
        self._calibrate, self._inputs = calibrate, inputs
        self._references: dict[Form, nn.Module] = {Form(): module}
        self._ranges: dict[Form, dict[str, LayerRanges]] = {}
        self._gains: dict[Form, dict[str, Tensor]] = {}
        self._splits: dict[Form, list[Split]] = {}
        self.pairs: list[Pair] = []

    @property
    def over_tokens(self) -> list[str]:
        """Linear layers that were seen to read more than one row an example."""
        return [name for name in self._linear if self.ranges(Form())[name].dimensions > 2]

    def reference(self, form: Form) -> nn.Module:
        """The float model whose weights the form rounds; equalized or split, it answers as the module does."""
        form = replace(form, dynamic=False, smoothed=form.smoothed and form.split)
        if form not in self._references:
            if form.split:
                whole = replace(form, split=False)
                self._references[form], self._splits[form] = split_channels(
                    self.reference(whole), self._linear, self._inputs, self.gains(whole)
                )
            else:
                made = copy.deepcopy(self.module)
                self.pairs = equalized(made, self.names, take(self._inputs, _EQUALIZING_EXAMPLES))
                self._references[form] = made
        return self._references[form]

    @property
    def can_equalize(self) -> bool:
        """Whether there are channels to scale between layers."""
        self.reference(Form(equalized=True))
        return bool(self.pairs)

    def splits(self, form: Form) -> list[Split]:
        """Where the form has channels several times."""
        if not form.split:
            return []
        self.reference(form)
        return self._splits[replace(form, dynamic=False)]

    def gains(self, form: Form) -> dict[str, Tensor]:
        """Of its linear layers' inputs, where it is smoothed."""
        if not form.smoothed:
            return {}
        form = replace(form, dynamic=False)
        if form not in self._gains:
            self._gains[form] = smoothing_gains(
                self.reference(form), self._inputs, self._linear, limit=self.limit, symmetric=self.symmetric
            )
        return self._gains[form]

    def ranges(self, form: Form) -> dict[str, LayerRanges]:
        """Calibrated once for each float model and its gains."""
        form = replace(form, dynamic=False)
        if form not in self._ranges:
            self._ranges[form] = self._calibrate(self.reference(form), self.gains(form))
        return self._ranges[form]

    @torch.no_grad()
    def make(self, form: Form) -> nn.Module:
        """A copy of the module in this form, whose dynamic layers take each example by itself."""
        ranges, gains = self.ranges(form), self.gains(form)
        made = copy.deepcopy(self.reference(form))
        for name in self.names:
            layer = self._layer(made.get_submodule(name), ranges[name], gains.get(name))
            if isinstance(layer, QuantLinear):
                layer.dynamic, layer.alone = form.dynamic, True
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
