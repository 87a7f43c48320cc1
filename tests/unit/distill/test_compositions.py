"""A student that was pruned, factorized or quantized before learns on in that form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import drawn
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate
from lwplugin.data.batch import call
from lwplugin.distill.packed_student import packed_again, unpacked
from lwplugin.model.bundle import LightModel
from lwplugin.training import TrainConfig, train

QUANTIZED: dict[str, dict[str, Any]] = {
    "int8": {},
    "weight_only": {"bits": 2, "group_size": 16},
    "codebook": {"bits": 2, "finetune_epochs": 0},
    "binary": {"finetune_epochs": 0, "collapse": 0, "last_layer": True},
    "qat": {"weight_bits": 4, "finetune_epochs": 1, "collapse": 0},
    "half": {},
}


@pytest.fixture(scope="module")
def student(data: Data) -> LightModel:
    net = drawn(2)
    train(net, data, config=TrainConfig(epochs=6, lr=1e-2, schedule="onecycle"))
    return lwplugin.light(net)


@pytest.fixture(scope="module")
def quantized(student: LightModel, data: Data) -> dict[str, LightModel]:
    return {m: lwplugin.quantize(student, data, method=m, **options) for m, options in QUANTIZED.items()}


def accuracy(light: LightModel, data: Data) -> float:
    return evaluate(light.module, data.need("test"), data.task).metrics["accuracy"]


@pytest.mark.parametrize("method", QUANTIZED)
def test_unpacking_and_packing_again_change_nothing(
    method: str, quantized: dict[str, LightModel], data: Data
) -> None:
    module, images = quantized[method].copy_module(), data.example(32)
    with torch.no_grad():
        expected = call(module, images)
        packed = unpacked(module)
        assert packed
        assert any(p.requires_grad for p in module.parameters())
        torch.testing.assert_close(call(module, images), expected, rtol=1e-4, atol=1e-4)
        packed_again(module, packed)
        assert torch.equal(call(module, images), expected)


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantized_student_learns_and_stays_as_small(
    method: str, quantized: dict[str, LightModel], data: Data, teacher: nn.Module, tmp_path: Path
) -> None:
    before = quantized[method]
    light = lwplugin.distill(before, data, teacher=teacher, epochs=6, lr=3e-3, collapse=0)
    images = data.example(16)
    assert light.cost(images).size_bytes == before.cost(images).size_bytes
    assert light.module.state_dict().keys() == before.module.state_dict().keys()
    assert accuracy(light, data) >= accuracy(before, data) - 0.01
    if method in ("binary", "codebook"):  # few enough bits to have lost something
        assert accuracy(light, data) > accuracy(before, data) + 0.02
    light.save(tmp_path / "bundle")
    with torch.no_grad():
        found = call(lwplugin.load(tmp_path / "bundle").module, images)
        assert torch.equal(found, call(light.module, images))
    assert light.history[-1].metrics["params"] == before.cost(images).params


def test_int8_that_learnt_runs_in_integers(
    quantized: dict[str, LightModel], data: Data, teacher: nn.Module, tmp_path: Path
) -> None:
    light = lwplugin.distill(quantized["int8"], data, teacher=teacher, epochs=2, collapse=0)
    assert lwplugin.export(light, data, format="onnx", path=tmp_path / "onnx").file.is_file()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("feature", {"pairs": {"3": "3"}}),
        ("dynamic", {}),
        ("gradient", {}),
        ("hard", {}),
        ("bootstrap", {"kind": "mutual"}),
        ("bootstrap", {"kind": "bagged"}),
        ("bootstrap", {"kind": "generations"}),
    ],
)
def test_every_loss_reaches_a_binary_student(
    method: str, options: dict[str, Any], quantized: dict[str, LightModel], data: Data, teacher: nn.Module
) -> None:
    before = quantized["binary"]
    light = lwplugin.distill(
        before, data, teacher=teacher, method=method, epochs=4, lr=1e-2, collapse=0, **options
    )
    changed = [
        name
        for name, tensor in light.module.state_dict().items()
        if name.endswith("codes") and not torch.equal(tensor, before.module.state_dict()[name])
    ]
    assert changed
    assert accuracy(light, data) > accuracy(before, data)


def test_a_pruned_and_factorized_student_keeps_its_form(
    student: LightModel, data: Data, teacher: nn.Module
) -> None:
    smaller = lwplugin.prune(student, data, macs=0.6)
    smaller = lwplugin.factorize(smaller, data, method="svd", params=0.8, collapse=0)
    light = lwplugin.distill(smaller, data, teacher=teacher, epochs=6, lr=1e-2)
    assert light.changes == smaller.changes
    assert [entry.step for entry in light.history] == ["prune", "factorize", "distill"]
    assert accuracy(light, data) > accuracy(smaller, data)
