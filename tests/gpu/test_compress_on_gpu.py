"""Every method computes on the GPU, comes home, and makes as good a model as on the CPU."""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_notes import Saw
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate, load
from lwplugin.model.bundle import LightModel
from lwplugin.training import TrainConfig, train

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
import networks

METHODS: list[tuple[str, str, dict[str, Any]]] = [
    ("prune", "reconstruct", {"macs": 0.5}),
    ("prune", "reconstruct", {"macs": 0.5, "finetune_epochs": 2}),
    ("prune", "taylor", {"macs": 0.5}),
    ("prune", "magnitude", {"macs": 0.6}),
    ("prune", "magnitude", {"granularity": "2:4"}),
    ("prune", "activation", {"macs": 0.5}),
    ("prune", "attention", {"macs": 0.6}),
    ("prune", "layer", {"macs": 0.6}),
    ("prune", "hybrid", {"macs": 0.5, "splits": 3}),
    ("prune", "iterative", {"macs": 0.6, "rounds": 2}),
    ("prune", "search", {"macs": 0.6, "evaluations": 8, "population": 4}),
    ("prune", "adversarial", {"macs": 0.6, "mask_steps": 20}),
    ("factorize", "svd", {"params": 0.5}),
    ("factorize", "pca", {"params": 0.5}),
    ("factorize", "tucker", {"params": 0.5}),
    ("distill", "soft", {"epochs": 2}),
    ("distill", "hard", {"epochs": 2}),
    ("distill", "feature", {"epochs": 2}),
    ("distill", "dynamic", {"epochs": 2}),
    ("distill", "gradient", {"epochs": 2}),
    ("distill", "bootstrap", {"epochs": 1}),
    ("quantize", "int8", {}),
    ("quantize", "int8", {"rounding": "compensated"}),
    ("quantize", "weight_only", {"bits": 4, "group_size": 16}),
    ("quantize", "codebook", {"bits": 4, "finetune_epochs": 1}),
    ("quantize", "binary", {"finetune_epochs": 3, "finetune_lr": 5e-3}),
    ("quantize", "binary_learned", {"finetune_epochs": 3, "finetune_lr": 5e-3}),
    ("quantize", "half", {}),
]


@cache
def digits() -> Data:
    return load({"source": "digits", "calibration": 256}, "classification")


@cache
def parent() -> LightModel:
    torch.manual_seed(0)
    net = networks.Blocks()
    train(net, digits(), config=TrainConfig(epochs=15, lr=1e-2, schedule="onecycle", device="cpu"))
    return lwplugin.light(net.eval(), origin=lwplugin.FactoryOrigin("networks:Blocks", {}))


def accuracy(module: nn.Module) -> float:
    return evaluate(module, digits().need("test"), digits().task).metrics["accuracy"]


@pytest.mark.parametrize(
    ("family", "method", "options"), METHODS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_gpu_makes_as_good_a_model(
    family: str,
    method: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saw: Saw,
) -> None:
    teacher = {"teacher": parent()} if family == "distill" else {}
    found, took_s = {}, {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("LWPLUGIN_DEVICE", device)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        began = time.perf_counter()
        light = getattr(lwplugin, family)(parent(), digits(), method=method, **options, **teacher)
        took_s[device] = time.perf_counter() - began
        found[device] = accuracy(light.module)
        if device == "cuda":
            assert torch.cuda.max_memory_allocated() > held, "nothing was computed on the GPU"
    assert {tensor.device.type for tensor in light.module.state_dict().values()} == {"cpu"}
    assert {tensor.device.type for tensor in parent().module.state_dict().values()} == {"cpu"}
    light.save(tmp_path / "bundle")
    assert accuracy(lwplugin.load(tmp_path / "bundle").module) == found["cuda"]
    saw(
        f"{family} {method} {options or ''}",
        f"accuracy {found['cuda']:.3f}, on the CPU {found['cpu']:.3f}; {took_s['cuda']:.1f} s, {took_s['cpu']:.1f} s",
    )
    assert found["cuda"] > found["cpu"] - 0.06
