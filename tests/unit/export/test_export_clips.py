"""A Relu leaves the file only where a rounding takes its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import from_arrays
from lwplugin.export import export
from lwplugin.quantize import quantize

TOKENS, WIDTH = 8, 16


class Net(nn.Module):
    """Two linear layers and what lies between them."""

    def __init__(self, between: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.between(x, self.first(x)))
        return y.flatten(1)


class Conv(nn.Module):
    """A residual sum of what a Relu gives, and a Relu over a sum that floats are read from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        inner = torch.relu(self.second(torch.relu(first))) + first
        outer = torch.relu(inner + torch.sin(first))
        return self.head(outer.mean((2, 3)) + outer.amax((2, 3)).exp())


NETS: dict[str, nn.Module] = {}
torch.manual_seed(0)
for _name, _between in {
    "mean over tokens": lambda x, y: torch.relu(y).mean(1),
    "a sum, read twice": lambda x, y: torch.relu(y + x) + torch.relu(y + x).sin().exp(),
    "multiplied with itself": lambda x, y: torch.relu(y) @ torch.relu(y).transpose(1, 2) @ x,
    "straight into the layer": lambda x, y: torch.relu(y),
}.items():
    NETS[_name] = Net(_between)
NETS["convolutions"] = Conv()


@pytest.mark.parametrize(
    ("name", "target"), [*((name, "onnx") for name in NETS), ("convolutions", "openvino")]
)
def test_what_a_relu_cuts_off_stays_off(name: str, target: str, tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    shape = (3, 8, 8) if name == "convolutions" else (TOKENS, WIDTH)
    x = np.random.default_rng(0).standard_normal((96, *shape)).astype(np.float32)
    data = from_arrays(calibration=(x[:64], None), test=(x[64:], None), task="embedding")
    made = quantize(
        NETS[name].eval(),
        data,
        method="int8",
        activations="static",
        rounding="nearest",
        bias_correction=False,
    )
    assert made.history[-1].metrics["calibration_sqnr_db"] > 25
    parity = export(made, data, format=target, path=tmp_path, int8_sqnr_db=-100).meta["parity"]
    assert parity["sqnr_db"] > 30
