"""Weights that are computed anew in every pass become plain ones, which can be cut, quantized and stored.

Parametrizations (weight norm, spectral norm, orthogonality), the older hooks of the same purpose, and the masks of
``torch.nn.utils.prune``. In evaluation mode such a weight is a constant, so no answer changes.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lwplugin.model.layers import layer_type, type_listed


def to_plain_weights(module: nn.Module) -> bool:
    """Changes ``module``, in evaluation mode, in place; says whether there was anything to do.

    Layers of types that a bundle could not build stay as they are.
    """
    changed = False
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer) and type_listed(type(layer).__mro__[1]):
            _without_parametrizations(layer)
            changed = True
        if layer_type(layer) is None:
            continue
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(layer, hook._tensor_name)
            else:
                continue
            changed = True
    return changed


def _without_parametrizations(layer: nn.Module) -> None:
    # torch's remove_parametrizations changes the class too, which copies of the layer share.
    parametrized: dict[str, Any] = dict(layer.parametrizations.items())
    values = {name: getattr(layer, name).detach().clone() for name in parametrized}
    del layer.parametrizations
    layer.__class__ = type(layer).__mro__[1]
    for name, value in values.items():
        original = parametrized[name]
        if "original" in original._buffers:
            layer.register_buffer(name, value)
        else:
            learns = all(part.requires_grad for part in original.parameters(recurse=False))
            setattr(layer, name, nn.Parameter(value, requires_grad=learns))
