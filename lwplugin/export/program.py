"""A model as a torch.export program: what the torch formats write and what toolchains are handed."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from lwplugin.errors import ExportError
from lwplugin.export.torch_errors import own_error, quiet, root_cause

Arguments = tuple[torch.Tensor, ...]


def to_program(
    module: nn.Module, arguments: Arguments, *, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """The program of a module with positional inputs; the batch is free where ``dynamic``.

    Raises ExportError with torch's reason.
    """
    batch = torch.export.Dim("batch")
    free: tuple[Any, ...] = tuple({0: batch} for _ in arguments)
    # A module that takes *inputs has them as one tuple; a program's graph has each by itself.
    shapes = (free if isinstance(module, fx.GraphModule) else (free,)) if dynamic else None
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, arguments, dynamic_shapes=shapes)
    except Exception as error:
        if (own := own_error(error)) is not None:
            raise own from None
        raise ExportError(
            "torch cannot export this model",
            got=root_cause(error),
            do="keep data-dependent control flow and shapes out of forward, and let the batch size vary",
        ) from error
