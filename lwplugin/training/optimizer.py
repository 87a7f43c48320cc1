"""The optimizer of a config."""

from __future__ import annotations

import torch
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.training.config import TrainConfig


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over all parameters that require gradients; one-dimensional ones without weight decay.

    Raises MethodError where nothing can be trained.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise MethodError(
            "The model has no trainable parameter",
            got=f"{sum(1 for _ in module.parameters())} frozen ones",
            do="call requires_grad_(True) on what should learn",
        )
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all parameters instead of a Python loop over them.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
