"""The one training loop of the product: fine-tuning, distillation, repair all run on it.

Names are imported on first use: reading a ``TrainConfig`` out of a recipe imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.training.config import TrainConfig as TrainConfig
    from lwplugin.training.loop import Loss as Loss
    from lwplugin.training.loop import train as train
    from lwplugin.training.recalibrate import recalibrate_batchnorm as recalibrate_batchnorm
    from lwplugin.training.result import TrainResult as TrainResult

_HOME_OF = {
    "Loss": "loop",
    "TrainConfig": "config",
    "TrainResult": "result",
    "recalibrate_batchnorm": "recalibrate",
    "train": "loop",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lwplugin.training' has no attribute '{name}'")
    value = getattr(import_module(f"lwplugin.training.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
