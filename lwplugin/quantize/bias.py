"""Bias correction: give each output channel back the mean that rounding took (Nagel 2019, 1906.04721)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.padding import attention_mask, mask_over
from lwplugin.model.watching import watching
from lwplugin.quantize.layers import QuantLayer, QuantLinear


@torch.no_grad()
def correct_biases(reference: nn.Module, quantized: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Shift each quantized layer's bias, in place, so that its mean output is the reference layer's.

    Layers are corrected while the batch runs through them, so each sees inputs that the layers before it
    have already corrected; further batches refine the estimate as a running mean. Memory does not grow with
    the stream. Returns the largest absolute shift by layer name.
    """
    layers = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, QuantLayer)}
    shifts: dict[str, torch.Tensor] = {}
    for layer in layers.values():
        if layer.bias is None:
            layer.bias = torch.zeros(layer.weight_shape[0], device=layer.scale.device)
    for index, batch in enumerate(batches):
        inputs = batch.inputs
        valid = attention_mask(inputs)
        wanted: dict[str, torch.Tensor] = {}

        def remember(
            name: str, args: tuple[Any, ...], output: torch.Tensor, into: Any = wanted, valid: Any = valid
        ) -> None:
            into.setdefault(name, _channel_means(layers[name], output, valid))

        with watching(reference, layers, remember):
            call(reference, inputs)
        handles = []
        for name, layer in layers.items():
            if name not in wanted:
                continue

            def correct(
                layer: Any,
                args: tuple[Any, ...],
                output: torch.Tensor,
                name: str = name,
                wanted: dict[str, torch.Tensor] = wanted,
                share: float = 1.0 / (index + 1),
                valid: Any = valid,
            ) -> torch.Tensor | None:
                if name not in wanted:
                    return None
                shift = (wanted.pop(name) - _channel_means(layer, output, valid)) * share
                layer.bias += shift
                shifts[name] = shifts.get(name, torch.zeros_like(shift)) + shift
                return output + _spread(layer, shift, output)

            handles.append(layer.register_forward_hook(correct))
        try:
            call(quantized, inputs)
        finally:
            for handle in handles:
                handle.remove()
    return {name: float(shift.abs().max()) for name, shift in shifts.items()}


def bias_corrected(reference: nn.Module, quantized: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """A corrected copy; ``quantized`` is left as it is."""
    corrected = copy.deepcopy(quantized)
    correct_biases(reference, corrected, batches)
    return corrected


def _channel_means(layer: nn.Module, output: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """[channels], of texts the mean over each one's tokens first: a long one counts no more than a short one."""
    if isinstance(layer, QuantLinear | nn.Linear):
        mask = mask_over(output, valid)
        if mask is not None:
            shares = mask / mask.sum(1, keepdim=True).clamp_min(1) / max(len(mask), 1)
            return torch.einsum("nt,ntc->c", shares.to(output), output)
        return output.reshape(-1, output.shape[-1]).mean(0)
    return output.transpose(0, 1).reshape(output.shape[1], -1).mean(1)


def _spread(layer: nn.Module, shift: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, QuantLinear):
        return shift
    return shift.reshape(-1, *[1] * (output.ndim - 2))
