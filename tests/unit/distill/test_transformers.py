"""A small BERT: whose blocks follow which is found from names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_bert import bert, sequences
from torch import nn

import lwplugin
import lwplugin.students
from lwplugin.data import Data
from lwplugin.distill.feature import real_tokens
from lwplugin.distill.matching import features, match


@pytest.fixture(scope="module")
def tokens() -> Data:
    return sequences()


PAIRS = {
    "bert.embeddings": "bert.embeddings",
    "bert.encoder.layer.0": "bert.encoder.layer.2",
    "bert.encoder.layer.1": "bert.encoder.layer.5",
}


def test_tinybert_mapping_is_found(tokens: Data) -> None:
    inputs = tokens.example(2)
    assert match(features(bert(2, 8), inputs), features(bert(6, 16), inputs)) == PAIRS
    student = lwplugin.students.build("transformer", width=0.125, layers=3, vocabulary=40, classes=4)
    found = match(features(student, inputs), features(bert(6, 16), inputs))
    assert found == {
        "project": "bert.embeddings",
        **{f"blocks.{i}": f"bert.encoder.layer.{2 * i + 1}" for i in range(3)},
    }


def test_hidden_states_come_closer_than_soft_labels_bring_them(tokens: Data) -> None:
    teacher = bert(6, 16)
    options: dict[str, Any] = {"teacher": teacher, "epochs": 10, "lr": 5e-3, "collapse": 0}
    soft = lwplugin.distill(bert(2, 8), tokens, **options)
    taught = lwplugin.distill(bert(2, 8), tokens, method="feature", kind="hint", weight=10, **options)
    assert taught.history[-1].details["pairs"] == PAIRS
    batch = next(tokens.need("calibration").batches(64))
    assert isinstance(batch.inputs, dict)

    def explained(student: nn.Module) -> float:
        """Share of the teacher's last hidden states that a linear map of the student's explains."""
        with torch.no_grad():
            pair = [m.bert(**batch.inputs).last_hidden_state for m in (student, teacher)]  # type: ignore[union-attr]
        real = real_tokens(batch, pair[0])
        assert real is not None
        given, wanted = (value[real[..., 0] > 0] for value in pair)
        given = torch.cat([given, torch.ones(len(given), 1)], 1)
        left = wanted - given @ torch.linalg.lstsq(given, wanted).solution
        return 1 - float(left.square().sum() / (wanted - wanted.mean(0)).square().sum())

    assert explained(taught.module) > explained(soft.module) + 0.1


def test_padding_is_not_followed(tokens: Data) -> None:
    batch = next(tokens.need("calibration").batches(4))
    assert isinstance(batch.inputs, dict)
    real = real_tokens(batch, torch.ones(4, 8, 3))
    assert real is not None
    assert torch.equal(real[..., 0], batch.inputs["attention_mask"].float())
    assert real_tokens(batch, torch.ones(4, 3, 8, 8)) is None
