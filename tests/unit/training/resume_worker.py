"""Trains a small network with dropout and batch norm on digits; run as a process that a test kills."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from lwplugin.data import load
from lwplugin.training import TrainConfig, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(576, 10)
    )
    config = TrainConfig(epochs=6, batch_size=16, lr=3e-3, checkpoint_every_steps=9, keep_best=True)
    train(module, load("digits"), config=config, checkpoint=Path(sys.argv[1]))
    torch.save(module.state_dict(), sys.argv[2])
