"""The selection meets its budget within its limits, and spends what rounding left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, trace
from lwplugin.prune.select import Budget, Limits, kept_count, select


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return trace(net, torch.randn(2, 1, 6, 6))


def importance(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(len(group)) for group in graph.groups]


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("ranking", ["global", "per_layer"])
@pytest.mark.parametrize("kept", [0.8, 0.5, 0.25])
def test_the_budget_is_met_and_nearly_used(graph: Graph, kind: str, ranking: str, kept: float) -> None:
    removed = select(graph, importance(graph), Budget(kind, kept), Limits(0.1, None), ranking=ranking)  # type: ignore[arg-type]
    cost = graph.macs if kind == "macs" else graph.params
    share = cost(removed) / cost()
    assert share <= kept
    assert share >= 0.6 * kept
    for group in graph.groups:
        left = len(group) - len(removed.get(group.index, []))
        assert left % 8 == 0
        assert left >= 0.1 * len(group)


def test_least_important_units_go_first(graph: Graph) -> None:
    scores = importance(graph)
    removed = select(graph, scores, Budget("macs", 0.5), Limits(0.1, 1))
    for index, units in removed.items():
        kept = np.setdiff1d(np.arange(len(scores[index])), units)
        assert scores[index][units].max() <= scores[index][kept].min()


def test_fixed_groups_stay_whole(graph: Graph) -> None:
    assert 1 not in select(graph, importance(graph), Budget("macs", 0.6), Limits(0.1, None), fixed=[1])


def test_an_unreachable_budget_names_what_can_be_reached(graph: Graph) -> None:
    with pytest.raises(MethodError, match=r"with every prunable layer at its floor"):
        select(graph, importance(graph), Budget("macs", 0.05), Limits(0.9, None))


def test_kept_counts_are_legal(graph: Graph) -> None:
    wide = graph.groups[1]
    assert [kept_count(wide, n, Limits(0.1, None)) for n in (1, 13, 15, 59, 64)] == [8, 16, 16, 56, 64]
