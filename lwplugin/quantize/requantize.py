"""Rounds the weights of static int8 layers again, with error compensation, for the inputs their kernels will meet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.moments.moments import Moments
from lwplugin.moments.repair import Response, parent_responses
from lwplugin.moments.rows import inputs_of, supports, weight_rows
from lwplugin.moments.solve import solve
from lwplugin.quantize.compensation import compensated_codes
from lwplugin.quantize.layers import QuantLayer


@torch.no_grad()
def compensated(
    reference: nn.Module, quantized: nn.Module, inputs: Inputs, *, limit: int, ridge: float = 1e-2
) -> nn.Module:
    """A copy of ``quantized`` with the same scales and ranges and other integers and biases.

    In the order of the forward pass, each layer's weights are solved for the reference layer's response to the rounded
    inputs that the layers before it give, then rounded as `compensation.py` says. Layers called twice stay as they are.
    """
    made = copy.deepcopy(quantized)
    layers = {name: layer for name, layer in made.named_modules() if isinstance(layer, QuantLayer)}
    names = [name for name in layers if supports(reference.get_submodule(name))]
    responses = parent_responses(reference, inputs, names)

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: Any, args: Any) -> None:
            x = layer.rounded_input(args[0])
            _solve(layer, reference.get_submodule(name), x, responses[name], limit, ridge)

        return hook

    handles = [layers[name].register_forward_pre_hook(before(name)) for name in responses]
    try:
        call(made, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return made


def _solve(
    layer: QuantLayer, reference: nn.Module, x: Tensor, response: Response, limit: int, ridge: float
) -> None:
    weight = weight_rows(reference)
    gain = getattr(layer, "input_gain", None)
    if gain is not None:
        weight = weight / gain
    groups, outputs, width = weight.shape
    moments = Moments.zeros(groups, width, outputs)
    moments.add(inputs_of(reference, x, response.rows), response.values)
    offset = layer.bias is not None
    wanted = solve(moments, weight, offset=offset, ridge=ridge).weight
    second_moment = moments.covariances(centred=offset)[0]
    scale = layer.scale.cpu().view(groups, outputs, 1).expand(-1, -1, width)
    zero = torch.full_like(scale, float(limit))
    codes = compensated_codes(wanted, second_moment, scale, zero, 2 * limit)
    integers = codes.to(torch.int16) - limit
    layer.set_weight(integers.reshape(layer.weight_shape), layer.scale)
    if layer.bias is not None:
        mean_input, mean_response = moments.means()
        mean = torch.einsum("gok,gk->go", (integers * scale).double(), mean_input)
        layer.bias.copy_((mean_response - mean).reshape(-1))
