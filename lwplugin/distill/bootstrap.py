"""Bootstrap: several students instead of one. Generations (born-again networks, 1805.04770), peers, or a bag."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from lwplugin.distill import bagged, mutual, soft
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.config import SoftConfig
from lwplugin.distill.teacher import as_one
from lwplugin.training.result import TrainResult


class BootstrapConfig(SoftConfig):
    """Options of `bootstrap`."""

    kind: Literal["generations", "mutual", "bagged"] = Field(
        "generations",
        description="generations: each taught by the one before. mutual: students that learn side by side and "
        "follow each other. bagged: the mean of students trained on draws with replacement.",
    )
    generations: int = Field(2, ge=2, description="Students, each from the same start; each costs `epochs`.")
    average: bool = Field(
        False,
        description="The last student learns from the mean answer of the teacher and all students before it, "
        "not from the one before alone.",
    )
    members: int = Field(
        2, ge=2, description="Students of mutual, the one that stays among them; members of the bag."
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train several students; one stays."""
    kinds = {"generations": generations, "mutual": mutual.teach, "bagged": bagged.teach}
    return kinds[lesson.config.kind](lesson)


def generations(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train one student after another, every one from the weights the lesson began with; the last stays."""
    config: BootstrapConfig = lesson.config
    start = copy.deepcopy(lesson.student.state_dict())
    masters = [lesson.teacher.module]
    results: list[TrainResult] = []
    for generation in range(1, config.generations + 1):
        last = generation == config.generations
        lesson.student.load_state_dict(start)
        master = as_one(masters if last and config.average else masters[-1:], lesson.data)
        given = lesson.aside(
            f"generation {generation} of {config.generations}",
            teacher=lesson.teacher.of(master, lesson.data),
            config=config.model_copy(update={"seed": config.seed + generation - 1}),
        )
        result, _ = soft.teach(given)
        results.append(result)
        masters.append(copy.deepcopy(lesson.student))
    told = [{"generation": n, "final_loss": r.losses[-1]} for n, r in enumerate(results, start=1)]
    return replace(result, steps=sum(r.steps for r in results)), {"generations": told}


METHOD = Method("bootstrap", BootstrapConfig, teach, "several students: generations, mutual learning, a bag")
