"""The distill step: student and teacher come in as bundles, in a recipe the teacher is the pulled parent."""

from __future__ import annotations

from pathlib import Path

import torch
from lwplugin.components import step_named
from lwplugin.components.step import Artifact, execute
from torch import nn

import lwplugin
from lwplugin.artifact import Store


def bundle(seed: int, place: Path) -> Artifact:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    lwplugin.light(module).save(place / "bundle")
    return Artifact.of(place)


def test_a_student_is_trained_towards_the_other_bundle(tmp_path: Path) -> None:
    student, teacher = bundle(0, tmp_path / "student"), bundle(1, tmp_path / "teacher")
    step = step_named("distill")
    config = step.config.model_validate(
        {
            "method": "soft",
            "options": {"epochs": 20, "lr": 0.01, "alpha": 1.0, "collapse": 0.0},
            "data": {"source": "digits"},
            "task": "classification",
        }
    )
    store = Store(tmp_path / "store")
    inputs = {"bundle": student, "teacher": teacher}
    made = execute(step, config, inputs, store)
    light = lwplugin.load(made.path / "bundle")
    assert light.history[-1].metrics["agreement"] > 0.8
    assert execute(step, config, inputs, store).hit
    assert not execute(step, config, {"bundle": student, "teacher": student}, store).hit
