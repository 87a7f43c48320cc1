"""What every format starts from: the module with one output, its inputs in words, and where it comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lwplugin.data.batch import Inputs, tensors

if TYPE_CHECKING:
    from lwplugin.data import Task
    from lwplugin.model.bundle import LightModel

OUTPUT = "output"


class OneOutput(nn.Module):
    """The module with positional inputs in a fixed order and the task's one output tensor."""

    def __init__(self, module: nn.Module, task: Task, example: Inputs) -> None:
        super().__init__()
        self.module = module
        self._task = task
        self._keys = tuple(example) if isinstance(example, dict) else None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Positional tensors → the output the task judges."""
        if self._keys is not None:
            return self._task.outputs(self.module(**dict(zip(self._keys, inputs, strict=True))))
        return self._task.outputs(self.module(*inputs))


def described(example: Inputs) -> dict[str, dict[str, Any]]:
    """Each input's dtype and shape with a free batch, as `Exported.inputs` holds them."""
    return {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": ["batch", *tensor.shape[1:]]}
        for name, tensor in tensors(example).items()
    }


def facts(light: LightModel) -> dict[str, str]:
    """What a file says about its origin: our version, the parent and its digest, the task."""
    from importlib.metadata import version

    found = {"lwplugin.version": version("lwplugin")}
    if light.source is not None:
        found["lwplugin.source"] = light.source.uri
        found["lwplugin.source_digest"] = light.source.digest
    if light.task:
        found["lwplugin.task"] = json.dumps(light.task, sort_keys=True)
    return found
