from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from lwplugin.data import from_arrays
from lwplugin.export import export
from lwplugin.quantize import quantize


def stored(padding: nn.Module, directory: Path) -> tuple[Counter[str], float]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU6(),
        padding,
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.Flatten(),
        nn.LazyLinear(5),
    ).eval()
    x = torch.randn(64, 3, 10, 10)
    net(x)
    data = from_arrays(calibration=(x.numpy(), None), test=(x[:16].numpy(), None), duplicates="ignore")
    made = quantize(net, data, reduce_range=True)
    written = export(made, data, path=directory)
    nodes = onnx.load(str(written.file)).graph.node
    return Counter(node.op_type for node in nodes), written.meta["parity"]["sqnr_db"]


def test_zero_padding_is_the_convolutions_own(tmp_path: Path) -> None:
    found, decibels = stored(nn.ZeroPad2d((0, 1, 0, 1)), tmp_path)
    assert not found["Pad"]
    assert not found["Clip"]
    assert decibels > 30


@pytest.mark.parametrize("padding", [nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1)])
def test_other_padding_stays(padding: nn.Module, tmp_path: Path) -> None:
    found, decibels = stored(padding, tmp_path)
    assert found["Pad"] == 1
    assert decibels > 30
