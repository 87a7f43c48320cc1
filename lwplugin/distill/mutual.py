"""Mutual learning: students that start apart, learn side by side and follow each other (1706.00384)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwplugin.data.batch import Batch, device_of
from lwplugin.distill.base import Lesson
from lwplugin.distill.guided import Guided
from lwplugin.training.finetune import imitation
from lwplugin.training.randomness import epoch_seed, own_randomness
from lwplugin.training.result import TrainResult


def redrawn(module: nn.Module, seed: int, member: int) -> nn.Module:
    """A copy whose layers draw their weights anew; what has no way to do so stays as it is."""
    made = copy.deepcopy(module)
    # Not the plain sum: the student itself may have been drawn with that seed, and would meet its twin.
    with own_randomness(epoch_seed(seed, member), torch.device("cpu")):
        for layer in made.modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if parametrize.is_parametrized(layer, "weight"):
                layer.weight = torch.randn_like(layer.weight) * layer.weight.std()
            elif callable(reset):
                reset()
    return made


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train the lesson's student and its peers in one loop; the student stays, the peers go.

    Each follows the mean divergence from every other and from the teacher, which takes the share `alpha`.
    """
    lesson.keep_answers()
    config = lesson.config
    home = device_of(lesson.student)
    peers = {str(n): redrawn(lesson.student, config.seed, n).to(home) for n in range(1, config.members)}
    around = Guided(lesson.student, peers)
    spread: list[float] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        taught = lesson.answers(batch)
        group = [lesson.outputs(one, batch) for one in (module, *around.adapters)]
        total = torch.zeros((), device=taught.device)
        for place, outputs in enumerate(group):
            others = [other.detach() for at, other in enumerate(group) if at != place]
            apart = [_apart(lesson, outputs, other) for other in (*others, taught)]
            total = total + lesson.with_labels(outputs, batch, torch.stack(apart).mean())
        spread[:] = [float(_apart(lesson, group[0].detach(), group[1].detach()))]
        return total / len(group)

    result = lesson.learn(loss, around=around)
    return result, {"peers": config.members, "last_divergence": spread[0] if spread else None}


def _apart(lesson: Lesson, given: Tensor, wanted: Tensor) -> Tensor:
    return imitation(given, wanted, logits=lesson.teacher.logits, temperature=lesson.config.temperature)
