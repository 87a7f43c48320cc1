"""A small student from a big teacher: one training loop, the methods differ in what the student follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.distill import bootstrap, dynamic, feature, gradient, hard, soft
from lwplugin.distill.base import Method
from lwplugin.distill.config import DistillConfig
from lwplugin.methods import configure, named
from lwplugin.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

METHODS: dict[str, Method] = {
    m.METHOD.name: m.METHOD for m in (soft, hard, feature, dynamic, gradient, bootstrap)
}

__all__ = ["METHODS", "DistillConfig", "Method", "distill"]


def distill(
    model: nn.Module | LightModel,
    data: Data,
    *,
    teacher: nn.Module | LightModel,
    method: str = "soft",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    **options: Any,
) -> LightModel:
    """Train a student towards a teacher; returns a new light model and leaves both arguments untouched.

    Labels are used where the training split has them; without any the student follows the teacher alone.

    Args:
        model: the student, which may be pruned or factorized before; the option ``student`` builds another.
        teacher: takes the same inputs and answers in the same shape; in a recipe, the parent as it was pulled.
        method: one of ``METHODS``.
        checkpoint: file in which the training keeps its state, to go on from after a crash.
        options: the method's options; all of the training loop's (``epochs``, ``lr``, …) are among them.

    Raises:
        RecipeError: an unknown method or option.
        MethodError: answers of different shapes, answers the method cannot follow, or a student that collapsed.
        DataError: no training examples.
    """
    from lwplugin.model.bundle import LightModel, light
    from lwplugin.model.placement import computed

    chosen = named(METHODS, method, of="distillation")
    config = configure(chosen, options)
    guide = teacher.module if isinstance(teacher, LightModel) else teacher
    source = light(model)
    return computed(lambda: chosen.run(source, data, guide, config, progress, checkpoint), source, guide)
