"""Options of distillation: the training loop's own, and who follows whom how closely."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.training.config import TrainConfig


class Student(BaseModel):
    """A model of its own to teach, in place of the one that was handed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str = Field(
        description="`package.module:function` that builds it, importable wherever it is loaded."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Its arguments, plain JSON.")


class DistillConfig(TrainConfig):
    """Options of every distillation method: those of the training loop, and these."""

    epochs: int = Field(1, ge=1, description="Passes over the training split.")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the teacher in the loss, labels get the rest; 1 without labels.",
    )
    student: Student | None = Field(
        None,
        description="Model to teach in place of the given one, as `{module: 'pkg.module:function', args: {}}`.",
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
