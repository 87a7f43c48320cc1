"""How far a module's answers are from the parent's on calibration examples: the label-free score of a candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lwplugin.data.evaluation import predict
from lwplugin.training.finetune import LOGITS, imitation

if TYPE_CHECKING:
    from lwplugin.data import Data


class Divergence:
    """Kullback-Leibler divergence in nats for logits, relative squared error for other outputs; lower is closer.

    The parent is run once.
    """

    def __init__(self, parent: nn.Module, data: Data, examples: int) -> None:
        self._split = data.to_fit().head(examples)
        self._task = data.task
        self._wanted = torch.from_numpy(predict(parent, self._split, data.task))

    def __call__(self, module: nn.Module) -> float:
        """Infinite where the module's outputs are not finite."""
        outputs = torch.from_numpy(predict(module, self._split, self._task))
        if not torch.isfinite(outputs).all():
            return float("inf")
        return float(imitation(outputs, self._wanted, logits=self._task.name in LOGITS, temperature=1.0))


def set_aside(data: Data) -> tuple[Data, Data]:
    """The data without every fourth calibration example, and with those alone: to fit to, and to judge on.

    What was repaired on some examples is nearer to the parent on them than elsewhere, and the more so the more was cut.
    """
    split = data.need("calibration")
    fourth = np.arange(len(split)) % 4 == 3
    if not fourth.any():
        return data, data
    fitted, judged = (split.subset(np.flatnonzero(which)) for which in (~fourth, fourth))
    return replace(data, calibration=fitted), replace(data, calibration=judged)
