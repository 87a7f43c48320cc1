"""Gradients: the teacher's answers and how they change with the inputs (1803.00443; Sobolev, 1706.04859)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lwplugin.data.batch import Batch, call, map_inputs, tensors
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.config import SoftConfig
from lwplugin.distill.onnx_teacher import OnnxTeacher
from lwplugin.distill.soft import answers_loss
from lwplugin.errors import MethodError
from lwplugin.training.result import TrainResult


class GradientConfig(SoftConfig):
    """Options of `gradient`."""

    weight: float = Field(
        0.5, gt=0, description="Weight of the gradients' distance beside the answers' loss."
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on answers and on their derivatives by the inputs; two and a half times the time of `soft` on a small net.

    Matched is one row of the Jacobian, as the whole would cost a pass per output: the teacher's class, or
    a direction drawn anew for each batch where answers are not classes. Raises MethodError for inputs that
    have no derivative (token ids).
    """
    if not any(tensor.is_floating_point() for tensor in tensors(lesson.data.example(1)).values()):
        raise MethodError(
            "The method 'gradient' needs inputs that have a derivative",
            got=", ".join(f"{n}: {t.dtype}" for n, t in tensors(lesson.data.example(1)).items()),
            do="use method 'soft' or 'feature' for models of token ids",
        )
    if any(isinstance(part, OnnxTeacher) for part in lesson.teacher.module.modules()):
        raise MethodError(
            "An ONNX file gives answers and no gradients",
            got="method 'gradient'",
            do="use method 'soft', 'hard' or 'dynamic' with it",
        )
    lesson.keep_answers()

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        # Also where the loss is only looked at, on calibration examples.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            inputs = map_inputs(batch.inputs, _leaf)
            outputs = lesson.data.task.outputs(call(module, inputs)).float()
            mine = Batch(inputs, batch.targets, batch.ids)
            answers = answers_loss(lesson, outputs, mine)
            direction = _direction(lesson, batch)
            given = _derivatives((outputs * direction).sum(), inputs, keep=True)
            theirs = map_inputs(batch.inputs, _leaf)
            wanted = lesson.data.task.outputs(call(lesson.teacher.module, theirs)).float()
            target = _derivatives((wanted * direction).sum(), theirs, keep=False)
            apart = [distance(a, b) for a, b in zip(given, target, strict=True)]
            return answers + lesson.config.weight * torch.stack(apart).mean()

    return lesson.learn(loss), {}


def distance(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean over examples of the squared distance of gradients of length 1: from 0 to 4."""
    a, b = (nn.functional.normalize(g.flatten(1), dim=1, eps=1e-12) for g in (given, wanted))
    return (a - b).square().sum(1).mean()


def _direction(lesson: Lesson, batch: Batch) -> Tensor:
    wanted = lesson.answers(batch)
    if lesson.teacher.logits:
        return torch.zeros_like(wanted).scatter_(-1, wanted.argmax(-1, keepdim=True), 1.0)
    return torch.randn_like(wanted)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor


def _derivatives(value: Tensor, inputs: Any, *, keep: bool) -> list[Tensor]:
    leaves = [tensor for tensor in tensors(inputs).values() if tensor.requires_grad]
    found = torch.autograd.grad(value, leaves, create_graph=keep, materialize_grads=True)
    return list(found)


METHOD = Method(
    "gradient", GradientConfig, teach, "answers and their gradients by the inputs (Jacobian matching)"
)
