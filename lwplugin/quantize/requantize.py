"""Rounds the weights of static int8 layers again, against the float layers' responses to the inputs they will meet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.moments.responses import Response, parent_responses
from lwplugin.moments.rows import has_rows, weight_rows
from lwplugin.quantize.adaround import adaptive_codes
from lwplugin.quantize.compensation import compensated_codes
from lwplugin.quantize.layer_rounding import Grid, Rule, keeping_scale, round_to_response
from lwplugin.quantize.layers import QuantLayer
from lwplugin.quantize.ridge import Ridge

RULES: dict[str, Rule] = {
    "compensated": keeping_scale(compensated_codes),
    "adaround": keeping_scale(adaptive_codes),
}
"""Ways of rounding for a layer's response, by the name an option gives them."""


@torch.no_grad()
def requantized(
    reference: nn.Module,
    quantized: nn.Module,
    inputs: Inputs,
    *,
    limit: int,
    rule: Rule = RULES["compensated"],
    ridge: Ridge = "auto",
) -> nn.Module:
    """A copy of ``quantized`` with the same scales and ranges and other integers and biases.

    In the order of the forward pass, each layer's weights are solved for the reference layer's response to the rounded
    inputs that the layers before it give, then rounded by ``rule``. Layers called twice stay as they are.
    """
    made = copy.deepcopy(quantized)
    layers = {name: layer for name, layer in made.named_modules() if isinstance(layer, QuantLayer)}
    names = [name for name in layers if has_rows(reference.get_submodule(name))]
    responses = parent_responses(reference, inputs, names)

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: Any, args: Any) -> None:
            x = layer.rounded_input(args[0])
            _round(layer, reference.get_submodule(name), x, responses[name], limit, rule, ridge)

        return hook

    handles = [layers[name].register_forward_pre_hook(before(name)) for name in responses]
    try:
        call(made, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return made


def _round(
    layer: QuantLayer,
    reference: nn.Module,
    x: Tensor,
    response: Response,
    limit: int,
    rule: Rule,
    ridge: Ridge,
) -> None:
    weight = weight_rows(reference)
    gain = getattr(layer, "input_gain", None)
    if gain is not None:
        weight = weight / gain
    scale = layer.scale.cpu().view(*weight.shape[:2], 1).expand(weight.shape)
    grid = Grid(scale, torch.full_like(scale, float(limit)), 2 * limit)
    rounded = round_to_response(
        reference,
        weight,
        x,
        response,
        grid_of=lambda *_: grid,
        rule=rule,
        bias=layer.bias is not None,
        ridge=ridge,
    )
    integers = rounded.codes.to(torch.int16) - limit
    layer.set_weight(integers.reshape(layer.weight_shape), layer.scale)
    if layer.bias is not None and rounded.bias is not None:
        layer.bias.copy_(rounded.bias)
