from __future__ import annotations

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import MethodError
from lwplugin.quantize import quantize
from lwplugin.quantize.encodings import Signs
from lwplugin.quantize.packed import PackedConv2d
from lwplugin.quantize.shared_values import two_values
from lwplugin.quantize.straight_through import LearnedSignWeight, SignWeight, round_through, sign_through


def test_straight_through_gradients() -> None:
    x = torch.tensor([-3.0, -0.2, 0.0, 0.4, 2.0], requires_grad=True)
    assert sign_through(x).tolist() == [-1, -1, 1, 1, 1]
    sign_through(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    x.grad = None
    assert round_through(x * 1.6).tolist() == [-5, 0, 0, 1, 3]
    round_through(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(5))


def test_the_scale_is_the_best_one_for_the_signs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3)
    made = SignWeight()(weight)
    scale = made.abs()
    for factor in (0.9, 1.1):
        other = made.sign() * scale * factor
        assert (made - weight).square().sum() < (other - weight).square().sum()


def test_everything_learned_gets_a_gradient() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 9, requires_grad=True)
    learned = LearnedSignWeight(weight)
    (learned(weight) * torch.randn(4, 9)).sum().backward()
    for tensor in (weight, learned.threshold, learned.scale, learned.shift):
        assert tensor.grad is not None
        assert bool((tensor.grad != 0).any())
    flat = learned.temperature.clone()
    learned.sharpen(1.0)
    assert learned.temperature == 5 * flat


@pytest.mark.parametrize("method", ["binary", "binary_learned"])
def test_weights_are_one_bit_and_answers_come_back(
    method: str, trained_net: nn.Module, digits_data: Data
) -> None:
    made = quantize(trained_net, digits_data, method=method, finetune_epochs=4, finetune_lr=5e-3)
    layer = made.module.inner
    assert isinstance(layer, PackedConv2d)
    assert layer.encoding == Signs()
    assert layer.stored["codes"].nbytes == layer.weight.numel() // 8
    assert all(len(row.unique()) == 2 for row in layer.weight.flatten(1))
    assert type(made.module.stem) is nn.Conv2d
    assert type(made.module.head) is nn.Linear
    entry = made.history[-1]
    assert entry.metrics["calibration_agreement"] > 0.9
    assert {row["weight_bits"] for row in entry.details["layers"]} == {1}


def test_untrained_signs_are_refused(trained_net: nn.Module, digits_data: Data) -> None:
    with pytest.raises(MethodError, match="collapsed the model"):
        quantize(
            trained_net, digits_data, method="binary", finetune_epochs=0, collapse=0.99, first_layer=True
        )


def test_two_values_are_the_best_of_all_splits() -> None:
    torch.manual_seed(0)
    rows = torch.randn(6, 9) + torch.linspace(-1, 2, 6)[:, None]
    threshold, low, high = two_values(rows)
    found = (rows - torch.where(rows >= threshold, high, low)).square().sum(1)

    def error(part: torch.Tensor) -> torch.Tensor:
        return (part - part.mean()).square().sum()

    for row, value in zip(rows.sort(1).values, found, strict=True):
        every = [error(row[:k]) + error(row[k:]) for k in range(1, 9)]
        torch.testing.assert_close(value, torch.stack(every).min())


def test_equal_weights_and_single_ones_have_two_values_too() -> None:
    for rows in (torch.full((2, 5), 0.5), torch.tensor([[1.0], [-2.0]])):
        threshold, low, high = two_values(rows)
        assert torch.equal(low, rows[:, :1])
        assert torch.equal(high, rows[:, :1])
        assert torch.equal(threshold, rows[:, :1])
