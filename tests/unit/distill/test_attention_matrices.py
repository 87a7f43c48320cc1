"""Attention scores are read from whatever computes them, and a student follows its teacher's (TinyBERT)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_bert import bert, sequences
from small_nets import drawn
from torch import nn

import lwplugin
import lwplugin.students
from lwplugin.data import Data
from lwplugin.data.batch import call
from lwplugin.distill.attention_matrices import Scores, attending, matrices_distance
from lwplugin.distill.matching import features
from lwplugin.errors import MethodError


@pytest.fixture(scope="module")
def tokens() -> Data:
    torch.set_num_threads(1)
    return sequences()


def scores_of(module: nn.Module, inputs: Any, names: list[str]) -> Scores:
    shapes = features(module, inputs)
    with torch.no_grad(), attending(module, {name: shapes[name] for name in names}) as found:
        call(module, inputs)
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scores_of_a_bert_are_those_behind_its_own_attentions(attention: str, tokens: Data) -> None:
    inputs = tokens.example(16)
    names = [f"bert.encoder.layer.{i}" for i in range(3)]
    found = scores_of(bert(3, 8, attention), inputs, names)
    assert list(found) == names
    with torch.no_grad():
        own = bert(3, 8).bert(**inputs, output_attentions=True).attentions  # type: ignore[arg-type]
    for name, expected in zip(names, own, strict=True):
        torch.testing.assert_close(found[name].softmax(-1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_scores_of_torchs_own_encoder(fast: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(not fast)
    values = torch.rand(4, 6, 8)
    later = nn.Transformer.generate_square_subsequent_mask(6)
    padding = torch.arange(6) >= torch.tensor([[6], [4], [5], [6]])
    shapes = {name: torch.Size([4, 6, 8]) for name in ("layers.0", "layers.1")}
    for masks in ({}, {"src_key_padding_mask": padding}, {"mask": later}, {"mask": later < 0}):
        with attending(module, shapes) as found:
            module(values, **masks)
        assert list(found) == list(shapes)
        expected = module.layers[0].self_attn.eval()(  # type: ignore[union-attr,operator]
            values, values, values, average_attn_weights=False,
            key_padding_mask=masks.get("src_key_padding_mask"), attn_mask=masks.get("mask"),
        )[1]  # fmt: skip
        torch.testing.assert_close(found["layers.0"].softmax(-1), expected)


def test_distance_is_tinyberts_relative_to_the_teachers_scores() -> None:
    given = torch.sin(torch.arange(2 * 3 * 4 * 4.0)).reshape(2, 3, 4, 4)
    wanted = torch.cos(0.7 * torch.arange(2 * 3 * 4 * 4.0)).reshape(2, 3, 4, 4)
    plain = nn.functional.mse_loss(given, wanted) / wanted.square().mean()
    assert float(matrices_distance(given, wanted)) == pytest.approx(float(plain), rel=1e-6)
    real = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 0]]).unsqueeze(-1)
    inner = matrices_distance(given[..., :3, :3], wanted[..., :3, :3])
    assert float(matrices_distance(given, wanted, real)) == pytest.approx(float(inner), rel=1e-6)
    masked = torch.zeros(4, 4).masked_fill(torch.arange(4) == 3, -1e4)
    rows = matrices_distance(given[..., :3], wanted[..., :3])
    assert float(matrices_distance(given + masked, wanted + masked)) == pytest.approx(float(rows), rel=1e-6)


def test_other_numbers_of_heads_are_compared_by_their_mean() -> None:
    wanted = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    mean = wanted.softmax(-1).mean(1, keepdim=True).log()
    assert float(matrices_distance(mean, wanted)) == pytest.approx(0, abs=1e-10)
    assert float(matrices_distance(mean.flip(-1), wanted)) > 0.05
    assert float(matrices_distance(mean.expand(-1, 3, -1, -1), wanted)) == pytest.approx(0, abs=1e-10)


def look_apart(student: nn.Module, teacher: nn.Module, inputs: Any) -> float:
    """Of the last blocks."""
    mine = scores_of(student, inputs, ["bert.encoder.layer.1"])["bert.encoder.layer.1"]
    theirs = scores_of(teacher, inputs, ["bert.encoder.layer.5"])["bert.encoder.layer.5"]
    return float(matrices_distance(mine, theirs, inputs["attention_mask"].unsqueeze(-1)))


def test_a_student_looks_where_its_teacher_looks(tokens: Data) -> None:
    teacher, inputs = bert(6, 16), tokens.example(64)
    with torch.no_grad():  # drawn weights hardly attend to anything
        for name, weight in teacher.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                weight *= 5
    options: dict[str, Any] = {
        "teacher": teacher,
        "epochs": 10,
        "lr": 5e-3,
        "collapse": 0,
        "kind": "hint",
        "weight": 10,
    }
    hints = lwplugin.distill(bert(2, 16), tokens, method="feature", **options)
    looks = lwplugin.distill(
        bert(2, 16, "sdpa"), tokens, method="feature", attention_matrices=True, **options
    )
    blocks = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert looks.history[-1].details["attention_matrices"] == blocks
    assert look_apart(looks.module, teacher, inputs) < 0.8 * look_apart(hints.module, teacher, inputs)


def test_a_students_heads_may_be_fewer(tokens: Data) -> None:
    student = lwplugin.students.build("transformer", width=0.125, layers=2, vocabulary=40, classes=4)
    light = lwplugin.distill(
        student,
        tokens,
        teacher=bert(2, 16),
        method="feature",
        kind="hint",
        attention_matrices=True,
        collapse=0,
    )
    assert light.history[-1].details["attention_matrices"] == ["blocks.0", "blocks.1"]


def test_layers_that_do_not_attend_are_refused(data: Data, teacher: nn.Module) -> None:
    with pytest.raises(MethodError, match="No pair of layers has attention matrices"):
        lwplugin.distill(drawn(), data, teacher=teacher, method="feature", attention_matrices=True)
