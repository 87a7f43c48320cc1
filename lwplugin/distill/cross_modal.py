"""Cross-modal: the teacher sees the same examples in another modality (supervision transfer, 1507.00448)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from lwplugin.data.spec import DataSpec
from lwplugin.distill import feature
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.feature import FeatureConfig
from lwplugin.errors import DataError, MethodError
from lwplugin.training.result import TrainResult

if TYPE_CHECKING:
    from lwplugin.data import Data


class CrossModalConfig(FeatureConfig):
    """Options of `cross_modal`."""

    kind: Literal["hint", "attention"] = Field(
        "hint",
        description="hint: the teacher's values, through a learned projection. attention: where it looks.",
    )
    teacher_data: DataSpec | None = Field(
        None,
        description="Data block with the teacher's modality: the same examples in the same order and splits.",
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on the answers and one inner representation of a teacher of another modality.

    Layers are paired as by `feature`; where nothing has the same resolution, the last maps or sequences of both
    are paired by their means over all positions, and where there are none, answers alone are followed.

    Raises MethodError where the teacher's examples are not given.
    """
    if lesson.teacher.paired is None:
        raise MethodError(
            "The method 'cross_modal' needs the examples as the teacher sees them",
            do="give them as teacher_data (a data block) or paired= (in Python)",
        )
    return feature.follow(lesson, anywhere=True)


def check_paired(data: Data, paired: Data) -> None:
    """Raises DataError unless both hold the same examples, as far as numbers and labels tell."""
    for name in ("train", "calibration"):
        mine, theirs = (getattr(one, name) for one in (data, paired))
        if mine is None:
            continue
        if theirs is None or len(mine) != len(theirs):
            raise DataError(
                f"The {name} examples of the two modalities are not the same",
                got=f"{len(mine)} and {0 if theirs is None else len(theirs)} of them",
                do="give both sources the same examples in the same order, with the same seed and splits",
            )
        labels = mine.targets(), theirs.targets()
        if labels[0] is not None and labels[1] is not None and not np.array_equal(*labels):
            apart = int((labels[0] != labels[1]).sum())
            raise DataError(
                f"The {name} examples of the two modalities are not the same",
                got=f"{apart} of {len(mine)} labels differ",
                do="give both sources the same examples in the same order",
            )


METHOD = Method(
    "cross_modal", CrossModalConfig, teach, "a teacher that sees another modality of the same examples"
)
