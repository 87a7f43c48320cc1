from __future__ import annotations

import torch
from torch import nn

from lwplugin.data import from_arrays
from lwplugin.training import recalibrate_batchnorm


def test_statistics_become_those_of_the_examples() -> None:
    x = torch.randn(512, 3, 4, 4) * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1) + 5
    data = from_arrays(train=x, calibration=x, task="embedding", duplicates="ignore")
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    module[1].eval()
    assert data.calibration is not None
    assert recalibrate_batchnorm(module, data.calibration, batch_size=128) == 1
    norm = module[0]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_var, x.var(dim=(0, 2, 3)), atol=0.05, rtol=0.02)
    assert norm.momentum == 0.1
    assert norm.training
    assert not module[1].training


def test_without_batch_norm_nothing_happens() -> None:
    data = from_arrays(train=torch.randn(8, 3), task="embedding")
    assert data.train is not None
    assert recalibrate_batchnorm(nn.Linear(3, 3), data.train) == 0
