"""Linear layers of other classes as ``nn.Linear``, which is what methods know.

GPT-2 keeps its weights transposed (``transformers.Conv1D``), Falcon multiplies in a subclass of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lwplugin.data.batch import Inputs
from lwplugin.model.hooks import hooks_on
from lwplugin.model.layers import type_path
from lwplugin.model.stand_in import stand_in

_TRANSPOSED = "transformers.pytorch_utils.Conv1D"
_NAMES = {"weight", "bias"}


def like_linear(module: nn.Module) -> dict[type[nn.Module], list[nn.Module]]:
    """Layers that may be an ``nn.Linear`` in other clothes, by class; whether they are, a run tells.

    Not among them are layers with hooks or with weights that others share.
    """
    owners = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    found: dict[type[nn.Module], list[nn.Module]] = {}
    for layer in module.modules():
        kind = type(layer)
        if type_path(kind) != _TRANSPOSED and (
            # The last is what nn.MultiheadAttention holds and never calls.
            not issubclass(kind, nn.Linear) or kind in (nn.Linear, NonDynamicallyQuantizableLinear)
        ):
            continue
        plain = set(layer._parameters) <= _NAMES and not layer._buffers and not layer._modules
        alone = all(owners[id(p)] == 1 for p in layer.parameters(recurse=False))
        if layer is not module and plain and alone and not hooks_on(layer):
            found.setdefault(kind, []).append(layer)
    return found


def as_linear(module: nn.Module, inputs: Inputs) -> None:
    """Puts ``nn.Linear`` in their places, in place, class by class, where the model then answers as before."""
    for layers in like_linear(module).values():
        stand_in(module, {id(layer): _linear(layer) for layer in layers}, inputs)


def _linear(layer: Any) -> nn.Linear:
    weight = layer.weight.detach()
    weight = weight.T if type_path(type(layer)) == _TRANSPOSED else weight
    made = nn.Linear(
        weight.shape[1], weight.shape[0], layer.bias is not None, device=weight.device, dtype=weight.dtype
    )
    made.weight.data.copy_(weight)
    if layer.bias is not None:
        made.bias.data.copy_(layer.bias.detach())
    made.requires_grad_(layer.weight.requires_grad)
    return made.train(layer.training)
