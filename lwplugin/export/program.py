"""A model as a torch.export program: what the torch formats write and what toolchains are handed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import transformer

from lwplugin.errors import ExportError
from lwplugin.export.torch_errors import own_error, quiet, root_cause

Arguments = tuple[torch.Tensor, ...]
KEEP_OUT = (
    "keep data-dependent control flow and shapes out of forward, and let the batch size vary "
    "(x.shape[0] where it says len(x))"
)


def to_program(
    module: nn.Module, arguments: Arguments, *, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """The program of a module with positional inputs; the batch is free where ``dynamic``.

    Raises ExportError with torch's reason.
    """
    try:
        with quiet(), torch.no_grad(), masks_as_given():
            try:
                return torch.export.export(
                    module, arguments, dynamic_shapes=_shapes(module, arguments, dynamic)
                )
            except torch._dynamo.exc.UserError:
                return with_free_batch(module, arguments)
    except Exception as error:
        if (own := own_error(error)) is not None:
            raise own from None
        raise ExportError("torch cannot export this model", got=root_cause(error), do=KEEP_OUT) from error


def with_free_batch(module: nn.Module, arguments: Arguments) -> torch.export.ExportedProgram:
    """The program as read from the module's source: what ran has a constant where it says ``len(x)``."""
    return torch.export.export(
        module, arguments, dynamic_shapes=_shapes(module, arguments, True), strict=True
    )


@contextlib.contextmanager
def masks_as_given() -> Iterator[None]:
    """Within, torch's transformers do not look whether a mask that they are given is the causal one.

    They would use a faster kernel for it, and the look is control flow on data, which no exporter takes.
    """
    looks = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = looks


def _shapes(module: nn.Module, arguments: Arguments, dynamic: bool) -> Any:
    if not dynamic:
        return None
    batch = torch.export.Dim("batch")
    free: tuple[Any, ...] = tuple({0: batch} for _ in arguments)
    # A module that takes *inputs has them as one tuple; a program's graph has each by itself.
    return free if isinstance(module, fx.GraphModule) else (free,)
