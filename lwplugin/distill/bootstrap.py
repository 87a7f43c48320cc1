"""Bootstrap: generations of students, each taught by the one before (born-again networks, 1805.04770)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from pydantic import Field

from lwplugin.distill import soft
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.config import SoftConfig
from lwplugin.distill.teacher import Teacher
from lwplugin.training.result import TrainResult


class BootstrapConfig(SoftConfig):
    """Options of `bootstrap`."""

    generations: int = Field(2, ge=2, description="Students, each from the same start; each costs `epochs`.")
    average: bool = Field(
        False,
        description="The last student learns from the mean answer of the teacher and all students before it, "
        "not from the one before alone.",
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train one student after another, every one from the weights the lesson began with; the last stays."""
    config: BootstrapConfig = lesson.config
    start = copy.deepcopy(lesson.student.state_dict())
    masters = [lesson.teacher.module]
    results: list[TrainResult] = []
    for generation in range(1, config.generations + 1):
        last = generation == config.generations
        lesson.student.load_state_dict(start)
        given = replace(
            lesson,
            teacher=Teacher(
                masters if last and config.average else masters[-1:], lesson.data, lesson.teacher.device
            ),
            config=config.model_copy(update={"seed": config.seed + generation - 1}),
            checkpoint=lesson.checkpoint
            and lesson.checkpoint.with_name(f"{lesson.checkpoint.name}-{generation}"),
            label=f"{lesson.label}, generation {generation} of {config.generations}",
        )
        result, _ = soft.teach(given)
        results.append(result)
        masters.append(copy.deepcopy(lesson.student))
    generations = [{"generation": n, "final_loss": r.losses[-1]} for n, r in enumerate(results, start=1)]
    return replace(result, steps=sum(r.steps for r in results)), {"generations": generations}


METHOD = Method("bootstrap", BootstrapConfig, teach, "generations of students, each taught by the one before")
