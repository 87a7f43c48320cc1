"""Dropping blocks: depth really shrinks, and what stays answers as the parent did where a block did nothing."""

from __future__ import annotations

import numpy as np
import pruned_nets
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.errors import MethodError, RecipeError
from lwplugin.prune.blocks import find_blocks
from lwplugin.prune.layers import Bypass


def test_layers_called_by_keyword_that_return_tuples_are_found(encoder: nn.Module, words: Data) -> None:
    found = find_blocks(encoder, words.example(2))
    assert [block.name for block in found] == [f"layers.{i}" for i in range(4)]
    assert {block.extras for block in found} == {1}


@pytest.mark.parametrize("importance", ["influence", "gradient"])
def test_the_layer_that_does_nothing_goes_and_the_answers_stay(
    encoder: pruned_nets.Encoder, words: Data, importance: str
) -> None:
    idle = encoder.layers[2]
    with torch.no_grad():
        # Post-norm: without what it adds, a layer only normalises what is normalised already.
        for layer in (idle.attention.out, idle.down):
            layer.weight.zero_()
            layer.bias.zero_()
    light = lwplugin.prune(encoder, words, method="layer", blocks=1, importance=importance, repair=False)
    assert isinstance(light.module.layers[2], Bypass)
    inputs = words.example(16)
    with torch.no_grad():
        assert torch.allclose(light.module(**inputs), encoder(**inputs), atol=1e-4)
    metrics = light.history[-1].metrics
    assert metrics["blocks_removed"] == 1
    assert metrics["macs"] < 0.8 * metrics["macs_before"]
    assert light.changes.modules["layers.2"].type == "Bypass"


def test_a_budget_drops_no_more_than_it_must(encoder: nn.Module, words: Data) -> None:
    light = lwplugin.prune(encoder, words, method="layer", params=0.6, collapse=0.0)
    whole = sum(p.numel() for p in encoder.parameters())
    left = sum(p.numel() for p in light.module.parameters())
    one = sum(p.numel() for p in encoder.layers[0].parameters())  # type: ignore[index, union-attr]
    assert left <= 0.6 * whole < left + one


def test_bad_requests_say_what_there_is(encoder: nn.Module, words: Data) -> None:
    with pytest.raises(MethodError, match="5 asked for, 4 found"):
        lwplugin.prune(encoder, words, method="layer", blocks=5)
    with pytest.raises(MethodError, match=r"names no block.*layers\.0"):
        lwplugin.prune(encoder, words, method="layer", blocks=1, only=("layrs.*",))
    with pytest.raises(MethodError, match="skip names no block"):
        lwplugin.prune(encoder, words, method="layer", blocks=1, skip=("layrs.*",))
    with pytest.raises(RecipeError, match="exactly one budget"):
        lwplugin.prune(encoder, words, method="layer", blocks=1, macs=0.5)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    rows = from_arrays(calibration=np.zeros((20, 4), dtype=np.float32))
    with pytest.raises(MethodError, match="no block that can be dropped"):
        lwplugin.prune(plain, rows, method="layer", blocks=1)


def test_blocks_can_be_named_or_kept(encoder: nn.Module, words: Data) -> None:
    light = lwplugin.prune(
        encoder, words, method="layer", blocks=1, only=("layers.*",), skip=("layers.0", "layers.1", "layers.3"),
        collapse=0.0,
    )  # fmt: skip
    assert [name for name, part in light.module.named_modules() if isinstance(part, Bypass)] == ["layers.2"]
