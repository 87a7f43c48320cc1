"""Thresholds and ratios, of channels, single weights and N:M; zeros survive repair, training and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data
from lwplugin.errors import MethodError, RecipeError
from lwplugin.prune.masks import n_of_m, n_of_m_holds


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.ndim > 1}


def blocks_of_four(weight: Tensor) -> Tensor:
    """Non-zero counts of every four consecutive inputs, the long way round."""
    counts = []
    for output in range(weight.shape[0]):
        for place in range(weight[0, 0].numel()):
            row = weight[output].reshape(weight.shape[1], -1)[:, place]
            counts += [int((row[i : i + 4] != 0).sum()) for i in range(0, len(row), 4)]
    return torch.tensor(counts)


@pytest.mark.parametrize("shape", [(6, 8), (5, 12, 3, 3), (4, 8, 5)])
def test_two_of_four_is_checked_block_by_block(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    masked = weight * n_of_m(weight, 2, 4)
    assert (blocks_of_four(masked) == 2).all()
    assert n_of_m_holds(masked, 2, 4)
    assert not n_of_m_holds(weight, 2, 4)
    # The two largest of each four stay: the first block of the first row says so.
    first = weight[0].reshape(weight.shape[1], -1)[:4, 0].abs()
    kept = masked[0].reshape(weight.shape[1], -1)[:4, 0] != 0
    assert set(torch.nonzero(kept)[:, 0].tolist()) == set(first.topk(2).indices.tolist())


@pytest.mark.parametrize(("repair", "epochs"), [(True, 0), (False, 1), (True, 1)])
def test_two_of_four_holds_after_repair_and_training(
    cnn: nn.Module, digits: Data, tmp_path: Path, repair: bool, epochs: int
) -> None:
    light = lwplugin.prune(
        cnn, digits, method="magnitude", granularity="2:4", finetune_epochs=epochs, repair=repair
    )
    light.save(tmp_path / "bundle")
    found = weights(lwplugin.load(tmp_path / "bundle").module)
    for name, weight in found.items():
        if weight.shape[1] % 4 == 0:
            assert (blocks_of_four(weight) <= 2).all(), name
    entry = light.history[-1]
    assert [row["name"] for row in entry.details["left_alone"]] == ["stem"]
    # A mask is no smaller model: shapes, MACs and parameters are as they were, and said to be.
    assert entry.metrics["macs"] == entry.metrics["macs_before"]
    assert entry.metrics["params"] == entry.metrics["params_before"]
    assert entry.metrics["zeros"] == sum(int((w == 0).sum()) for w in found.values())
    assert entry.metrics["nonzero_params"] == entry.metrics["params"] - entry.metrics["zeros"]
    assert not light.changes


def test_a_ratio_of_weights_is_met_exactly(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, method="magnitude", granularity="weight", sparsity=0.7)
    found = weights(light.module)
    total = sum(w.numel() for w in found.values())
    zeros = sum(int((w == 0).sum()) for w in found.values())
    assert abs(zeros - 0.7 * total) <= 1
    assert light.history[-1].metrics["sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert all((w != 0).float().mean() >= 0.09 for w in found.values())


def test_a_threshold_of_weights_zeroes_just_the_smaller(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, method="magnitude", granularity="weight", threshold=0.5, repair=False)
    before, after = weights(cnn), weights(light.module)
    for name, weight in before.items():
        small = weight.abs() < 0.5 * weight.square().mean().sqrt()
        assert (after[name][small] == 0).all()
        assert torch.equal(after[name][~small], weight[~small])


def test_the_repair_on_the_support_helps(cnn: nn.Module, digits: Data) -> None:
    options: dict[str, Any] = {
        "method": "magnitude",
        "granularity": "weight",
        "sparsity": 0.8,
        "collapse": 0.0,
    }
    repaired = lwplugin.prune(cnn, digits, **options).history[-1].metrics["agreement"]
    plain = lwplugin.prune(cnn, digits, repair=False, **options).history[-1].metrics["agreement"]
    assert repaired > plain + 0.02


def test_a_threshold_of_channels_removes_just_the_smaller(cnn: nn.Module, digits: Data) -> None:
    net = lwplugin.light(cnn).copy_module()
    with torch.no_grad():
        net.blocks[0].conv1.weight[:4] *= 1e-3  # type: ignore[index, union-attr]
        net.blocks[0].conv2.weight[:, :4] *= 1e-3  # type: ignore[index, union-attr]
    light = lwplugin.prune(net, digits, method="magnitude", threshold=0.05)
    assert light.module.blocks[0].conv1.out_channels == 12  # type: ignore[index, union-attr]
    assert light.module.blocks[1].conv1.out_channels == 16  # type: ignore[index, union-attr]
    row = next(r for r in light.history[-1].details["removed"] if "blocks.0.conv1" in r["name"])
    assert row["removed"] == [0, 1, 2, 3]
    with pytest.raises(MethodError, match="the smallest norm is"):
        lwplugin.prune(cnn, digits, method="magnitude", threshold=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "4:2"},
        {"granularity": "2:4", "macs": 0.5},
        {"granularity": "weight", "macs": 0.5},
        {"granularity": "weight"},
        {"granularity": "channel", "sparsity": 0.5},
        {"granularity": "rows", "macs": 0.5},
    ],
)
def test_budgets_that_do_not_fit_are_refused(cnn: nn.Module, digits: Data, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        lwplugin.prune(cnn, digits, method="magnitude", **options)
