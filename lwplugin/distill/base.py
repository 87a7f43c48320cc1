"""What every distillation shares: student and teacher side by side, the one training loop, the record of it all.

A method only says what the loss is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.distill.config import DistillConfig
from lwplugin.distill.packed_student import packed_again, unpacked
from lwplugin.distill.student import new_student
from lwplugin.distill.teacher import Teacher
from lwplugin.errors import MethodError
from lwplugin.model.forward_error import answer_of
from lwplugin.model.placement import chosen_device
from lwplugin.progress import Progress
from lwplugin.training.collapse import check_agreement
from lwplugin.training.finetune import holding
from lwplugin.training.loop import Loss, train
from lwplugin.training.result import TrainResult

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


_BEHIND = ".parametrizations."
"""In the name of a parameter that stands behind a packed weight."""


@dataclass(frozen=True)
class Lesson:
    """A student that is trained in place, what it learns from, and how."""

    student: nn.Module
    teacher: Teacher
    data: Data
    config: Any
    progress: Progress
    checkpoint: Path | None = None
    label: str = "train"

    def outputs(self, module: nn.Module, batch: Batch) -> Tensor:
        """The student's answers, float [n, …]."""
        return self.data.task.outputs(call(module, batch.inputs)).float()

    def answers(self, batch: Batch) -> Tensor:
        """The teacher's answers, float [n, …]."""
        # The training loop judges calibration examples with the student in evaluation mode.
        return self.teacher(batch, of_training=self.student.training)

    def with_labels(
        self, outputs: Tensor, batch: Batch, followed: Tensor, alpha: float | None = None
    ) -> Tensor:
        """The teacher's part of the loss and the labels' as ``alpha`` says; ``followed`` alone without labels."""
        share, task = self.config.alpha if alpha is None else alpha, self.data.task
        if share == 1 or batch.targets is None:
            return followed
        smoothing = self.config.label_smoothing
        labels = (
            task.smoothed_loss(outputs, batch.targets, smoothing)
            if smoothing
            else task.loss(outputs, batch.targets)
        )
        return share * followed + (1 - share) * labels

    def learn(self, loss: Loss, *, around: nn.Module | None = None) -> TrainResult:
        """Train the student, inside of the module ``around`` it where what helps it learns too."""
        zeros = _zeros(self.student) if self.config.keep_zeros else {}
        with holding(self.student, _put_back(zeros) if zeros else None):
            result = train(
                around or self.student,
                self.data,
                config=self.config,
                loss=loss,
                checkpoint=self.checkpoint,
                progress=self.progress,
                label=self.label,
            )
        self.student.eval()
        return result

    def aside(self, label: str, **changed: Any) -> Lesson:
        """Another lesson beside this one, with a checkpoint of its own."""
        name = label.replace(" ", "-")
        place = self.checkpoint and self.checkpoint.with_name(f"{self.checkpoint.name}-{name}")
        return replace(self, checkpoint=place, label=f"{self.label}, {label}", **changed)

    @property
    def batches(self) -> int:
        """About how many batches the whole training has."""
        config, examples = self.config, len(self.data.need("train"))
        used = min(examples, config.examples_per_epoch or examples)
        return -(-used // config.batch_size) * int(config.epochs)

    def keep_answers(self) -> None:
        """Let the teacher answer once for all epochs, where that pays."""
        self.teacher.keep_answers(self.batches * self.config.batch_size, self.progress)


@dataclass(frozen=True)
class Method:
    """One distillation method: its options and how a lesson is given."""

    name: str
    config: type[DistillConfig]
    teach: Callable[[Lesson], tuple[TrainResult, dict[str, Any]]]
    """Trains the lesson's student in place; returns how it went and what the report shows of it."""
    summary: str

    def run(
        self,
        model: LightModel,
        data: Data,
        teacher: nn.Module,
        config: Any,
        progress: Progress,
        checkpoint: Path | None = None,
        paired: Data | None = None,
    ) -> LightModel:
        """Teach a copy of the student, check it, write it down; a new light model."""
        return run(self, model, data, teacher, config, progress, checkpoint, paired)


def run(
    method: Method,
    model: LightModel,
    data: Data,
    teacher: nn.Module,
    config: DistillConfig,
    progress: Progress,
    checkpoint: Path | None,
    paired: Data | None,
) -> LightModel:
    """The one way every method runs."""
    from lwplugin.model.bundle import HistoryEntry, copy_module

    master = copy_module(teacher)
    if config.student is not None:
        model = new_student(model, config.student, data, master, paired or data, seed=config.seed)
    student = model.copy_module().eval()
    _same_answers(student, master, data, paired or data)
    packed = unpacked(student)
    before = _weights(student)
    folder = checkpoint.parent if checkpoint else None
    guide = Teacher(master, data, chosen_device(config.device), paired=paired, folder=folder)
    lesson = Lesson(student, guide, data, config, progress, checkpoint, f"train by {method.name}")
    result, details = method.teach(lesson)
    moved = _moved(before, student)
    packed_again(student, packed)
    way_out = "train for longer or with another lr, or lower collapse"
    agreement = check_agreement(master, student, data, config.collapse, "Distillation", way_out, paired)
    entry = HistoryEntry(
        step="distill",
        method=method.name,
        config=config.model_dump(mode="json"),
        metrics={
            "steps": float(result.steps),
            "loss": float(result.losses[-1]) if result.losses else 0.0,
            "params": float(_count(student)),
            "teacher_params": float(_count(master)),
            **agreement,
        },
        seed=config.seed,
        details={"layers": moved, "training": result.details(), **details},
    )
    return model.evolve(student, entry)


def need_classes(lesson: Lesson, method: str) -> None:
    """Raises MethodError where the task's outputs are no classes."""
    if not lesson.teacher.logits:
        raise MethodError(
            f"The method '{method}' follows decisions between classes",
            got=f"the task '{lesson.data.task.name}'",
            do="use method 'soft' or 'feature'",
        )


def _same_answers(student: nn.Module, teacher: nn.Module, data: Data, seen: Data) -> None:
    task, pairs = data.task, ((student, data), (teacher, seen))
    given, wanted = (answer_of(module, task, one.example(2)) for module, one in pairs)
    if given.shape != wanted.shape:
        raise MethodError(
            "Student and teacher answer in different shapes",
            got=f"{list(given.shape)} and {list(wanted.shape)} for the same two examples",
            do="give the student the teacher's number of outputs",
        )


def _zeros(module: nn.Module) -> dict[str, Tensor]:
    """Bool masks of zero weights in matrices that hold some; a matrix of zeros only is a fresh start."""
    masks = {
        name: p.detach() == 0
        for name, p in module.named_parameters()
        if p.ndim > 1 and _BEHIND not in name  # a code of zero may become another
    }
    return {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}


def _put_back(zeros: Mapping[str, Tensor]) -> Callable[[nn.Module], None]:
    @torch.no_grad()
    def hold(module: nn.Module) -> None:
        for name, mask in zeros.items():
            weight = module.get_parameter(name)
            weight.masked_fill_(mask.to(weight.device), 0)

    return hold


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().cpu().clone()
        for name, p in module.named_parameters()
        if p.ndim > 1 and p.is_floating_point()
    }


def _moved(before: Mapping[str, Tensor], module: nn.Module) -> list[dict[str, Any]]:
    """How far each weight went, relative to where it began."""
    return [
        {
            "name": name.split(_BEHIND)[0].removesuffix(".weight"),
            "shape": list(start.shape),
            "relative_change": round(
                float((p.detach().cpu() - start).norm() / start.norm().clamp_min(1e-12)), 6
            ),
        }
        for name, p in module.named_parameters()
        if (start := before.get(name)) is not None
    ]


def _count(module: nn.Module) -> int:
    packed = sum(int(getattr(layer, "packed_params", 0)) for layer in module.modules())
    return packed + sum(p.numel() for p in module.parameters())
