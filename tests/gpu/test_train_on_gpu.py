"""The training loop on a GPU: number formats, accumulation, resuming, the same seed twice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_notes import Saw
from torch import nn

from lwplugin.data import Data, evaluate, load
from lwplugin.training import TrainConfig, train


@pytest.fixture(scope="module")
def data() -> Data:
    return load({"source": "digits", "calibration": 256}, "classification")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10)
    )


@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_every_number_format_learns(data: Data, precision: Any, saw: Saw) -> None:
    module = net()
    config = TrainConfig(epochs=6, lr=5e-3, device="cuda", mixed_precision=precision)
    result = train(module, data, config=config)
    accuracy = evaluate(module, data.need("test"), data.task).metrics["accuracy"]
    saw(f"training in {precision}", f"accuracy {accuracy:.3f}, last loss {result.losses[-1]:.6f}")
    assert accuracy > 0.93
    assert next(module.parameters()).device.type == "cpu"


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(data: Data, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, lr=1e-2, device="cuda", mixed_precision="off", checkpoint_every_steps=5)
    whole, cut = net(), net()
    expected = train(whole, data, config=config)

    class StopError(Exception):
        pass

    def stop(label: str, done: int, total: int | None) -> None:
        if done == 23:
            raise StopError

    with pytest.raises(StopError):
        train(copy.deepcopy(cut), data, config=config, checkpoint=tmp_path / "state", progress=stop)
    assert (tmp_path / "state").exists()
    resumed = train(cut, data, config=config, checkpoint=tmp_path / "state")
    assert resumed.losses[-1] == pytest.approx(expected.losses[-1], rel=1e-3)
    for name, tensor in cut.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-3, atol=1e-4)
