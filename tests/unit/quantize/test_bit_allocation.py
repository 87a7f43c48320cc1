from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import MethodError, RecipeError
from lwplugin.export import export
from lwplugin.quantize import quantize
from lwplugin.quantize.bit_allocation import Choice, allocate
from lwplugin.quantize.packed import PackedLayer


def convex(sensitivity: float, size: int) -> list[Choice]:
    return [Choice(bits, size * bits, sensitivity * 4.0**-bits) for bits in range(2, 9)]


def test_bits_go_where_noise_is_saved_and_the_size_is_kept() -> None:
    choices = {"deaf": convex(1, 100), "keen": convex(1e4, 100), "small": convex(10, 10)}
    bits = allocate(choices, 1000)
    assert bits["keen"] > bits["deaf"]
    assert sum(next(c.size_bytes for c in choices[n] if c.bits == b) for n, b in bits.items()) <= 1000


def test_the_allocation_is_as_good_as_trying_all_where_a_step_fills_the_size() -> None:
    choices = {"a": convex(3, 64), "b": convex(50, 64), "c": convex(0.2, 64)}

    def noise(bits: tuple[int, ...]) -> float:
        return sum(next(c.noise for c in choices[n] if c.bits == b) for n, b in zip("abc", bits, strict=True))

    best = min(noise(bits) for bits in itertools.product(range(2, 9), repeat=3) if 64 * sum(bits) <= 64 * 12)
    assert noise(tuple(allocate(choices, 64 * 12).values())) == pytest.approx(best)


def test_an_unreachable_size_says_what_can_be_reached() -> None:
    with pytest.raises(MethodError, match="200 with every layer"):
        allocate({"a": convex(1, 100)}, 150)


def test_a_model_fits_the_size_and_keeps_its_answers(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    chosen = {"method": "weight_only", "bits": "auto", "size": 0.16, "group_size": 16}
    made = quantize(trained_net, digits_data, **chosen)
    layers = [layer for layer in made.module.modules() if isinstance(layer, PackedLayer)]
    stored = sum(tensor.nbytes for layer in layers for tensor in layer.stored.values())
    floats = sum(4 * layer.weight.numel() for layer in layers)
    assert stored <= 0.16 * floats
    assert len({layer.encoding.bits for layer in layers}) > 1
    assert made.history[-1].metrics["calibration_agreement"] > 0.9
    assert export(made, digits_data, path=tmp_path).file.is_file()


def test_size_and_auto_go_together(trained_net: nn.Module, digits_data: Data) -> None:
    for options in ({"bits": "auto"}, {"size": 0.2}):
        with pytest.raises(RecipeError, match="go together"):
            quantize(trained_net, digits_data, method="weight_only", **options)


def test_the_argument_is_left_as_it_was(trained_net: nn.Module, digits_data: Data) -> None:
    before = [parameter.clone() for parameter in trained_net.parameters()]
    quantize(trained_net, digits_data, method="weight_only", bits="auto", size=0.2, group_size=16)
    assert all(torch.equal(a, b) for a, b in zip(before, trained_net.parameters(), strict=True))
