"""Layers too wide to be looked at as a whole are looked at in parts: bounded, and nearly as good."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.model.graph import trace
from lwplugin.moments import layer_repair as repairing
from lwplugin.moments.moments import Moments
from lwplugin.moments.repair import repair
from lwplugin.moments.responses import parent_responses
from lwplugin.prune import input_moments


@pytest.fixture(scope="module")
def wide() -> tuple[nn.Module, Data]:
    """A convolution whose 24 channels are read 16 numbers at a time, 384 inputs; every third channel does nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(1, 24, 5), nn.ReLU(), nn.Conv1d(24, 8, 16), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)
    )
    with torch.no_grad():
        net[2].weight[:, ::3] = 0
    x = np.random.default_rng(0).standard_normal((300, 1, 28)).cumsum(-1).astype(np.float32)
    return net.eval(), from_arrays(calibration=(x, None))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inputs of every moments that are taken, with layers wider than 100 taken apart."""
    seen: list[int] = []
    make = Moments.zeros.__func__  # type: ignore[attr-defined]

    def zeros(cls: type[Moments], groups: int, inputs: int, outputs: int) -> Any:
        seen.append(inputs)
        return make(cls, groups, inputs, outputs)

    monkeypatch.setattr(Moments, "zeros", classmethod(zeros))
    monkeypatch.setattr(input_moments, "WIDEST", 100)
    monkeypatch.setattr(repairing, "WIDEST", 100)
    return seen


def test_the_parts_hold_every_unit_whole_and_once(wide: tuple[nn.Module, Data], sizes: list[int]) -> None:
    net, data = wide
    graph = trace(net, data.example(2))
    parts = input_moments.parts_of("2", net[2], graph)  # type: ignore[index]
    assert len(parts) == 4
    assert max(len(part) for part in parts) <= 100
    assert sorted(np.concatenate(parts).tolist()) == list(range(384))
    for channel in range(24):
        columns = set(range(channel * 16, channel * 16 + 16))
        assert sum(columns <= set(part.tolist()) for part in parts) == 1


def test_what_is_taken_at_once_is_bounded_and_the_idle_channels_go(
    wide: tuple[nn.Module, Data], sizes: list[int]
) -> None:
    net, data = wide
    light = lwplugin.prune(net, data, macs=0.68, round_to=1, collapse=0.0, skip=("2",))
    assert sizes
    assert max(sizes) <= 100
    assert light.history[-1].details["removed"][0]["removed"] == list(range(0, 24, 3))
    with torch.no_grad():
        x = data.example(300)
        gap = (light.module(x) - net(x)).square().mean() / net(x).var()
    assert float(gap) < 1e-6


def test_solving_stretch_by_stretch_repairs_nearly_as_well(
    wide: tuple[nn.Module, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = wide
    x = data.example(300)
    errors = {}
    for widest in (8192, 100):
        monkeypatch.setattr(repairing, "WIDEST", widest)
        module = copy.deepcopy(net)
        with torch.no_grad():
            module[2].weight += 0.05 * torch.randn(8, 24, 16, generator=torch.Generator().manual_seed(1))  # type: ignore[index, operator]
        (done,) = repair(module, x, parent_responses(net, x, ["2"]), {})
        errors[widest] = done.error_after / done.error_before
    assert errors[8192] < 0.1
    assert errors[100] < 0.5
