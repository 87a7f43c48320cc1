from __future__ import annotations

import numpy as np
import pruned_nets
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays, load
from lwplugin.training import TrainConfig, train


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Data:
    return load({"source": "digits", "calibration": 256}, "classification")


@pytest.fixture(scope="session")
def cnn(digits: Data) -> nn.Module:
    torch.manual_seed(0)
    net = pruned_nets.Cnn()
    train(net, digits, config=TrainConfig(epochs=12, lr=1e-2, schedule="onecycle"))
    return net.eval()


@pytest.fixture
def encoder() -> pruned_nets.Encoder:
    torch.manual_seed(0)
    return pruned_nets.Encoder().eval()


@pytest.fixture
def words() -> Data:
    rng = np.random.default_rng(0)
    mask = np.ones((64, 10), dtype=np.int64)
    mask[::2, 7:] = 0
    return from_arrays(calibration={"ids": rng.integers(0, 40, (64, 10)), "attention_mask": mask})
