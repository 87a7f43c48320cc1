"""Activation statistics find units that answer nothing, from unlabelled examples, in any batching."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.model.graph import Graph, trace
from lwplugin.progress import silent
from lwplugin.prune.activation import ActivationConfig, score


class Net(nn.Module):
    """Images [n, 1, 6, 6] → logits [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.second(torch.relu(self.first(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def data() -> Data:
    return from_arrays(calibration=np.random.default_rng(0).normal(size=(150, 1, 6, 6)).astype(np.float32))


def scores(net: nn.Module, data: Data, **options: object) -> tuple[Graph, list[np.ndarray]]:
    graph = trace(net, data.example(2))
    return graph, list(score(net, graph, data, ActivationConfig(macs=0.5, **options), silent))  # type: ignore[arg-type]


@pytest.mark.parametrize("statistic", ["variance", "apoz", "rank"])
def test_silent_channels_are_the_least_important(net: Net, data: Data, statistic: str) -> None:
    with torch.no_grad():
        net.first.weight[:3] = 0
        net.first.bias[:3] = -1
    _, found = scores(net, data, statistic=statistic)
    assert set(np.argsort(found[0], kind="stable")[:3]) == {0, 1, 2}
    assert np.allclose(found[0][:3], 0)
    assert (found[0][3:] > 0).all()


def test_a_constant_channel_varies_nothing_and_is_always_on(net: Net, data: Data) -> None:
    with torch.no_grad():
        net.first.weight[0] = 0
        net.first.bias[0] = 1
    assert scores(net, data, statistic="variance")[1][0][0] == pytest.approx(0, abs=1e-9)
    assert scores(net, data, statistic="apoz")[1][0][0] == 1
    # A constant map over an image is of rank one.
    assert scores(net, data, statistic="rank")[1][0][0] == pytest.approx(1 / 6)


def test_the_variance_is_that_of_the_activation(net: Net, data: Data) -> None:
    _, found = scores(net, data, statistic="variance")
    images = next(data.need("calibration").batches(150)).inputs
    with torch.no_grad():
        wanted = torch.relu(net.first(images)).double().transpose(0, 1).flatten(1).var(1, correction=0)
    assert np.allclose(found[0], (wanted / wanted.mean()).numpy(), rtol=1e-4)


def test_rank_leaves_units_without_a_map_whole(net: Net, data: Data) -> None:
    _, found = scores(net, data, statistic="rank")
    assert np.isinf(found[1]).all()  # read by the head as single numbers
    light = lwplugin.prune(net, data, method="activation", statistic="rank", macs=0.6, collapse=0.0)
    assert light.module.second.out_channels == 16
    left = {row["name"]: row["reason"] for row in light.history[-1].details["left_alone"]}
    assert "cannot score" in left["second"]


def test_heads_are_scored_without_padding() -> None:
    from pruned_nets import Encoder

    torch.manual_seed(0)
    encoder = Encoder().eval()
    ids = torch.randint(1, 40, (40, 12))
    mask = torch.ones(40, 12, dtype=torch.int64)
    mask[:, 8:] = 0
    short = from_arrays(calibration={"ids": ids, "attention_mask": mask}, task="classification")
    noise = from_arrays(
        calibration={"ids": torch.where(mask.bool(), ids, ids.flip(0)), "attention_mask": mask},
        task="classification",
    )
    for statistic in ("variance", "rank"):
        one, other = (scores(encoder, d, statistic=statistic)[1] for d in (short, noise))
        if statistic == "variance":
            assert all(np.allclose(a, b) for a, b in zip(one, other, strict=True))
        assert len(one[0]) == 4
        assert np.isfinite(one[0]).all()
