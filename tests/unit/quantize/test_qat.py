from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import MethodError
from lwplugin.export import export
from lwplugin.quantize import QuantLayer, quantize
from lwplugin.quantize.learned_step import LearnedGrid, LearnedLayer
from lwplugin.quantize.scheme import AffineGrid


def accuracy(module: nn.Module, data: Data) -> float:
    with torch.no_grad():
        batch = next(data.need("test").batches(1000))
        return float((module(batch.inputs).argmax(1) == batch.targets).float().mean())


def test_training_brings_back_what_three_bits_cost(trained_net: nn.Module, digits_data: Data) -> None:
    untrained, trained = (
        quantize(
            trained_net, digits_data, method="qat", weight_bits=3, finetune_epochs=epochs, finetune_lr=2e-3
        )
        for epochs in (0, 8)
    )
    assert accuracy(trained.module, digits_data) > accuracy(untrained.module, digits_data) + 0.01
    assert accuracy(trained.module, digits_data) > accuracy(trained_net, digits_data) - 0.03
    assert {layer.weight_bits for layer in trained.module.modules() if isinstance(layer, QuantLayer)} == {3}
    assert not any(isinstance(layer, LearnedLayer) for layer in trained.module.modules())


def test_the_file_answers_as_the_trained_model(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made = quantize(trained_net, digits_data, method="qat", finetune_epochs=1, reduce_range=True)
    written = export(made, digits_data, path=tmp_path)
    assert written.meta["parity"]["sqnr_db"] > 25
    assert written.scheme["largest_weight"] <= 64


def test_a_grid_starts_where_calibration_left_it() -> None:
    x = torch.linspace(-2, 5, 500)
    grid = AffineGrid.of_range(-1.0, 4.0)
    assert torch.allclose(LearnedGrid((-1.0, 4.0))(x), grid.fake_quantize(x), atol=1e-6)


def test_values_beyond_the_grid_push_its_end() -> None:
    grid = LearnedGrid((0.0, 1.0))
    grid(torch.full((8,), 3.0)).sum().backward()
    assert float(grid.growth.grad) > 0


def test_a_learned_layer_becomes_the_layer_it_ran_as(digits_data: Data) -> None:
    torch.manual_seed(0)
    layer = LearnedLayer(nn.Linear(16, 4), torch.full((4, 1), 0.01), 64, LearnedGrid((-2.0, 2.0)))
    with torch.no_grad():
        layer.growth.copy_(torch.tensor([0.1, -0.1, 0.0, 0.2]))
        layer.grid.shift.fill_(0.05)
    x = torch.randn(10, 16)
    with torch.no_grad():
        assert torch.allclose(layer.quantized(8, (-1.0, 1.0))(x), layer(x), atol=1e-5)


def test_a_collapsed_model_is_refused(trained_net: nn.Module, digits_data: Data) -> None:
    with pytest.raises(MethodError, match="collapsed"):
        quantize(trained_net, digits_data, method="qat", weight_bits=2, finetune_epochs=0, collapse=1.0)


class Asking(nn.Module):
    """Asks its layers for what they are, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(8 * 9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.to(self.conv.weight.dtype)).relu().flatten(1)
        return self.head(x[:, : self.head.in_features]) + 0 * self.conv.stride[0]


def test_code_around_a_layer_in_training_finds_what_the_float_one_has(digits_data: Data) -> None:
    torch.manual_seed(0)
    light = quantize(Asking().eval(), digits_data, method="qat", finetune_epochs=1)
    assert [row["name"] for row in light.history[-1].details["layers"]] == ["conv", "head"]
