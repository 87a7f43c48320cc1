"""As many calibration inputs as a closed-form pass can hold at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, concatenate, take
from lwplugin.model.watching import watching

if TYPE_CHECKING:
    from lwplugin.data import Data


def repair_inputs(module: nn.Module, data: Data, wanted: int) -> Inputs:
    """Up to ``wanted`` calibration inputs, fewer where one layer's activations would pass 512 MiB."""
    split = data.to_fit()
    first = next(split.batches(1))
    largest = _largest_activation_bytes(module, take(first.inputs, 1))
    count = max(16, min(wanted, len(split), int(512 * 2**20 / max(largest, 1))))
    parts, held = [], 0
    for batch in split.batches(min(count, 256)):
        parts.append(take(batch.inputs, count - held))
        held += min(len(batch), count - held)
        if held >= count:
            break
    return concatenate(parts)


def _largest_activation_bytes(module: nn.Module, inputs: Inputs) -> int:
    largest = 0

    def weigh(name: str, args: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    with torch.no_grad(), watching(module, [name for name, _ in module.named_modules()], weigh):
        call(module, inputs)
    return largest
