"""Moments, the closed-form solve and block removal, each against a direct computation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lwplugin.moments.moments import Moments
from lwplugin.moments.repair import repair, repairable
from lwplugin.moments.responses import parent_responses
from lwplugin.moments.rows import inputs_of, responses_of, sample_rows, weight_rows
from lwplugin.moments.solve import BlockRemoval, solve

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 7, 6)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 4, 9, 9)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, (3, 1), groups=2), (4, 4, 9, 9)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=1), (4, 4, 21)),
    "conv3d": (
        lambda: nn.Conv3d(4, 6, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2),
        (4, 4, 3, 7, 5),
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=2, padding=(1, 0), output_padding=1, groups=2),
        (4, 4, 5, 6),
    ),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 2, stride=3, padding=2, dilation=3), (4, 4, 9)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2, stride=(2, 1, 2)), (4, 4, 2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("wanted", [10, 10_000])
def test_rows_times_weight_is_the_layers_answer(name: str, wanted: int) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name][0](), torch.randn(LAYERS[name][1])
    y = layer(x)
    rows = sample_rows(layer, y, wanted, seed=0)
    product = torch.einsum("rgk,gok->rgo", inputs_of(layer, x, rows), weight_rows(layer)).reshape(
        len(rows), -1
    )
    assert torch.allclose(product + layer.bias, responses_of(layer, y, rows), atol=1e-5)


def test_rows_of_an_example_are_not_drawn_twice() -> None:
    layer, x = LAYERS["conv"][0](), torch.randn(LAYERS["conv"][1])
    rows = sample_rows(layer, layer(x), 4 * 20, seed=0)  # of 25 positions each
    assert len(rows) == len(rows.index.unique()) == 4 * 20


def test_streamed_sums_are_the_covariance() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(9000, 1, 5) + 3, torch.randn(9000, 2)
    sums = Moments.zeros(1, 5, 2)
    for start in range(0, 9000, 1000):
        sums.add(x[start : start + 1000], y[start : start + 1000])
    xx, _, yy = sums.covariances(centred=True)
    assert torch.allclose(xx[0], torch.cov(x[:, 0].double().T, correction=0), atol=1e-4)
    assert torch.allclose(yy[0], y.double().var(0, correction=0), atol=1e-4)


@pytest.mark.parametrize("centred", [True, False])
def test_a_mean_far_above_the_deviation_is_not_lost(centred: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6000, 1, 4) + 2000, torch.randn(6000, 3) - 500
    sums = Moments.zeros(1, 4, 3)
    for start in range(0, 6000, 2000):
        sums.add(x[start : start + 2000], y[start : start + 2000])
    found = sums.covariances(centred=centred)
    wide, answers = x[:, 0].double(), y.double()
    if centred:
        wide, answers = wide - wide.mean(0), answers - answers.mean(0)
    torch.testing.assert_close(found[0][0], wide.T @ wide / 6000, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][0], wide.T @ answers / 6000, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2][0], answers.square().mean(0), rtol=1e-5, atol=1e-5)


def test_the_same_inputs_with_other_responses_are_as_seen_anew() -> None:
    torch.manual_seed(0)
    x, y, other = torch.randn(6000, 2, 4) + 1, torch.randn(6000, 6), torch.randn(6000, 6) + 3
    first, anew = Moments.zeros(2, 4, 3), Moments.zeros(2, 4, 3)
    first.add(x, y)
    before = first.covariances(centred=True)
    second = first.without_responses()
    second.add_responses(x, other)
    anew.add(x, other)
    for found, wanted in zip(second.covariances(centred=False), anew.covariances(centred=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, first.covariances(centred=True), strict=True))


def test_solve_recovers_a_linear_map() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4000, 1, 5), torch.randn(1, 3, 5)
    y = torch.einsum("rgk,gok->rgo", x, weight).reshape(4000, 3) + 2.0
    sums = Moments.zeros(1, 5, 3)
    sums.add(x, y)
    found = solve(sums, torch.zeros(1, 3, 5), offset=True, ridge=1e-8)
    assert torch.allclose(found.weight.float(), weight, atol=1e-3)
    assert found.offset is not None
    assert torch.allclose(found.offset.float(), torch.full((1, 3), 2.0), atol=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_block_removal_is_the_least_squares_refit(size: int) -> None:
    torch.manual_seed(0)
    k = 12
    x = torch.randn(500, k, dtype=torch.float64) @ torch.randn(k, k, dtype=torch.float64)
    xx, weight = x.T @ x / 500, torch.randn(4, k, dtype=torch.float64)
    blocks = [np.arange(i, i + size) for i in range(0, k, size)]
    removal = BlockRemoval(xx, weight, blocks, ridge=1e-12)
    for gone in (1, 2):
        costs = removal.costs()
        removal.remove(gone)
        left = np.setdiff1d(np.arange(k), np.concatenate(blocks[1 : gone + 1]))
        refit = torch.linalg.lstsq(x[:, left], x @ weight.T).solution
        error = float((x @ weight.T - x[:, left] @ refit).square().sum(1).mean())
        assert gone == 2 or float(costs[1]) == pytest.approx(error, rel=1e-5)
        assert torch.isinf(removal.costs()[gone])


def test_removal_stays_exact_over_many_updates_of_the_inverse() -> None:
    torch.manual_seed(0)
    size, count, k = 3, 40, 125
    x = torch.randn(1000, k, dtype=torch.float64) @ (torch.eye(k) + 0.1 * torch.randn(k, k)).double()
    xx, weight = x.T @ x / 1000, torch.randn(2, k, dtype=torch.float64)
    places = torch.randperm(k).numpy()
    blocks = [places[i * size : (i + 1) * size] for i in range(count)]
    removal = BlockRemoval(xx, weight, blocks, ridge=1e-12)
    spent = 0.0
    order = torch.randperm(count)[:35].tolist()
    for block in order:
        spent += float(removal.costs()[block])
        removal.remove(block)
    left = np.setdiff1d(np.arange(k), np.concatenate([blocks[block] for block in order]))
    refit = torch.linalg.lstsq(x[:, left], x @ weight.T).solution
    error = float((x @ weight.T - x[:, left] @ refit).square().sum(1).mean())
    assert spent == pytest.approx(error, rel=1e-6)
    assert torch.isinf(removal.costs()).sum() == 35


def test_nothing_is_left_after_the_last_block() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 128, dtype=torch.float64)
    weight = torch.randn(3, 128, dtype=torch.float64)
    removal = BlockRemoval(x.T @ x / 400, weight, [np.arange(64), np.arange(64, 128)], ridge=1e-12)
    for block in (1, 0):
        removal.remove(block)
    assert torch.isinf(removal.costs()).all()
    assert not removal.weight().any()


def test_repair_lowers_the_error_on_inputs_it_never_saw() -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    )
    parent.eval()
    images = (torch.randn(576, 6) @ torch.randn(6, 64)).reshape(-1, 1, 8, 8)  # redundant, as real ones are
    inputs, unseen = images[:512], images[512:]
    cut = copy.deepcopy(parent)
    with torch.no_grad():
        cut[4].weight[:, :72] = 0  # two channels no longer read
        cut[0].weight[:2] = 0
    repaired = copy.deepcopy(cut)
    answers = parent_responses(parent, inputs, ["4"])
    done = repair(repaired, inputs, answers, {})
    with torch.no_grad():
        left, lost = ((net(unseen) - parent(unseen)).square().mean() for net in (repaired, cut))
    assert left < 0.5 * lost
    assert done[0].error_after < done[0].error_before


def test_a_constant_goes_into_the_norm_that_reads_the_layer() -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    parent.eval()
    inputs = torch.randn(64, 4, 6, 6) + 2.0
    cut = copy.deepcopy(parent)
    cut[0] = nn.Conv2d(3, 4, 1, bias=False)
    cut[0].weight.data = parent[0].weight.data[:, :3].clone()
    answers = parent_responses(parent, inputs, ["0"])
    repair(cut, inputs[:, :3], answers, {})
    with torch.no_grad():
        before_norm = cut[0](inputs[:, :3]) - (cut[1].running_mean - parent[1].running_mean)[:, None, None]
        wanted = parent[0](inputs)
    assert torch.allclose(before_norm.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=0.05)
    assert not torch.equal(cut[1].running_mean, parent[1].running_mean)


def test_shared_weights_are_not_solved() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert repairable(net) == ["2"]


class Routed(nn.Module):
    """Sends each row to one of two layers, none of these to a third."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right, self.idle = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        to_left = x[:, 0] > 0
        self.idle(x[:0])
        y = self.shared(x)
        y[to_left], y[~to_left] = self.left(x[to_left]), self.right(x[~to_left])
        return y


def test_layers_that_other_rows_might_reach_are_left_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 4)
    assert 0 < int((x[:, 0] > 0).sum()) < 9
    parent = Routed()
    answers = parent_responses(parent, x, ["shared", "left", "right", "idle"])
    assert list(answers) == ["shared"]
    assert [done.name for done in repair(copy.deepcopy(parent), x, answers, {})] == ["shared"]
    assert repair(copy.deepcopy(parent), x[:8], answers, {}) == []  # rows that are not there


def test_few_examples_leave_none_apart_to_judge_by() -> None:
    torch.manual_seed(0)
    parent, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(3, 4)
    (done,) = repair(copy.deepcopy(parent), x, parent_responses(parent, x, ["0"]), {})
    assert done.error_after < 1e-6


def test_a_layer_called_twice_is_left_alone() -> None:
    layer = nn.Linear(4, 4)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert parent_responses(twice, torch.randn(8, 4), ["0"]) == {}
