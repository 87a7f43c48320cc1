"""The one training loop of the product: fine-tuning, distillation, repair all run on it.

Names are imported on first use: reading a ``TrainConfig`` out of a recipe imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.training.config import TrainConfig as TrainConfig
    from lwplugin.training.loop import Loss as Loss
    from lwplugin.training.loop import train as train
    from lwplugin.training.recalibrate import recalibrate_batchnorm as recalibrate_batchnorm
    from lwplugin.training.result import TrainResult as TrainResult

__getattr__, __all__ = lazily(
    __name__,
    {
        "loop": "Loss train",
        "config": "TrainConfig",
        "result": "TrainResult",
        "recalibrate": "recalibrate_batchnorm",
    },
)
