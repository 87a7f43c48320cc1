"""`reconstruct` tries ratios by the layers' errors and by what they cost the answer, and keeps what is nearest."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import lwplugin
from lwplugin.data import Data
from lwplugin.prune.divergence import Divergence
from lwplugin.prune.response_error import scaled


def test_the_nearest_of_the_tried_ratios_is_kept(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, macs=0.4, collapse=0.0)
    tried = light.history[-1].details["ratios"]
    assert set(tried) == {"layers", "between", "answer"}
    assert Divergence(cnn, digits, 512)(light.module) == pytest.approx(min(tried.values()), rel=1e-3)
    plain = lwplugin.prune(cnn, digits, macs=0.4, collapse=0.0, answer_aware=False)
    assert "ratios" not in plain.history[-1].details
    assert Divergence(cnn, digits, 512)(plain.module) == pytest.approx(tried["layers"], rel=1e-3)


def test_errors_are_brought_to_the_measured_losses_stretch_by_stretch() -> None:
    added = np.array([1.0, 1.0, 2.0, 2.0, 4.0, 6.0])
    found = scaled(added, {0: 0.0, 2: 0.1, 4: 0.3})
    assert found[:2].sum() == pytest.approx(0.1)
    assert found[2:4].sum() == pytest.approx(0.2)
    assert found[4:] == pytest.approx(added[4:] * 0.2 / 4.0)
    assert scaled(added, {}) is added
