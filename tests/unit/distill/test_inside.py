"""What feature, dynamic, gradient and bootstrap follow besides the answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_nets import drawn
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.data.batch import call
from lwplugin.distill.dynamic import corrected, divergence, temperatures
from lwplugin.distill.feature import attention_map, hint
from lwplugin.distill.gradient import distance
from lwplugin.distill.matching import features, match
from lwplugin.errors import MethodError
from lwplugin.training.finetune import imitation


def attention_distance(student: nn.Module, guide: nn.Module, images: torch.Tensor) -> float:
    """At the last map before the pool."""
    with torch.no_grad():
        given, wanted = (attention_map(module.eval()[:4](images)) for module in (student, guide))  # type: ignore[index]
    return float((given - wanted).square().sum(1).mean())


def test_attention_brings_maps_together_that_soft_labels_leave_apart(data: Data, teacher: nn.Module) -> None:
    images = next(data.need("test").batches(256)).inputs
    assert isinstance(images, torch.Tensor)
    options = {"teacher": teacher, "epochs": 4, "lr": 1e-2, "collapse": 0}
    soft = lwplugin.distill(drawn(), data, **options)  # type: ignore[arg-type]
    options["pairs"] = {"3": "3"}
    followed = lwplugin.distill(drawn(), data, method="feature", weight=10.0, **options)  # type: ignore[arg-type]
    assert followed.history[-1].details["pairs"] == {"3": "3"}
    near, far = (attention_distance(light.module, teacher, images) for light in (followed, soft))
    assert near < 0.6 * far


def test_hints_project_a_narrow_student_and_leave_no_trace_in_it(
    data: Data,
    teacher: nn.Module,
    tmp_path: Path,
) -> None:
    student = drawn()
    light = lwplugin.distill(student, data, teacher=teacher, method="feature", kind="hint", collapse=0)
    assert light.module.state_dict().keys() == student.state_dict().keys()
    light.save(tmp_path / "bundle")


def test_layers_match_by_name_at_each_resolution_or_by_the_last() -> None:
    images = torch.rand(2, 1, 8, 8)
    mine = features(drawn(), images)
    assert match(mine, features(drawn(width=16), images)) == {"2": "2", "4": "4"}
    deeper = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()
    )
    assert match(mine, features(deeper, images)) == {"2": "1", "4": "3"}


def test_blocks_of_transformers_are_spread_evenly() -> None:
    def stack(layers: int, width: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    pairs = match(features(stack(2, 8), torch.rand(2, 5, 8)), features(stack(6, 8), torch.rand(2, 5, 8)))
    assert pairs == {"layers.0": "layers.2", "layers.1": "layers.5"}


def test_pairs_that_cannot_be_are_refused(data: Data, teacher: nn.Module) -> None:
    for pairs, message in (
        ({"33": "3"}, "student has no layer.*'33'"),
        ({"0": "3"}, r"different resolutions.*8, 8\] and .*4, 4\]"),
    ):
        with pytest.raises(MethodError, match=message):
            lwplugin.distill(drawn(), data, teacher=teacher, method="feature", pairs=pairs)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(MethodError, match="No layers of student and teacher match"):
        lwplugin.distill(flat, data, teacher=teacher, method="feature")


def test_a_wrong_teacher_is_corrected_and_a_right_one_is_not() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 1.0], [2.0, 0.0, 1.0]])
    found = corrected(logits, torch.tensor([1, 1, -100]))
    assert found.tolist() == [[1.0, 3.0, 0.0], [0.0, 5.0, 1.0], [2.0, 0.0, 1.0]]


def test_confusing_examples_get_lower_temperatures_of_the_same_mean() -> None:
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    given = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    easy, hard = temperatures(given, wanted, 4.0, 1.0).tolist()
    assert (easy, hard) == (5.0, 3.0)
    same = torch.full((2,), 2.0)
    assert divergence(given, wanted, same).item() == pytest.approx(
        imitation(given, wanted, logits=True, temperature=2.0).item(), rel=1e-5
    )


def test_gradients_get_closer_to_the_teachers(data: Data, teacher: nn.Module) -> None:
    def apart(module: nn.Module) -> float:
        found = []
        for one in (module, teacher):
            images = next(data.need("test").batches(256)).inputs.clone().requires_grad_()  # type: ignore[union-attr]
            target = teacher(images).argmax(1, keepdim=True)
            found.append(torch.autograd.grad(call(one.eval(), images).gather(1, target).sum(), images)[0])
        return float(distance(found[0], found[1]))

    options = {"teacher": teacher, "epochs": 4, "lr": 1e-2, "collapse": 0}
    soft = lwplugin.distill(drawn(), data, **options)  # type: ignore[arg-type]
    followed = lwplugin.distill(drawn(), data, method="gradient", weight=5.0, **options)  # type: ignore[arg-type]
    assert apart(followed.module) < 0.8 * apart(soft.module)


def test_token_ids_have_no_gradient(data: Data) -> None:
    ids = torch.randint(0, 9, (64, 6))
    tokens = from_arrays(train=ids, calibration=ids[:32], task="classification", duplicates="ignore")
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(MethodError, match="token ids"):
        lwplugin.distill(module, tokens, teacher=module, method="gradient")


def test_generations_begin_anew_and_are_written_down(data: Data, teacher: nn.Module) -> None:
    light = lwplugin.distill(
        drawn(), data, teacher=teacher, method="bootstrap", generations=3, average=True, collapse=0, lr=1e-2
    )
    found = light.history[-1].details["generations"]
    assert [one["generation"] for one in found] == [1, 2, 3]
    assert all(math.isfinite(one["final_loss"]) for one in found)
    alone = lwplugin.distill(drawn(), data, teacher=teacher, method="soft", epochs=3, lr=1e-2, collapse=0)
    steps = alone.history[-1].metrics["steps"]
    assert light.history[-1].metrics["steps"] == steps  # of all generations


@pytest.mark.parametrize(
    ("temperature", "alpha", "expected"),
    [(1.0, 0.5, 1.1190588474), (2.0, 0.5, 1.2879978418), (4.0, 0.9, 1.4505548477)],
)
def test_soft_loss_is_torchdistills(temperature: float, alpha: float, expected: float) -> None:
    """KDLoss of torchdistill 1.1.5, whose alpha is the labels' share, on the same numbers."""
    places = torch.arange(15.0).reshape(3, 5)
    given, wanted, labels = torch.sin(places), 2 * torch.cos(1.3 * places), torch.tensor([0, 3, 4])
    followed = imitation(given, wanted, logits=True, temperature=temperature)
    found = alpha * followed + (1 - alpha) * nn.functional.cross_entropy(given, labels)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_attention_transfer_is_torchdistills() -> None:
    """ATLoss of torchdistill 1.1.5 (as the authors' code) is the mean over positions, ours the sum."""
    given = torch.sin(torch.arange(48.0)).reshape(2, 3, 2, 4)
    wanted = torch.cos(0.7 * torch.arange(80.0)).reshape(2, 5, 2, 4)
    apart = (attention_map(given) - attention_map(wanted)).square()
    assert float(apart.mean()) == pytest.approx(0.0067026401, rel=1e-5)


def test_hint_is_torchdistills() -> None:
    """Its FitNet stage (MSELoss, torchdistill 1.1.5) is the squared error, ours relative to the teacher's values."""
    given = torch.sin(torch.arange(48.0)).reshape(2, 3, 2, 4)
    wanted = torch.cos(0.7 * torch.arange(48.0)).reshape(2, 3, 2, 4)
    assert float(hint(given, wanted) * wanted.square().mean()) == pytest.approx(0.9140592217, rel=1e-6)
