"""Several cut copies of one parent are repaired on what it answered once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.model.bundle import copy_module
from lwplugin.progress import silent
from lwplugin.prune.reconstruct import ReconstructConfig
from lwplugin.prune.restore import Restore


def broken(cnn: nn.Module, seed: int) -> nn.Module:
    module = copy_module(cnn)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return module


def test_the_parent_is_asked_once_and_each_copy_is_repaired_as_if_alone(cnn: nn.Module, digits: Data) -> None:
    asked: list[int] = []

    def count(module: nn.Module, args: Any) -> None:
        asked.append(len(args[0]))

    config = ReconstructConfig(macs=0.5, repair_examples=64)
    together = [broken(cnn, seed) for seed in (0, 1)]
    handle = cnn.register_forward_pre_hook(count)
    try:
        restore = Restore(cnn, digits, config, silent)
        repairs = [restore(module, {}) for module in together]
        assert [n for n in asked if n == 64] == [64]
    finally:
        handle.remove()
    alone = broken(cnn, 1)
    assert repairs[1] == Restore(cnn, digits, config, silent)(alone, {})
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), together[1].parameters(), strict=True))
    assert all(row.error_after < row.error_before for row in repairs[1])
