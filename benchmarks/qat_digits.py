"""Weights of few bits on the real 8×8 digits: rounded after training, and trained with their steps (`qat`).

    python benchmarks/qat_digits.py --epochs 10

A small residual net, trained in float; activations have 8 bits everywhere. Test accuracy in torch, mean over seeds of
the training.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lwplugin.data import Data, evaluate, load
from lwplugin.quantize import quantize
from lwplugin.training import TrainConfig, train


class Residual(nn.Module):
    """Three convolutions, one addition, a depthwise layer, a pooled head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 64] or [n, 1, 8, 8] → [n, 10]."""
        x = F.relu(self.stem(x.reshape(-1, 1, 8, 8)))
        x = F.relu(x + self.inner(x))
        return self.head(F.relu(self.depthwise(x)).mean((2, 3)))


def accuracy(module: nn.Module, data: Data) -> float:
    return float(evaluate(module, data.need("test"), data.task).metrics["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load({"source": "digits", "calibration": 256}, "classification")
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        net = Residual()
        train(net, data, config=TrainConfig(epochs=20, lr=1e-2, schedule="onecycle", seed=seed))
        net.eval()
        found.setdefault("float", []).append(accuracy(net, data))
        for bits in (8, 4, 3, 2):
            for epochs in (0, options.epochs):
                chosen: dict[str, Any] = {"weight_bits": bits, "finetune_epochs": epochs, "finetune_lr": 2e-3}
                light = quantize(net, data, method="qat", collapse=0.0, seed=seed, **chosen)
                found.setdefault(f"{bits} bits, {epochs} epochs", []).append(accuracy(light.module, data))
    print("| | test accuracy | over seeds |")
    print("|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {np.mean(values):.2%} | {min(values):.2%} to {max(values):.2%} |")


if __name__ == "__main__":
    main()
