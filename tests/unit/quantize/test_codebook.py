from __future__ import annotations

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import MethodError
from lwplugin.quantize import quantize
from lwplugin.quantize.input_energy import input_energy
from lwplugin.quantize.packed import PackedLayer
from lwplugin.quantize.shared_values import indices, nearest, shared_values


def test_separate_clusters_are_found_exactly() -> None:
    weights = torch.tensor([-2.0, -2.0, 0.5, 0.5, 0.5, 3.0])
    values = shared_values(weights, 3)
    assert values.tolist() == [-2.0, 0.5, 3.0]
    assert indices(weights, values).tolist() == [0, 0, 1, 1, 1, 2]


def test_clustering_beats_an_even_grid_and_weighing_beats_both_in_its_own_measure() -> None:
    torch.manual_seed(0)
    weights, importance = torch.randn(5000), torch.rand(5000) ** 4
    grid = torch.linspace(float(weights.min()), float(weights.max()), 16)

    def error(values: torch.Tensor, cost: torch.Tensor) -> float:
        return float((cost * (weights - nearest(weights, values)).square()).sum())

    plain, weighted = shared_values(weights, 16), shared_values(weights, 16, importance=importance)
    assert error(plain, torch.ones(5000)) < 0.7 * error(grid, torch.ones(5000))
    assert error(weighted, importance) < error(plain, importance)


def test_fewer_weights_than_values_are_kept_exactly() -> None:
    weights = torch.tensor([0.25, -1.0, 4.0])
    assert torch.equal(nearest(weights, shared_values(weights, 16)), weights)


def test_input_energy_is_the_mean_square_of_what_each_weight_multiplies(
    trained_net: nn.Module, digits_data: Data
) -> None:
    batch = next(digits_data.need("calibration").batches(50))
    found = input_energy(trained_net, [batch], ["stem", "depthwise.0", "head"])
    assert torch.allclose(found["stem"], batch.inputs.double().square().mean().expand(16, 1, 3, 3))
    assert found["depthwise.0"].shape == trained_net.depthwise[0].weight.shape
    assert found["head"].shape == (10, 16)


@pytest.mark.parametrize("rows_per_table", [None, 4])
def test_two_bits_hold_only_four_values_a_table(
    rows_per_table: int | None, trained_net: nn.Module, digits_data: Data
) -> None:
    made = quantize(trained_net, digits_data, method="codebook", bits=2, rows_per_table=rows_per_table)
    layer = made.module.inner
    assert isinstance(layer, PackedLayer)
    tables = 1 if rows_per_table is None else 4
    assert all(len(part.unique()) <= 4 for part in layer.weight.view(tables, -1))
    assert layer.stored["codes"].nbytes == layer.weight.numel() * 2 // 8
    assert layer.stored["table"].nbytes == tables * 4 * 2


def test_fine_tuning_moves_the_tables_and_brings_answers_back(
    trained_net: nn.Module, digits_data: Data
) -> None:
    options = {"method": "codebook", "bits": 2, "collapse": 0.0}
    cut = quantize(trained_net, digits_data, **options)
    tuned = quantize(trained_net, digits_data, finetune_epochs=4, finetune_lr=3e-3, **options)
    assert torch.equal(cut.module.inner.stored["codes"], tuned.module.inner.stored["codes"])
    assert not torch.equal(cut.module.inner.stored["table"], tuned.module.inner.stored["table"])
    before, after = (m.history[-1].metrics["calibration_agreement"] for m in (cut, tuned))
    assert after > before


def test_a_collapse_is_refused(trained_net: nn.Module, digits_data: Data) -> None:
    with pytest.raises(MethodError, match="collapsed"):
        quantize(trained_net, digits_data, method="codebook", bits=2, collapse=1.0)
