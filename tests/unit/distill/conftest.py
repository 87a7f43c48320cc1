"""Digits, and a teacher that knows them."""

from __future__ import annotations

import pytest
import torch
from small_nets import drawn
from torch import nn

from lwplugin.data import Data, load
from lwplugin.training import TrainConfig, train


@pytest.fixture(scope="module")
def data() -> Data:
    torch.set_num_threads(1)
    return load({"source": "digits", "calibration": 256}, "classification")


@pytest.fixture(scope="module")
def teacher(data: Data) -> nn.Module:
    module = drawn(0, width=16)
    train(module, data, config=TrainConfig(epochs=12, lr=1e-2, schedule="onecycle"))
    return module.eval()
