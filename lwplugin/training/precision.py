"""Which number format a training runs in."""

from __future__ import annotations

import torch

from lwplugin.errors import MethodError
from lwplugin.training.config import TrainConfig


def choose_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The autocast type, None for full precision. Raises MethodError for fp16 on a CPU."""
    if config.mixed_precision == "off":
        return None
    if config.mixed_precision == "bf16":
        return torch.bfloat16
    if config.mixed_precision == "fp16":
        if device.type != "cuda":
            raise MethodError("fp16 training needs a GPU", got=f"device {device}", do="use 'auto' or 'bf16'")
        return torch.float16
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
