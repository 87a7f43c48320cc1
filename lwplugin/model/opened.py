"""A model opened for methods: linear layers and attentions as ``nn.Linear``, padding in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from lwplugin.data.batch import Inputs
from lwplugin.model.attention import close_heads, open_heads
from lwplugin.model.conv_padding import as_numbers, padded_by_word
from lwplugin.model.linear import as_linear, like_linear

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


def open_layers(module: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Opens a module in place. Answers with the names of attentions that stayed whole, and why."""
    as_numbers(module)
    as_linear(module, inputs)
    return open_heads(module, inputs)


def run_opened(run: Callable[[LightModel], LightModel], source: LightModel, data: Data) -> LightModel:
    """What ``run`` makes of ``source`` opened; attentions whose layers it left alone are closed again."""
    if not _openable(source.module):
        return run(source)
    module = source.copy_module()
    open_layers(module, data.example(1))
    made = run(replace(source, module=module))
    close_heads(made.module)
    return made


def _openable(module: nn.Module) -> bool:
    attends = any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules())
    return attends or bool(like_linear(module) or padded_by_word(module))
