"""Iterative, search and hybrid: rounds add up, a killed run ends as an undisturbed one, the start is never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data
from lwplugin.errors import MethodError
from lwplugin.model.graph import trace
from lwplugin.model.surgery import cut
from lwplugin.prune.iterative import correspondence


class StopError(Exception):
    """A process that is killed."""


def stop_after(label: str, count: int) -> Any:
    def progress(name: str, done: int, total: int | None = None) -> None:
        if name == label and done >= count:
            raise StopError

    return progress


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_units_of_a_smaller_model_are_traced_back(cnn: nn.Module, digits: Data) -> None:
    graph = trace(cnn, digits.example(2))
    removed = {group.index: [0, 3, 7] for group in graph.groups}
    smaller = lwplugin.light(cnn).copy_module()
    cut(smaller, graph, removed)
    current = trace(smaller, digits.example(2))
    found = correspondence(graph, removed, current)
    assert set(found) == {group.index for group in graph.groups}
    for index, (now, former) in found.items():
        assert former.tolist() == [u for u in range(16) if u not in (0, 3, 7)]
        # The very rows of the weights that write the units say the same.
        name, axis = graph.groups[index].writers[0]
        before, after = dict(cnn.named_parameters())[name], dict(smaller.named_parameters())[name]
        if axis == 0 and after.shape[1:] == before.shape[1:]:
            assert torch.equal(before[torch.from_numpy(former)], after)
        assert len(current.groups[now]) == 13


def test_rounds_reach_the_budget_step_by_step(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(
        cnn, digits, method="iterative", params=0.4, rounds=3, epochs_per_round=0, round_to=1
    )
    rounds = [row["params_kept"] for row in light.history[-1].details["rounds"]]
    assert rounds[0] > rounds[1] > rounds[2]
    assert all(kept <= 0.4 ** ((i + 1) / 3) for i, kept in enumerate(rounds))
    whole = sum(p.numel() for p in cnn.parameters())
    assert sum(p.numel() for p in light.module.parameters()) <= 0.4 * whole * 1.02


@pytest.mark.parametrize(
    ("method", "options", "label", "count"),
    [
        ("iterative", {"rounds": 3, "epochs_per_round": 1}, "rounds", 2),
        ("iterative", {"rounds": 3, "epochs_per_round": 1}, "train round 2", 10),
        ("search", {"evaluations": 10, "population": 4}, "search", 6),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    cnn: nn.Module, digits: Data, tmp_path: Path, method: str, options: dict[str, Any], label: str, count: int
) -> None:
    whole = lwplugin.prune(cnn, digits, method=method, macs=0.5, **options)
    seen: list[str] = []
    with pytest.raises(StopError):
        lwplugin.prune(
            cnn, digits, method=method, macs=0.5, checkpoint=tmp_path / "state", progress=stop_after(label, count),
            **options,
        )  # fmt: skip
    assert (tmp_path / "state.rounds").is_file()
    resumed = lwplugin.prune(
        cnn, digits, method=method, macs=0.5, checkpoint=tmp_path / "state",
        progress=lambda name, done, total=None: seen.append(f"{name} {done}"), **options,
    )  # fmt: skip
    assert same(resumed.module, whole.module)
    assert resumed.history[-1].metrics == whole.history[-1].metrics
    assert {"iterative": "rounds 0", "search": "search 1"}[method] not in seen  # it did not begin anew


def test_a_checkpoint_of_other_options_is_refused(cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "method": "search",
        "population": 2,
        "evaluations": 2,
        "checkpoint": tmp_path / "s",
    }
    lwplugin.prune(cnn, digits, macs=0.5, **options)
    with pytest.raises(MethodError, match="of another run"):
        lwplugin.prune(cnn, digits, macs=0.6, **options)
    (tmp_path / "s.rounds").write_bytes(b"torn")
    with pytest.raises(MethodError, match="cannot be read"):
        lwplugin.prune(cnn, digits, macs=0.5, **options)


def test_a_collapse_names_the_round_and_what_held(cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(MethodError, match=r"in round \d of 3.*agree with the parent's on"):
        lwplugin.prune(
            cnn,
            digits,
            method="iterative",
            macs=0.2,
            rounds=3,
            epochs_per_round=0,
            repair=False,
            collapse=0.99,
        )


def test_a_search_never_ends_worse_than_it_began(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, method="search", macs=0.4, evaluations=12, population=4)
    metrics = light.history[-1].metrics
    assert metrics["divergence"] <= metrics["divergence_global_ranking"]
    assert metrics["evaluations"] == 12


def test_hybrid_takes_the_split_that_diverges_least(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, method="hybrid", macs=0.4, splits=3)
    entry = light.history[-1]
    tried = entry.details["splits"]
    assert [row["blocks"] for row in tried] == sorted({row["blocks"] for row in tried})
    assert len(tried) >= 2
    assert any("ratios" in row for row in tried)
    assert all(row["divergence"] == min(row["ratios"].values()) for row in tried if "ratios" in row)
    best = min(tried, key=lambda row: row["divergence"])
    assert entry.metrics["blocks_removed"] == best["blocks"]
    assert entry.metrics["macs"] <= 0.4 * entry.metrics["macs_before"] * 1.001
    assert np.isclose(entry.metrics["divergence"], best["divergence"], rtol=1e-4)
