"""Who may teach: a file of another framework, several at once, one that sees another modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_nets import drawn
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate, from_arrays
from lwplugin.distill.bagged import draw
from lwplugin.distill.mutual import redrawn
from lwplugin.distill.onnx_teacher import OnnxTeacher
from lwplugin.distill.teacher import Teacher
from lwplugin.errors import DataError, MethodError, ModelError, RecipeError
from lwplugin.training.collapse import agreement_with


@pytest.fixture(scope="module")
def onnx_file(data: Data, teacher: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher")
    return lwplugin.export(teacher, data, format="onnx", path=place / "onnx").file


def test_an_onnx_file_answers_as_the_net_it_was_and_teaches(
    data: Data, teacher: nn.Module, onnx_file: Path
) -> None:
    images = data.example(16)
    with torch.no_grad():
        torch.testing.assert_close(OnnxTeacher(onnx_file)(images), teacher(images), rtol=1e-4, atol=1e-4)
    light = lwplugin.distill(drawn(), data, teacher=onnx_file, epochs=6, lr=1e-2)
    assert agreement_with(teacher, light.module, data) > 0.75  # type: ignore[operator]
    with pytest.raises(MethodError, match="answers and no gradients"):
        lwplugin.distill(drawn(), data, teacher=[teacher, onnx_file], method="gradient")


def test_a_recipe_names_further_teachers(data: Data, teacher: nn.Module, onnx_file: Path) -> None:
    named = ["parent", str(onnx_file)]
    light = lwplugin.distill(drawn(), data, teacher=drawn(5), teachers=named, collapse=0)
    both = lwplugin.distill(drawn(), data, teacher=[drawn(5), teacher], collapse=0)
    assert light.history[-1].config["teachers"] == named
    for one, other in zip(light.module.parameters(), both.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    with pytest.raises(ModelError, match=r"no such teacher.*models:/name@alias"):
        lwplugin.distill(drawn(), data, teacher=teacher, teachers=["parnet"])


def test_answers_are_kept_on_disk_and_found_again(data: Data, teacher: nn.Module, tmp_path: Path) -> None:
    def guide() -> Teacher:
        return Teacher(teacher, data, torch.device("cpu"), folder=tmp_path)

    batch = next(data.need("train").batches(32, seed=3))
    fresh = guide()(batch, of_training=True)
    first, second = guide(), guide()
    first.keep_answers(10**6, lambda *_: None)
    (file,) = tmp_path.iterdir()
    asked: list[Any] = []
    handle = teacher.register_forward_hook(lambda *_: asked.append(len(_[2])))
    second.keep_answers(10**6, lambda *_: None)
    kept = second(batch, of_training=True)
    handle.remove()
    assert asked == [1]  # what one answer looks like
    torch.testing.assert_close(kept, fresh, rtol=1e-4, atol=1e-4)
    assert isinstance(np.load(file, mmap_mode="r"), np.memmap)
    Teacher(drawn(9), data, torch.device("cpu"), folder=tmp_path).keep_answers(10**6, lambda *_: None)
    assert len(list(tmp_path.iterdir())) == 2


def as_frames(data: Data, **changed: Any) -> Data:
    """The digits as eight frames of eight features, without labels: what a recurrent net takes."""
    parts = {
        name: next(data.need(name).batches(len(data.need(name))))  # type: ignore[arg-type]
        for name in ("train", "calibration", "test")
    }
    splits = {name: (part.inputs[:, 0].mT.contiguous(), None) for name, part in parts.items()}  # type: ignore[index]
    splits["test"] = (splits["test"][0], parts["test"].targets)
    return from_arrays(**{**splits, **changed}, task="classification", duplicates="ignore")


def test_a_student_of_another_modality_learns_without_labels(data: Data, teacher: nn.Module) -> None:
    frames = as_frames(data)
    light = lwplugin.distill(
        drawn(), frames, teacher=teacher, paired=data, method="cross_modal", epochs=15, lr=1e-2,
        student={"family": "recurrent", "width": 0.25},
    )  # fmt: skip
    assert light.history[-1].details["pairs"]
    assert light.history[-1].metrics["agreement"] > 0.7
    assert evaluate(light.module, frames.need("test"), frames.task).metrics["accuracy"] > 0.75


def test_modalities_of_other_examples_are_refused(data: Data, teacher: nn.Module) -> None:
    train = next(data.need("train").batches(len(data.need("train"))))
    assert isinstance(train.inputs, torch.Tensor)
    assert train.targets is not None
    swapped = as_frames(data, train=(train.inputs[:, 0], train.targets.roll(1)))
    fewer = as_frames(data, train=(train.inputs[:9, 0], None))
    options = {"teacher": teacher, "paired": data, "method": "cross_modal"}
    with pytest.raises(DataError, match=r"not the same: got \d+ of 1182 labels differ"):
        lwplugin.distill(drawn(), swapped, **options)
    with pytest.raises(DataError, match="not the same: got 9 and 1182 of them"):
        lwplugin.distill(drawn(), fewer, **options)
    with pytest.raises(MethodError, match="needs the examples as the teacher sees them"):
        lwplugin.distill(drawn(), data, teacher=teacher, method="cross_modal")
    with pytest.raises(RecipeError, match="Only 'cross_modal'"):
        lwplugin.distill(drawn(), data, teacher=teacher, paired=data)


@pytest.mark.parametrize("kind", ["mutual", "bagged"])
def test_several_students_leave_one_and_repeat_themselves(kind: str, data: Data, teacher: nn.Module) -> None:
    options = {"teacher": teacher, "method": "bootstrap", "kind": kind, "epochs": 8, "lr": 1e-2}
    light = lwplugin.distill(drawn(), data, **options)  # type: ignore[arg-type]
    again = lwplugin.distill(drawn(), data, **options)  # type: ignore[arg-type]
    assert light.module.state_dict().keys() == drawn().state_dict().keys()
    for one, other in zip(light.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert evaluate(light.module, data.need("test"), data.task).metrics["accuracy"] > 0.7


def test_peers_start_apart_and_a_bag_draws_with_replacement(data: Data) -> None:
    student = drawn()
    twin = redrawn(drawn(1), 0, 1)  # seed 0 and member 1 do not add up to the seed it was drawn with
    assert not torch.equal(twin.get_parameter("0.weight"), drawn(1).get_parameter("0.weight"))
    one, other = redrawn(student, 0, 1), redrawn(student, 0, 2)
    assert not torch.equal(one.get_parameter("0.weight"), other.get_parameter("0.weight"))
    assert torch.equal(redrawn(student, 0, 1).get_parameter("0.weight"), one.get_parameter("0.weight"))
    bag = draw(data, 1)
    assert bag.train is not None
    assert bag.train.index is not None
    seen = len(np.unique(bag.train.index)) / len(bag.train)
    assert 0.6 < seen < 0.67  # 1 − 1/e
    assert bag.digest != draw(data, 2).digest != data.digest


def test_mutual_students_follow_each_other(data: Data, teacher: nn.Module) -> None:
    def apart(alpha: float) -> float:
        light = lwplugin.distill(
            drawn(), data, teacher=teacher, method="bootstrap", kind="mutual", epochs=10, lr=1e-2,
            alpha=alpha, collapse=0,
        )  # fmt: skip
        return float(light.history[-1].details["last_divergence"])

    assert 0 < apart(0.9) < 0.7 * apart(0.0)
