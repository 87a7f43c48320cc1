"""What is said where a model does not take its examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lwplugin.data.batch import Inputs, call, tensors
from lwplugin.data.evaluation import kept_modes
from lwplugin.errors import LwpluginError, ModelError

if TYPE_CHECKING:
    from lwplugin.data import Task


def answer_of(module: nn.Module, task: Task, inputs: Inputs) -> torch.Tensor:
    """The output that the task judges, in evaluation mode. Raises ModelError where the forward does not run."""
    try:
        with torch.no_grad(), kept_modes(module):
            return task.outputs(call(module.eval(), inputs))
    except LwpluginError:
        raise
    except Exception as error:
        raise forward_error(module, inputs, error) from error


def forward_error(module: nn.Module, inputs: Inputs, error: Exception) -> ModelError:
    """The error for a forward that failed on ``inputs``: what it was given, torch's first line, and the way out."""
    given = ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for name, value in tensors(inputs).items()
    )
    said = str(error).strip().splitlines()
    return ModelError(
        f"The forward of {type(module).__name__} does not run on the examples ({given})",
        got=f"{type(error).__name__}: {said[0] if said else ''}",
        do=_way_out(module, inputs),
    )


def _way_out(module: nn.Module, inputs: Inputs) -> str:
    met = {value.dtype for value in tensors(inputs).values()}
    held = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    if held and torch.float32 not in held and torch.float32 in met:
        return (
            "call model.float() first: compressing computes in float32, and quantize with method 'half' makes 16 "
            "bits of it again"
        )
    if held and met & {torch.float16, torch.bfloat16} and not met & held:
        return "give the examples in float32, in which compressing computes"
    if torch.uint8 in met and held:
        return "give floats, scaled as in training: images of bytes are not what convolutions take"
    longest = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if isinstance(longest, int) and any(value.shape[-1] > longest for value in tensors(inputs).values()):
        return f"give at most {longest} tokens, which is what the model has positions for: data.max_length"
    return "give examples of the shape and type that the model expects; several inputs are a tuple, named ones a dict"
