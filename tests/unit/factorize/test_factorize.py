"""What a user sees: layers become products, the rest is left alone with a reason, errors are made up for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.errors import MethodError, RecipeError
from lwplugin.model.bundle import LightModel


class Deep(nn.Module):
    """[n, 24] → [n, 4], three wide layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(24, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return out


class Odd(nn.Module):
    """Layers that must stay: tied, used twice, read by code, grouped, unused, of an unknown type."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(16, 16)
        self.read = nn.Linear(16, 16)
        self.twice = nn.Linear(16, 16)
        self.tied_a, self.tied_b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.tied_b.weight = self.tied_a.weight
        self.grouped = nn.Conv1d(16, 16, 1, groups=4)
        self.unused = nn.Linear(16, 16)
        self.pair = nn.Bilinear(16, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.relu(self.twice(self.good(x))))
        x = F.linear(x, self.read.weight) + self.read(x)
        x = self.tied_b(torch.relu(self.tied_a(x)))
        out: Tensor = self.pair(self.grouped(x[:, :, None])[:, :, 0], x)
        return out


def correlated(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, width)
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9)))[0]
    return torch.randn(n, width, generator=generator) * scales @ basis


def regression(x: Tensor, net: nn.Module) -> Data:
    with torch.no_grad():
        return from_arrays(calibration=x[:512], test=(x[512:], net(x[512:])), task="regression")


@pytest.fixture
def deep() -> tuple[Deep, Tensor, Data]:
    torch.manual_seed(0)
    net, x = Deep().eval(), correlated(1024, 24)
    return net, x, regression(x, net)


def error(light: LightModel, net: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = net(x[512:])
        return float(
            (light.module(x[512:]) - wanted).square().sum() / wanted.var(0, correction=0).sum() / 512
        )


def run(net: nn.Module, data: Data, **options: Any) -> LightModel:
    options = {"params": 0.5, "round_to": 1, "collapse": 0.0, **options}
    light: LightModel = lwplugin.factorize(net, data, **options)
    return light


def test_the_budget_holds_and_the_data_tell_which_directions_matter(deep: tuple[Deep, Tensor, Data]) -> None:
    net, x, data = deep
    aware, blind = run(net, data, repair=False), run(net, data, data_aware=False, repair=False)
    for light in (aware, blind):
        metrics = light.history[-1].metrics
        assert metrics["params"] <= 0.5 * metrics["params_before"]
        assert metrics["params"] == sum(p.numel() for p in light.module.parameters())
        assert metrics["macs"] < metrics["macs_before"]
    assert error(aware, net, x) < 0.2 * error(blind, net, x)


def test_a_repair_in_network_order_makes_up_for_the_layers_before(deep: tuple[Deep, Tensor, Data]) -> None:
    net, x, data = deep
    for options in ({}, {"data_aware": False}, {"method": "pca"}):
        repaired = error(run(net, data, params=0.35, **options), net, x)
        assert repaired < 0.8 * error(run(net, data, params=0.35, repair=False, **options), net, x)


def test_one_layer_is_reduced_rank_regression() -> None:
    torch.manual_seed(0)
    x = correlated(1024, 24)
    net = nn.Sequential(nn.Linear(24, 20)).eval()
    light = run(net, regression(x, net), params=None, rank=5, answer_aware=False)
    weight, inputs = net[0].weight.detach().double(), x[:512].double()
    centred = (inputs - inputs.mean(0)) @ weight.T
    u = torch.linalg.svd(centred, full_matrices=False)[2][:5].T
    best = float((centred - centred @ u @ u.T).square().sum())
    with torch.no_grad():
        found = float((light.module(x[:512]) - net(x[:512])).double().square().sum())
    assert best <= found <= 1.02 * best


class Queries(nn.Module):
    """Attends from learned queries that start at nothing, as DETR's do: a layer's inputs are always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.same, self.head = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        out: Tensor = self.head(hidden * self.same(torch.zeros_like(hidden)))
        return out


@pytest.mark.parametrize("method", ["svd", "pca"])
def test_a_layer_that_always_answers_the_same_becomes_a_product_of_finite_numbers(method: str) -> None:
    torch.manual_seed(0)
    net, x = Queries().eval(), torch.randn(600, 8)
    light = lwplugin.factorize(net, regression(x, net), method=method, rank=4)
    assert "same" in {row["name"] for row in light.history[-1].details["layers"]}
    with torch.no_grad():
        assert torch.isfinite(light.module(x)).all()


def test_a_search_over_all_layers_beats_equal_fractions(deep: tuple[Deep, Tensor, Data]) -> None:
    net, x, data = deep
    assert error(run(net, data), net, x) < error(run(net, data, ranking="per_layer"), net, x)


def test_what_stays_is_named_with_its_reason() -> None:
    torch.manual_seed(0)
    net, x = Odd().eval(), torch.randn(600, 16)
    entry = run(net, regression(x, net), params=None, rank=3).history[-1]
    assert [layer["name"] for layer in entry.details["layers"]] == ["good"]
    reasons = {row["name"]: row["reason"] for row in entry.details["left_alone"]}
    for name, reason in {
        "read": "code around the layer reads",
        "twice": "more than once",
        "tied_a": "shared",
        "tied_b": "shared",
        "grouped": "grouped",
        "unused": "not called",
        "pair": "Bilinear has no product form",
    }.items():
        assert reason in reasons[name]


def test_layers_in_skip_stay_and_a_pattern_that_names_none_is_an_error(
    deep: tuple[Deep, Tensor, Data],
) -> None:
    net, _, data = deep
    light = run(net, data, params=None, rank=4, skip=("b",))
    assert isinstance(light.module.b, nn.Linear)
    assert isinstance(light.module.a, nn.Sequential)
    assert {"name": "b", "reason": "named in skip"} in light.history[-1].details["left_alone"]
    with pytest.raises(MethodError, match=r"names no layer.*'d'.*a, b, c"):
        run(net, data, skip=("d",))


def test_errors_say_what_to_do(deep: tuple[Deep, Tensor, Data]) -> None:
    net, x, data = deep
    with pytest.raises(RecipeError, match="exactly one of params, macs"):
        lwplugin.factorize(net, data, params=0.5, rank=3)
    with pytest.raises(MethodError, match="No layer would be smaller"):
        run(net, data, params=None, energy=0.9999999, skip=("a", "c"))
    with pytest.raises(MethodError, match=r"Nothing in this model.*tucker is for convolutions"):
        run(net, data, method="tucker")
    broken = from_arrays(
        calibration=x.clone().index_fill(0, torch.tensor([3]), float("nan")), task="regression"
    )
    with pytest.raises(MethodError, match="inputs of layer 'a' are not finite"):
        run(net, broken)


class Words(nn.Module):
    """Token ids [n, 6] with a mask → [n, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(400, 32, padding_idx=0), nn.Linear(32, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask[..., None].float()
        out: Tensor = self.out((self.table(input_ids) * kept).sum(1) / kept.sum(1))
        return out


def test_an_embedding_becomes_a_narrow_table_and_a_linear_layer() -> None:
    torch.manual_seed(0)
    net = Words().eval()
    with torch.no_grad():
        net.table.weight.copy_(torch.randn(400, 6) @ torch.randn(6, 32) + 0.01 * torch.randn(400, 32) + 1)
    ids = torch.randint(1, 400, (300, 6))
    mask = (torch.arange(6)[None] < torch.randint(1, 7, (300, 1))).long()
    data = from_arrays(calibration={"input_ids": ids * mask, "attention_mask": mask}, task="embedding")
    light = run(net, data, params=0.3)
    assert [type(part) for part in light.module.table] == [nn.Embedding, nn.Linear]
    rows = torch.arange(1, 400)
    with torch.no_grad():
        lost = (
            (light.module.table(rows) - net.table(rows)).square().sum() / net.table(rows).var(0).sum() / 399
        )
    assert float(lost) < 0.01


def test_a_table_that_stays_whole_is_not_solved() -> None:
    torch.manual_seed(0)
    net = Words().eval()
    net.table, net.out = nn.Embedding(400, 32), nn.Linear(32, 64)
    with torch.no_grad():
        net.out.weight.copy_(torch.randn(64, 4) @ torch.randn(4, 32))
    ids = torch.randint(1, 400, (300, 6))
    data = from_arrays(
        calibration={"input_ids": ids, "attention_mask": torch.ones_like(ids)}, task="embedding"
    )
    light = run(net, data, params=0.92)
    assert type(light.module.table) is nn.Embedding
    assert type(light.module.out) is nn.Sequential


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0].mean(1))
        return out


def test_a_budget_below_what_stays_whole_names_the_least_that_can_be_met_and_what_stays() -> None:
    data = from_arrays(calibration=torch.randn(40, 5, 6), task="regression")
    with pytest.raises(
        MethodError,
        match=r"to 50\.0% of its params: got 9\d\.\d% .*; 97\.9% .* whole; rnn: layer type GRU has no",
    ):
        run(Recurrent(), data, params=0.5)


def test_factors_are_layers_like_any_other(deep: tuple[Deep, Tensor, Data]) -> None:
    net, x, data = deep
    low = run(net, data, params=0.6)
    assert error(lwplugin.quantize(low, data, method="int8"), net, x) < 0.1
    cut = lwplugin.prune(low, data, method="reconstruct", params=0.7, collapse=0.0)
    assert sum(p.numel() for p in cut.module.parameters()) < 0.75 * low.history[-1].metrics["params"]
    again = run(low, data, params=0.8)
    assert [entry.step for entry in again.history] == ["factorize", "factorize"]
