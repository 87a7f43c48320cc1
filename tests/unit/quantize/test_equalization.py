from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lwplugin.data import from_arrays
from lwplugin.quantize import quantize
from lwplugin.quantize.equalization import equalized, pairs_of


class Uneven(nn.Module):
    """A convolution whose channels differ a hundredfold, a depthwise one behind it, and a reader of both sums."""

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clip = clip
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.third = nn.Conv2d(8, 8, 1)
        self.fourth = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-1, 1, 8).view(-1, 1, 1, 1))

    def _between(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if self.clip is None else x.clamp(0, self.clip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._between(self.second(self._between(self.first(x))))
        y = F.relu(self.third(x))
        return self.fourth(y).mean((2, 3)) + y.mean((1, 2, 3))[:, None]


NAMES = ["first", "second", "third", "fourth"]


def spread(layer: nn.Conv2d) -> float:
    peaks = layer.weight.detach().flatten(1).abs().amax(1)
    return float(peaks.max() / peaks.min())


def test_equalized_layers_answer_the_same_with_even_channels() -> None:
    net, x = Uneven().eval(), torch.randn(4, 2, 6, 6)
    made = copy.deepcopy(net)
    pairs = equalized(made, NAMES, x)
    # The third layer's output is read beside the fourth: nothing may be scaled there.
    assert [(pair.first, pair.second) for pair in pairs] == [("first", "second"), ("second", "third")]
    assert torch.equal(made.third.bias, net.third.bias)
    assert spread(made.first) < spread(net.first) / 3
    with torch.no_grad():
        assert torch.allclose(made(x), net(x), atol=1e-4)


def test_channels_that_reach_a_clip_stay() -> None:
    net, x = Uneven(clip=6.0).eval(), 3 * torch.randn(4, 2, 6, 6)
    with torch.no_grad():
        net.second.weight.mul_(1e-3)
    made = copy.deepcopy(net)
    (pair,) = [pair for pair in equalized(made, NAMES, x) if pair.first == "first"]
    reached = pair.peak >= 6
    assert 0 < int(reached.sum()) < len(reached)
    assert torch.equal(made.first.weight[reached], net.first.weight[reached])
    assert not torch.equal(made.first.weight[~reached], net.first.weight[~reached])
    with torch.no_grad():
        assert torch.allclose(made(x), net(x), atol=1e-4)


def test_another_activation_makes_no_pair() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    assert not pairs_of(net, ["0", "2"], torch.randn(3, 4))


@pytest.mark.parametrize("choice", [True, False])
def test_int8_can_be_told_and_the_history_says_so(choice: bool) -> None:
    net = Uneven().eval()
    x = torch.randn(64, 2, 6, 6).numpy()
    data = from_arrays(calibration=(x, None), duplicates="ignore", task="embedding")
    entry = quantize(net, data, equalization=choice, rounding="nearest").history[-1]
    assert bool(entry.details["equalized"]) is choice
    assert ("equalized" in entry.details["picked"]) is choice
