"""Dynamic: teacher's mistakes put right, a temperature for each example, a share that changes (1911.07471)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lwplugin.data.batch import Batch
from lwplugin.distill.base import Lesson, Method, need_classes
from lwplugin.distill.config import DistillConfig
from lwplugin.distill.guided import Guided
from lwplugin.training.result import TrainResult


class DynamicConfig(DistillConfig):
    """Options of `dynamic`."""

    alpha: float = Field(0.7, ge=0, le=1, description="Share of the teacher in the loss at the start.")
    alpha_end: float = Field(0.3, ge=0, le=1, description="Share of the teacher at the end; a line between.")
    temperature: float = Field(4.0, ge=1, description="Softens the classes of both at the start.")
    temperature_end: float = Field(2.0, ge=1, description="Temperature at the end; a line between.")
    spread: float = Field(
        1.0,
        ge=0,
        description="How much lower the temperature is for confusing examples; 0 is one for the whole batch.",
    )
    correct: bool = Field(
        True,
        description="Where the teacher is wrong, its logits of the label and of its choice change places.",
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on the teacher's corrected answers. Raises MethodError where answers are not classes."""
    need_classes(lesson, "dynamic")
    lesson.keep_answers()
    config, batches = lesson.config, lesson.batches
    guided = Guided(lesson.student)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        at = guided.done(batches)
        outputs = lesson.outputs(module, batch)
        given, wanted = outputs.flatten(0, -2), lesson.answers(batch).flatten(0, -2)
        if config.correct and batch.targets is not None:
            wanted = corrected(wanted, batch.targets.flatten())
        temperature = temperatures(
            given.detach(), wanted, _between(config.temperature, config.temperature_end, at), config.spread
        )
        followed = divergence(given, wanted, temperature)
        return lesson.with_labels(outputs, batch, followed, _between(config.alpha, config.alpha_end, at))

    return lesson.learn(loss, around=guided), {}


def corrected(wanted: Tensor, labels: Tensor) -> Tensor:
    """Logits [n, classes] with label and choice swapped where they differ; labels [n] below 0 are none."""
    rows = torch.nonzero(labels >= 0).flatten()
    truth, choice = labels[rows], wanted[rows].argmax(-1)
    right = wanted.clone()
    right[rows, truth], right[rows, choice] = wanted[rows, choice], wanted[rows, truth]
    return right


def temperatures(given: Tensor, wanted: Tensor, middle: float, spread: float) -> Tensor:
    """[n], at least 1: lower where student and teacher point in different directions, ``middle`` on average."""
    confusion = 1 - F.cosine_similarity(given, wanted, dim=-1)
    return (middle + spread * (confusion.mean() - confusion)).clamp_min(1.0)


def divergence(given: Tensor, wanted: Tensor, temperature: Tensor) -> Tensor:
    """Mean over examples of their Kullback-Leibler divergence, each at its own temperature [n]."""
    by_row = temperature[:, None]
    apart = F.kl_div(
        F.log_softmax(given / by_row, -1),
        F.log_softmax(wanted / by_row, -1),
        log_target=True,
        reduction="none",
    )
    return (apart.sum(-1) * temperature.square()).mean()


def _between(start: float, end: float, at: float) -> float:
    return start + (end - start) * at


METHOD = Method("dynamic", DynamicConfig, teach, "temperature by example, share and temperature that change")
