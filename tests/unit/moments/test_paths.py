"""Where a convolution's response goes, and a repair that aims at what comes out there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lwplugin.moments.paths import paths_of
from lwplugin.moments.repair import repair, repairable
from lwplugin.moments.responses import parent_responses


class Branches(nn.Module):
    """A convolution of 27 inputs and one of 3, each with its norm, and their sum written in several ways."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.wide, self.narrow = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(3, 8, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
        self.norms[0].weight.data[0] *= -1

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] → [n, 8, h, w]."""
        if self.form == "narrow first":
            other = self.norms[1](self.narrow(x))
            return torch.relu(other + self.norms[0](self.wide(x)))
        inner = self.norms[0](self.wide(x))
        if self.form == "in place":
            inner += self.norms[1](self.narrow(x))
            return inner.relu_()
        total = inner + self.norms[1](self.narrow(x))
        if self.form == "read twice":
            return torch.relu(total) + 0.1 * total
        return torch.relu(total)


@pytest.mark.parametrize("form", ["wide first", "narrow first", "in place"])
def test_a_repaired_layer_makes_up_for_the_other_branch(form: str) -> None:
    torch.manual_seed(0)
    parent = Branches(form).eval()
    x = torch.randn(64, 3, 8, 8)
    paths = paths_of(parent, x[:1], ["wide", "narrow"])
    assert paths["wide"].total == paths["narrow"].total is not None
    broken = copy.deepcopy(parent)
    broken.narrow.weight.data.zero_()
    own, at_sum = copy.deepcopy(broken), copy.deepcopy(broken)
    repair(own, x, parent_responses(parent, x, ["wide"]), {})
    (done,) = repair(at_sum, x, parent_responses(parent, x, ["wide"], sums=True), {})
    with torch.no_grad():
        wanted = parent(x)
        off, left = ((net(x) - wanted).square().mean() for net in (own, at_sum))
    assert left < 1e-6 < 0.01 < off
    assert done.error_after < 1e-4 < done.error_before


def test_the_branch_with_most_inputs_makes_up_for_both() -> None:
    torch.manual_seed(0)
    parent = Branches("wide first").eval()
    x = torch.randn(64, 3, 8, 8)
    smaller = copy.deepcopy(parent)
    done = repair(smaller, x, parent_responses(parent, x, repairable(parent), sums=True), {})
    assert [row.name for row in done] == ["narrow", "wide"]


def test_what_a_relu_stops_need_not_be_met() -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU()).eval()
    x = torch.randn(64, 8, 6, 6)
    cut = copy.deepcopy(parent)
    cut[0] = nn.Conv2d(5, 16, 1)
    plain = nn.Sequential(copy.deepcopy(cut[0]))
    answers = parent_responses(parent, x, ["0"])
    repair(cut, x[:, :5], answers, {})
    repair(plain, x[:, :5], answers, {})
    with torch.no_grad():
        wanted = parent(x)
        aware, blind = ((net(x[:, :5]).relu() - wanted).square().mean() for net in (cut, plain))
    assert aware < 0.97 * blind


def test_a_second_repair_finds_nothing_to_mend() -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)).eval()
    x = torch.randn(64, 4, 6, 6) + 2.0
    module = copy.deepcopy(parent)
    module[0] = nn.Conv2d(3, 6, 1, bias=False)
    answers = parent_responses(parent, x, ["0"], sums=True)
    repair(module, x[:, :3], answers, {})
    once = module(x[:, :3])
    repair(module, x[:, :3], answers, {})
    torch.testing.assert_close(module(x[:, :3]), once, rtol=0.01, atol=0.01)


class Chunked(nn.Module):
    """Its operations are more for more examples."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] → [n, 4, h, w]."""
        moved = torch.cat([part * 1.0 for part in x.split(16)])
        return self.one(moved) + self.other(moved)


def test_sums_that_cannot_be_told_by_their_number_are_left() -> None:
    answers = parent_responses(Chunked().eval(), torch.randn(64, 3, 4, 4), ["one"], sums=True)
    assert answers["one"].total is None


def test_others_aim_at_their_own_response() -> None:
    assert paths_of(Branches("read twice").eval(), torch.randn(2, 3, 8, 8), ["wide", "narrow"]) == {}
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    assert paths_of(net, torch.randn(2, 4), ["0"]) == {}
