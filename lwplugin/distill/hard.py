"""Hard labels: the class the teacher decides for (DeiT, 2012.12877)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.data.batch import Batch
from lwplugin.distill.base import Lesson, Method, need_classes
from lwplugin.distill.config import DistillConfig
from lwplugin.training.result import TrainResult


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on the teacher's decisions. Raises MethodError where answers are not classes."""
    need_classes(lesson, "hard")
    lesson.keep_answers()

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        outputs = lesson.outputs(module, batch)
        decided = lesson.answers(batch).argmax(-1)
        followed = F.cross_entropy(outputs.flatten(0, -2), decided.flatten())
        return lesson.with_labels(outputs, batch, followed)

    return lesson.learn(loss), {}


METHOD = Method("hard", DistillConfig, teach, "the class the teacher decides for (DeiT)")
