"""A small student from a big teacher: one training loop, the methods differ in what the student follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.distill import bootstrap, cross_modal, dynamic, feature, gradient, hard, soft
from lwplugin.distill.base import Method
from lwplugin.distill.config import DistillConfig
from lwplugin.distill.references import Reference, open_all
from lwplugin.distill.teacher import as_one
from lwplugin.errors import RecipeError
from lwplugin.methods import configure, named, need_data
from lwplugin.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

METHODS: dict[str, Method] = {
    m.METHOD.name: m.METHOD for m in (soft, hard, feature, dynamic, gradient, bootstrap, cross_modal)
}

__all__ = ["METHODS", "DistillConfig", "Method", "distill"]


def distill(
    model: nn.Module | LightModel,
    data: Data,
    *,
    teacher: Reference | Sequence[Reference],
    method: str = "soft",
    paired: Data | None = None,
    tracking_uri: str | None = None,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    **options: Any,
) -> LightModel:
    """Train a student towards a teacher; returns a new light model and leaves both arguments untouched.

    Labels are used where the training split has them; without any the student follows the teacher alone.

    Args:
        model: the student, which may be pruned or factorized before; the option ``student`` builds another.
        teacher: answers in the same shape; in a recipe, the parent as it was pulled. Also the path of an ONNX
            file or a bundle, `models:/name@alias`, or a list of teachers, whose answers are averaged.
        method: one of ``METHODS``.
        paired: for `cross_modal`, the same examples as the teacher takes them.
        tracking_uri: where `models:/…` lie; default: MLflow's own MLFLOW_TRACKING_URI.
        checkpoint: file in which the training keeps its state, to go on from after a crash; the teacher's answers
            lie beside it.
        options: the method's options; all of the training loop's (``epochs``, ``lr``, …) are among them.

    Raises:
        RecipeError: an unknown method or option.
        MethodError: answers of different shapes, answers the method cannot follow, or a student that collapsed.
        DataError: no training examples.
    """
    from lwplugin.model.bundle import light
    from lwplugin.model.placement import computed

    need_data(data)
    chosen = named(METHODS, method, of="distillation")
    config = configure(chosen, options)
    source = light(model)
    modules = open_all(teacher, config.teachers, tracking_uri=tracking_uri, progress=progress)
    guide = as_one(modules, data)
    paired = _paired(data, config, paired)

    def run() -> LightModel:
        return chosen.run(source, data, guide, config, progress, checkpoint, paired)

    return computed(run, source, data, *modules)


def _paired(data: Data, config: DistillConfig, given: Data | None) -> Data | None:
    if not isinstance(config, cross_modal.CrossModalConfig):
        if given is not None:
            raise RecipeError("Only 'cross_modal' has paired examples", do="choose it, or leave paired out")
        return None
    if given is None and config.teacher_data is not None:
        from lwplugin.data import load

        given = load(config.teacher_data, data.task)
    if given is not None:
        cross_modal.check_paired(data, given)
    return given
