"""Students learn what their teacher answers, with labels and without, and are written down."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import drawn
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate, from_arrays
from lwplugin.distill.teacher import Teacher, as_one
from lwplugin.errors import MethodError, ModelError, RecipeError
from lwplugin.training.collapse import agreement_with


def unlabelled(data: Data) -> Data:
    train, calibration = (
        next(split.batches(len(split))).inputs for split in (data.need("train"), data.need("calibration"))
    )
    return from_arrays(train=train, calibration=calibration, task="classification", duplicates="ignore")


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_a_student_learns_without_a_single_label(method: str, data: Data, teacher: nn.Module) -> None:
    light = lwplugin.distill(
        drawn(),
        unlabelled(data),
        teacher=teacher,
        method=method,
        epochs=16,
        batch_size=32,
        lr=1e-2,
        keep_best=True,
    )
    assert agreement_with(teacher, light.module, data) > 0.85  # type: ignore[operator]
    assert evaluate(light.module, data.need("test"), data.task).metrics["accuracy"] > 0.8


def test_kept_answers_are_the_answers(data: Data, teacher: nn.Module) -> None:
    guide = Teacher(copied := copy.deepcopy(teacher), data, torch.device("cpu"))
    batch = next(data.need("train").batches(32, seed=3))
    fresh = guide(batch, of_training=True)
    guide.keep_answers(10**6, lambda *_: None)
    asked: list[Any] = []
    handle = copied.register_forward_hook(lambda *_: asked.append(1))
    kept = guide(batch, of_training=True)
    assert asked == []
    of_calibration = next(data.need("calibration").batches(32))
    other = guide(of_calibration, of_training=False)
    handle.remove()
    torch.testing.assert_close(kept, fresh, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(other, teacher(of_calibration.inputs))


def test_several_teachers_are_averaged_as_probabilities(data: Data) -> None:
    two = [drawn(3).eval(), drawn(4).eval()]
    batch = next(data.need("train").batches(8))
    with torch.no_grad():
        expected = (two[0](batch.inputs).softmax(-1) + two[1](batch.inputs).softmax(-1)) / 2
    found = Teacher(as_one(two, data), data, torch.device("cpu"))(batch, of_training=True)
    torch.testing.assert_close(found.softmax(-1), expected)


def test_a_student_of_its_own_factory_reloads_with_the_models_history(
    data: Data, teacher: nn.Module, tmp_path: Path
) -> None:
    student = {"module": "small_nets:net", "args": {"width": 4}}
    parent = lwplugin.distill(drawn(), data, teacher=teacher, collapse=0)
    light = lwplugin.distill(parent, data, teacher=teacher, student=student, collapse=0)
    again = lwplugin.distill(parent, data, teacher=teacher, student=student, collapse=0)
    light.save(tmp_path / "bundle")
    found, images = lwplugin.load(tmp_path / "bundle"), data.example(4)
    with torch.no_grad():
        assert torch.equal(found.module(images), light.module(images))
        assert torch.equal(again.module(images), light.module(images))
    assert found.module.get_parameter("0.weight").shape[0] == 4
    assert [entry.step for entry in found.history] == ["distill", "distill"]
    with pytest.raises(ModelError, match="Factory 'small_nets:nett' cannot be imported"):
        lwplugin.distill(drawn(), data, teacher=teacher, student={"module": "small_nets:nett"})


def test_pruned_single_weights_stay_pruned(data: Data, teacher: nn.Module) -> None:
    student = drawn()
    with torch.no_grad():
        student[3].weight[:, ::2] = 0
    light = lwplugin.distill(student, data, teacher=teacher, epochs=1, collapse=0)
    weight = light.module.get_parameter("3.weight")
    assert torch.equal(weight == 0, student[3].weight == 0)
    filled = lwplugin.distill(student, data, teacher=teacher, epochs=1, collapse=0, keep_zeros=False)
    assert (filled.module.get_parameter("3.weight") != 0).all()


def test_the_arguments_stay_as_they_are(data: Data, teacher: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    lwplugin.distill(teacher, data, teacher=teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_bad_requests_say_what_to_do(data: Data, teacher: nn.Module) -> None:
    with pytest.raises(MethodError, match=r"different shapes.*\[2, 3\] and \[2, 10\]"):
        lwplugin.distill(drawn(classes=3), data, teacher=teacher)
    with pytest.raises(RecipeError, match="did you mean 'soft'"):
        lwplugin.distill(drawn(), data, teacher=teacher, method="sof")
    with pytest.raises(MethodError, match=r"Distillation collapsed.*train for longer"):
        lwplugin.distill(drawn(), data, teacher=teacher, lr=1e-6, collapse=0.99)
    x = torch.rand(64, 1, 8, 8)
    values = from_arrays(train=(x, torch.rand(64, 10)), calibration=x[:16], task="regression")
    with pytest.raises(MethodError, match=r"decisions between classes.*regression"):
        lwplugin.distill(drawn(), values, teacher=teacher, method="hard")


def test_values_are_followed_too(teacher: nn.Module) -> None:
    x = torch.rand(256, 1, 8, 8)
    data = from_arrays(train=x, calibration=x[:64], task="regression", duplicates="ignore")
    light = lwplugin.distill(drawn(), data, teacher=teacher, epochs=20, lr=1e-2, collapse=0)
    assert light.history[-1].metrics["loss"] < 0.3
