"""A latency budget: layers timed alone at the widths that are considered."""

from __future__ import annotations

import pruned_nets
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.errors import MethodError
from lwplugin.model.graph import trace
from lwplugin.prune.latency import Latency, Layer, time_ms

WIDE = nn.Sequential(
    nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding="same"), nn.ReLU(),
    nn.Flatten(), nn.Linear(64 * 64, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_wider_kernel_takes_longer() -> None:
    def layer(width: int) -> Layer:
        return Layer("convolution", (width, width, 3, 3), (28, 28), 1, (1, 1), (1, 1), (1, 1))

    assert time_ms(layer(64)) > 4 * time_ms(layer(16)) > 0


@pytest.mark.parametrize(
    ("layer", "outputs", "inputs", "groups"),
    [
        (Layer("convolution", (32, 1, 3, 3), (8, 8), 32), 24, 1, 24),
        (Layer("convolution", (32, 8, 3, 3), (8, 8), 4), 16, 8, 2),
        (Layer("convolution", (32, 8, 3, 3), (8, 8), 4), 32, 6, 4),
        (Layer("linear", (32, 16), (7,)), 8, 4, 1),
    ],
)
def test_groups_follow_the_channels(layer: Layer, outputs: int, inputs: int, groups: int) -> None:
    narrow = layer.narrowed(outputs, inputs)
    assert narrow.weight == (outputs, inputs, *layer.weight[2:])
    assert narrow.groups == groups


def test_a_removal_takes_time_away() -> None:
    graph = trace(WIDE, images())
    latency = Latency(WIDE, graph, images())
    whole = latency({})
    half = latency({group.index: range(len(group) // 2) for group in graph.groups})
    assert 0 < half < 0.8 * whole
    assert latency({}) == whole, "what was timed once is not timed again"


def test_a_budget_in_time_is_kept_and_recorded() -> None:
    data = lwplugin.data.from_arrays(
        train=(images(64), torch.arange(64) % 10), test=(images(16), torch.arange(16) % 10),
        calibration=images(32), task="classification",
    )  # fmt: skip
    light = lwplugin.prune(WIDE, data, latency=0.6, collapse=0.0)
    metrics = light.history[-1].metrics
    assert metrics["layers_ms"] <= 0.6 * metrics["layers_before_ms"]
    assert metrics["params"] < metrics["params_before"]
    for method in ("search", "adversarial"):
        with pytest.raises(MethodError, match="no latency budget"):
            lwplugin.prune(WIDE, data, method=method, latency=0.6)


def test_hybrid_weighs_blocks_against_channels_by_their_time() -> None:
    torch.manual_seed(0)
    net = pruned_nets.Cnn(width=32, blocks=4).eval()
    data = lwplugin.data.from_arrays(calibration=(images(48), None), task="classification")
    light = lwplugin.prune(net, data, method="hybrid", latency=0.55, splits=2, collapse=0.0)
    entry = light.history[-1]
    tried = {split["blocks"]: split["divergence"] for split in entry.details["splits"]}
    assert 0 in tried
    assert max(tried) >= 2
    best = min(tried, key=tried.__getitem__)
    assert entry.metrics["blocks_removed"] == best
    assert {best - 1, best + 1} & {*range(max(tried) + 1)} <= {*tried}, (
        "the numbers next to the best are tried too"
    )
    whole, now = (Latency(each, None, images(1))() for each in (net, light.module))
    assert now < 0.75 * whole, "timed anew, so not to the last percent"


def test_a_model_without_such_layers_is_told_so() -> None:
    graph = trace(WIDE, images())
    with pytest.raises(MethodError, match="No layer of this model can be timed"):
        Latency(nn.Flatten(), graph, images())
