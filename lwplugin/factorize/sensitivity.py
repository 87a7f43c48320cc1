"""What an error in one layer costs the model's answer: second moments of the answer's gradients, no labels.

For the answer f and a layer's response y, a small error e of the response changes the answer by about E(eᵀGe) with
G = E[JᵀJ], J = ∂f/∂y, summed over the answer's numbers by random projections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, count, map_inputs
from lwplugin.data.padding import attention_mask
from lwplugin.model.watching import watching
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.data import Task


def sensitivities(
    module: nn.Module,
    inputs: Inputs,
    names: Sequence[str],
    task: Task,
    *,
    progress: Progress,
    examples: int = 256,
    probes: int = 2,
    batch_size: int = 64,
    seed: int = 0,
) -> Mapping[str, Tensor]:
    """Layer → G, [o, o], float64, summed over the positions of one example.

    Layers that the answer does not depend on are not in it; none are where it has no gradients at all.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    total = min(count(inputs), examples)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        part = map_inputs(inputs, partial(_between, start, stop))
        responses: dict[str, Tensor] = {}

        def keep(name: str, args: Any, output: Tensor, into: dict[str, Tensor] = responses) -> None:
            into[name] = output

        with torch.enable_grad(), watching(module, names, keep):
            answer = task.outputs(call(module, part))
        if not answer.requires_grad:
            return {}
        valid = attention_mask(part)
        reached = [name for name in names if name in responses and responses[name].requires_grad]
        for probe in range(probes):
            noise = torch.randn(answer.shape, generator=generator).to(answer)
            gradients = torch.autograd.grad(
                (answer * noise).sum(),
                [responses[name] for name in reached],
                retain_graph=probe < probes - 1,
                allow_unused=True,
            )
            for name, gradient in zip(reached, gradients, strict=True):
                if gradient is None:
                    continue
                flat = _rows(module.get_submodule(name), gradient, valid).float()
                sums[name] = sums.get(name, 0) + (flat.T @ flat).double().cpu()
        progress("sensitivity", stop, total)
    return {name: total_of / (total * probes) for name, total_of in sums.items()}


def _between(start: int, stop: int, tensor: Tensor) -> Tensor:
    return tensor[start:stop]


def _rows(layer: nn.Module, gradient: Tensor, valid: Tensor | None) -> Tensor:
    """[positions, o], of real tokens only."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return gradient.flatten(2).transpose(1, 2).reshape(-1, gradient.shape[1])
    flat = gradient.reshape(-1, gradient.shape[-1])
    if valid is not None and valid.numel() == len(flat):
        return flat[valid.reshape(-1)]
    return flat
