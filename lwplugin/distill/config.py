"""Options of distillation: the training loop's own, and who follows whom how closely."""

from __future__ import annotations

from pydantic import Field

from lwplugin.distill.student import Student
from lwplugin.training.config import TrainConfig


class DistillConfig(TrainConfig):
    """Options of every distillation method: those of the training loop, and these."""

    epochs: int = Field(1, ge=1, description="Passes over the training split.")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the teacher in the loss, labels get the rest; 1 without labels.",
    )
    teachers: tuple[str, ...] = Field(
        ("parent",),
        min_length=1,
        description="Who teaches: `parent`, a registered version (`models:/name@alias`), an .onnx file, a bundle's "
        "directory. Several are averaged, classes as probabilities.",
    )
    student: Student | None = Field(
        None,
        description="Model to teach in place of the given one: a family's name, `{family: mobilenet_v2, "
        "width: 0.5}`, a `budget` in place of the width, or `{module: 'pkg.module:function', args: {}}`.",
    )
    keep_zeros: bool = Field(
        True, description="Single weights that are exactly zero (unstructured pruning) stay zero."
    )
    collapse: float = Field(
        0.2, ge=0, le=1, description="Least share of calibration answers that must agree with the teacher's."
    )


class SoftConfig(DistillConfig):
    """Options of methods that follow softened answers."""

    temperature: float = Field(
        2.0, gt=0, description="Softens the classes of both; unused where answers are not classes."
    )
