"""Soft labels: the teacher's softened answers (Hinton 2015, 1503.02531)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lwplugin.data.batch import Batch
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.config import SoftConfig
from lwplugin.training.finetune import imitation
from lwplugin.training.result import TrainResult


def answers_loss(lesson: Lesson, outputs: Tensor, batch: Batch, wanted: Tensor | None = None) -> Tensor:
    """Divergence from the teacher's softened classes (relative squared error for other answers), and the labels."""
    wanted = lesson.answers(batch) if wanted is None else wanted
    temperature = lesson.config.temperature
    followed = imitation(outputs, wanted, logits=lesson.teacher.logits, temperature=temperature)
    return lesson.with_labels(outputs, batch, followed)


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on the teacher's answers."""
    lesson.keep_answers()

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return answers_loss(lesson, lesson.outputs(module, batch), batch)

    return lesson.learn(loss), {}


METHOD = Method("soft", SoftConfig, teach, "the teacher's softened answers (Hinton)")
