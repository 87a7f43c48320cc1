"""The recorded sensitivity is the error that a cut really has, and what the report needs of a pruning is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.prune.explain import sensitivity


@pytest.fixture(scope="module")
def spare() -> tuple[nn.Module, Data]:
    """Of eight hidden units four repeat the others: half can go at no cost, and no more."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].weight[4:] = net[0].weight[:4]
        net[0].bias[4:] = net[0].bias[:4]
    x = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    return net, from_arrays(calibration=(x, np.arange(400) % 3))


@pytest.mark.parametrize(("method", "options"), [("reconstruct", {}), ("magnitude", {"sensitivity": True})])
def test_a_layer_is_as_sensitive_as_it_is(
    spare: tuple[nn.Module, Data], method: str, options: dict[str, bool]
) -> None:
    net, data = spare
    light = lwplugin.prune(net, data, method=method, params=0.7, round_to=1, collapse=0.0, **options)
    details = light.history[-1].details
    json.dumps(details, allow_nan=False)
    (line,) = details["sensitivity"]
    assert line["name"] == details["removed"][0]["name"] == "0"
    assert line["fractions"] == [k / 8 for k in range(9)]
    errors = np.array(line["errors"])
    assert errors[0] == 0
    assert (np.diff(errors) >= 0).all()
    assert errors[4] < 0.002 < errors[5]
    assert 0.9 < errors[8] < 1.1
    if method == "reconstruct":
        order = np.argsort(details["removed"][0]["importance"])
        assert errors[6] == pytest.approx(left_over(net, data, order[6:]), rel=0.05)


def left_over(net: nn.Module, data: Data, kept: np.ndarray) -> float:
    """The part of the output's variance that no linear layer on these hidden units can give."""
    with torch.no_grad():
        hidden = net[:2](data.example(400)).double().numpy()  # type: ignore[index]
        wanted = net(data.example(400)).double().numpy()
    hidden, wanted = hidden - hidden.mean(0), wanted - wanted.mean(0)
    fitted = hidden[:, kept] @ np.linalg.lstsq(hidden[:, kept], wanted)[0]
    return float(((wanted - fitted) ** 2).sum() / (wanted**2).sum())


def test_others_do_not_pay_for_it(spare: tuple[nn.Module, Data]) -> None:
    light = lwplugin.prune(*spare, method="magnitude", params=0.7, round_to=1, collapse=0.0)
    assert "sensitivity" not in light.history[-1].details


def test_curves_are_thinned_and_leave_out_what_was_not_scored() -> None:
    (line,) = sensitivity([("wide", [1.0] * 1000), ("unscored", [None, None]), ("empty", [])])
    assert line["name"] == "wide"
    assert len(line["fractions"]) == len(line["errors"]) == 33
    assert (line["fractions"][-1], line["errors"][-1]) == (1.0, 1000.0)
