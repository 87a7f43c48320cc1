"""Where a residual block is gone, the layer before it aims half way at the sum after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwplugin.moments.gaps import half_way_sums
from lwplugin.moments.repair import repairable
from lwplugin.moments.responses import parent_responses
from lwplugin.moments.rows import responses_of


class Block(nn.Module):
    """A convolution around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 6, h, w] → [n, 6, h, w]."""
        return torch.relu(x + self.conv(x))


def made() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *(Block() for _ in range(4))).eval()
    return net, torch.randn(64, 3, 10, 10)


def test_half_of_what_a_gap_added_is_made_up_for_before_it() -> None:
    net, x = made()
    given: dict[int, Tensor] = {}
    for place in (2, 3, 4):
        block = net[place]
        block.register_forward_hook(lambda b, args, _, n=place: given.update({n: args[0]}))
    with torch.no_grad():
        net(x)
        sums = {place: x + net[place].conv(x) for place, x in given.items()}
    responses = parent_responses(net, x, repairable(net), sums=True)

    def at_rows(values: Tensor) -> Tensor:
        return responses_of(net[2].conv, values, responses["2.conv"].rows)

    for gone, wanted in (
        ({"3.conv"}, (sums[2] + sums[3]) / 2),
        ({"3.conv", "4.conv"}, (sums[2] + sums[4]) / 2),
    ):
        found = half_way_sums(responses, set(responses) - gone)
        assert list(found) == ["2.conv"]
        torch.testing.assert_close(found["2.conv"], at_rows(wanted), rtol=1e-4, atol=1e-5)
    assert half_way_sums(responses, set(responses)) == {}
    # None is left to make up for the other half.
    assert half_way_sums(responses, set(responses) - {"3.conv", "4.conv", "5.conv"}) == {}
