"""Bagged teachers: the mean answer of students trained on draws with replacement (Breiman 1996)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.data.batch import device_of
from lwplugin.distill import soft
from lwplugin.distill.base import Lesson
from lwplugin.distill.mutual import redrawn
from lwplugin.distill.teacher import as_one
from lwplugin.training.result import TrainResult

if TYPE_CHECKING:
    from lwplugin.data import Data


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train the bag's members on their own draws, then the student on their mean and the teacher's."""
    config = lesson.config
    members: list[Any] = []
    steps = 0
    for number in range(1, config.members + 1):
        seed = config.seed + number
        drawn = draw(lesson.data, seed)
        student = redrawn(lesson.student, config.seed, number).to(device_of(lesson.student))
        alone = lesson.aside(
            f"member {number} of {config.members}",
            student=student,
            data=drawn,
            teacher=lesson.teacher.of(lesson.teacher.module, drawn),
            config=config.model_copy(update={"seed": seed}),
        )
        result, _ = soft.teach(alone)
        steps += result.steps
        members.append(student.eval())
    master = lesson.teacher.of(as_one([lesson.teacher.module, *members], lesson.data), lesson.data)
    result, _ = soft.teach(lesson.aside("the student", teacher=master))
    return replace(result, steps=result.steps + steps), {"members": config.members}


def draw(data: Data, seed: int) -> Data:
    """As many training examples as there are, drawn with replacement."""
    split = data.need("train")
    rows = np.sort(np.random.default_rng(seed).integers(len(split), size=len(split)))
    digest = hashlib.sha256(f"{data.digest}:bag:{seed}".encode()).hexdigest()
    return replace(data, train=split.subset(rows), digest=digest)
