from __future__ import annotations

import pytest
import torch
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.layers import build, spec_of
from lwplugin.quantize.layers import quantized_like
from lwplugin.quantize.scheme import AffineGrid, sqnr_db, weight_limit
from lwplugin.quantize.weights import channel_scales, round_weight

LAYERS = {
    "linear": (lambda: nn.Linear(24, 10), (4, 24)),
    "linear on sequences": (lambda: nn.Linear(24, 10, bias=False), (4, 7, 24)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 5, stride=2, padding=2), (2, 6, 20)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding="same", dilation=2), (2, 6, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), (2, 8, 9, 9)),
}


def quantized(layer: nn.Module, x: torch.Tensor, bits: int, group_size: int | None = None) -> nn.Module:
    limit = weight_limit(bits)
    scale = channel_scales(layer.weight, limit, group_size=group_size)
    made = quantized_like(layer, weight_bits=bits, group_size=group_size)
    made.set_weight(round_weight(layer.weight, scale, limit), scale)
    made.set_ranges((float(x.min()), float(x.max())), (-1.0, 1.0))
    return made


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_a_quantized_layer_rebuilds_from_its_spec_and_answers_bit_identically(name: str, bits: int) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    made = quantized(layer, x, bits)
    spec = spec_of(made)
    assert spec is not None
    again = build(spec)
    again.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(again(x), made(x))
    assert made.qweight.numel() == -(-layer.weight.numel() * bits // 8)
    assert torch.allclose(made.to_float()(made.rounded_input(x)), made(x))


@pytest.mark.parametrize("name", LAYERS)
def test_eight_bits_keep_the_answer(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    assert sqnr_db(layer(x), quantized(layer, x, 8)(x)) > 30


def test_groups_of_inputs_are_finer_than_whole_rows() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 16), torch.randn(8, 64)
    layer.weight.data *= torch.logspace(-2, 0, 64)
    whole, grouped = (quantized(layer, x, 4, size) for size in (None, 16))
    assert sqnr_db(layer.weight, grouped.weight) > sqnr_db(layer.weight, whole.weight) + 3


def test_clipping_by_squared_error_beats_the_largest_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 256)
    for bits in (8, 4):
        limit = weight_limit(bits)
        noise = {}
        for clip in ("max", "mse"):
            scale = channel_scales(weight, limit, clip=clip)
            noise[clip] = (round_weight(weight, scale, limit) * scale - weight).square().sum()
        assert noise["mse"] <= noise["max"]


def test_groups_must_divide_a_row() -> None:
    with pytest.raises(MethodError, match="whole groups"):
        quantized_like(nn.Linear(10, 3), group_size=4)


def test_zero_and_the_ends_of_the_range_are_on_the_grid() -> None:
    for lo, hi in [(0.0, 6.0), (-1.3, 2.7), (-5.0, 0.0), (1.0, 2.0)]:
        grid = AffineGrid.of_range(lo, hi)
        x = torch.tensor([0.0, lo, hi])
        rounded = grid.fake_quantize(x)
        assert float(rounded[0]) == 0.0
        assert float((rounded - x).abs().max()) <= grid.scale
