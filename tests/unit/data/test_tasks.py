from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Task, TaskSpec, evaluate, from_arrays, make_task, predict
from lwplugin.data.spec import TASKS
from lwplugin.errors import DataError, ModelError, RecipeError

G = np.random.default_rng(0)
LOGITS = G.normal(size=(200, 12)).astype(np.float32)
LABELS = G.integers(0, 12, 200)
TARGETS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "classification": (LOGITS, LABELS),
    "multi_label": (LOGITS, (G.random((200, 12)) < 0.3).astype(np.int64)),
    "regression": (LOGITS, G.normal(size=(200, 12))),
    "embedding": (LOGITS, LOGITS + 0.1 * G.normal(size=(200, 12))),
    "token_classification": (
        G.normal(size=(200, 7, 5)).astype(np.float32),
        np.where(G.random((200, 7)) < 0.3, -100, G.integers(0, 5, (200, 7))),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_every_task_promises(name: str) -> None:
    task = make_task(name)
    outputs, targets = TARGETS[name]
    scores = task.scores(outputs, targets)
    assert scores.shape == (200,)
    assert scores.dtype == np.float64
    metrics = task.metrics(outputs, targets)
    assert next(iter(metrics)) == task.metric
    assert metrics[task.metric] == pytest.approx(scores.mean())
    assert task.paired_test == ("proportion" if set(scores) <= {0.0, 1.0} else "mean")
    np.testing.assert_allclose(task.agreement(outputs, outputs), 1)
    other = task.agreement(outputs, outputs[::-1].copy())
    assert other.shape == (200,)
    assert 0 <= other.min() <= other.mean() < 0.9 <= 1
    assert len(task.predictions(outputs)) == 200
    weights = torch.tensor(outputs, requires_grad=True)
    loss = task.loss(weights, task.cast(torch.as_tensor(targets)))
    loss.backward()  # type: ignore[no-untyped-call]
    moved = (weights - 0.5 * weights.grad).detach()  # type: ignore[operator]
    assert task.loss(moved, task.cast(torch.as_tensor(targets))) < loss
    assert make_task(task.spec).spec == task.spec


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_in_batches_is_that_of_the_whole(name: str) -> None:
    task = make_task(name)
    outputs, targets = TARGETS[name]
    split = from_arrays(test=(outputs, targets), task=task).need("test")
    module = nn.Dropout(0.9)
    judged = evaluate(module, split, task, batch_size=33, keep_outputs=True)
    np.testing.assert_array_equal(judged.outputs, outputs)
    np.testing.assert_allclose(judged.scores, task.scores(outputs, targets))
    for metric, value in task.metrics(outputs, targets).items():
        assert judged.metrics[metric] == pytest.approx(value)
    assert judged.score == pytest.approx(judged.metrics[task.metric])
    assert module.training
    np.testing.assert_array_equal(predict(module, split, task), outputs)


def test_classification_metrics_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

    probabilities = torch.softmax(torch.from_numpy(LOGITS), 1).numpy()
    metrics = make_task("classification").metrics(LOGITS, LABELS)
    assert metrics["accuracy"] == accuracy_score(LABELS, LOGITS.argmax(1))
    assert metrics["top5_accuracy"] == top_k_accuracy_score(LABELS, LOGITS, k=5)
    assert metrics["log_loss"] == pytest.approx(log_loss(LABELS, probabilities), rel=1e-5)
    same = make_task({"name": "classification", "options": {"probabilities": True}})
    assert same.metrics(probabilities, LABELS)["log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-5)
    assert same.metrics(probabilities, LABELS)["ece"] == pytest.approx(metrics["ece"], rel=1e-5)


def test_calibration_error_of_known_cases() -> None:
    task = make_task("classification")
    sure = np.tile([50.0, 0.0], (10, 1))
    assert task.metrics(sure, np.zeros(10, int))["ece"] == pytest.approx(0)
    assert task.metrics(sure, np.arange(10) % 2)["ece"] == pytest.approx(0.5)


def test_multi_label_and_regression_metrics_are_scikit_learns() -> None:
    from sklearn.metrics import f1_score, mean_absolute_error, r2_score

    outputs, targets = TARGETS["multi_label"]
    expected = f1_score(targets, outputs >= 0, average="samples", zero_division=1)
    assert make_task("multi_label").metrics(outputs, targets)["f1_samples"] == pytest.approx(expected)
    values, true = LOGITS[:, 0], G.normal(size=200)
    metrics = make_task("regression").metrics(values[:, None], true)
    assert metrics["neg_mae"] == pytest.approx(-mean_absolute_error(true, values))
    assert metrics["r2"] == pytest.approx(r2_score(true, values), abs=1e-4)


def test_tokens_that_do_not_count() -> None:
    task = make_task("token_classification")
    logits = np.zeros((2, 3, 2), dtype=np.float32)
    logits[:, :, 1] = 1
    targets = np.array([[1, 0, -100], [-100, -100, -100]])
    np.testing.assert_array_equal(task.scores(logits, targets), [0.5, 1.0])
    assert task.metrics(logits, targets)["token_accuracy_micro"] == 0.5


def test_batches_padded_to_different_lengths_are_joined() -> None:
    class Ragged:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
            length = 2 if position < 3 else 4
            return np.ones((length, 2), dtype=np.float32), np.zeros(length, dtype=np.int64)

    task = make_task("token_classification")
    split = from_arrays(test=Ragged(), task=task).need("test")
    judged = evaluate(nn.Identity(), split, task, batch_size=3, keep_outputs=True)
    assert judged.outputs.shape == (6, 4, 2)
    assert (judged.outputs[:3, 2:] == 0).all()


def test_picks_the_output() -> None:
    from transformers.modeling_outputs import SequenceClassifierOutput

    task = make_task("classification")
    logits = torch.from_numpy(LOGITS)
    boxes = torch.zeros(200, 4)
    returned: list[Any] = [
        logits,
        (logits, boxes),
        {"logits": logits, "boxes": boxes},
        {"anything": logits},
        SequenceClassifierOutput(logits=logits),
        logits[:, :, None, None],
    ]
    for raw in returned:
        assert torch.equal(task.outputs(raw), logits)
    second = make_task({"name": "classification", "options": {"output": 1}})
    assert torch.equal(second.outputs((boxes, logits)), logits)
    named = make_task({"name": "classification", "options": {"output": "class"}})
    assert torch.equal(named.outputs(OrderedDict(box=boxes, **{"class": logits})), logits)
    with pytest.raises(ModelError, match=r"no output 'class'.*known: 0"):
        named.outputs((logits,))
    with pytest.raises(ModelError, match="cannot tell which output"):
        task.outputs({"a": logits, "b": boxes})
    with pytest.raises(ModelError, match=r"\[n, classes\]"):
        task.outputs(torch.zeros(3, 4, 5))


def test_embedding_is_judged_against_the_parent() -> None:
    task = make_task("embedding")
    split = from_arrays(test=LOGITS, task=task).need("test")
    with pytest.raises(DataError, match="no targets"):
        evaluate(nn.Identity(), split, task)
    judged = evaluate(nn.Identity(), split, task, reference=LOGITS * 3, batch_size=64)
    np.testing.assert_allclose(judged.scores, 1, atol=1e-6)
    assert not task.needs_targets


def test_wrong_uses_are_refused() -> None:
    task = make_task("classification")
    with pytest.raises(DataError, match="label lies beyond"):
        task.scores(LOGITS, LABELS + 1)
    with pytest.raises(DataError, match="label lies beyond"):
        task.loss(torch.from_numpy(LOGITS), torch.full((200,), 12))
    with pytest.raises(DataError, match="200 outputs and 199 targets"):
        task.scores(LOGITS, LABELS[1:])
    with pytest.raises(DataError, match="different shapes"):
        make_task("regression").scores(LOGITS, LOGITS[:, :3])
    with pytest.raises(RecipeError, match=r"no option 'treshold'.*did you mean 'threshold'"):
        make_task({"name": "multi_label", "options": {"treshold": 0.4}})
    with pytest.raises(RecipeError, match=r"Unknown key 'optins'.*did you mean 'options'"):
        TaskSpec.of({"name": "regression", "optins": {}})
    with pytest.raises(DataError, match="were not kept"):
        _ = evaluate(nn.Identity(), from_arrays(test=(LOGITS, LABELS)).need("test"), task).outputs


class Pitch(Task):
    """Within 50 cents: a task of one's own."""

    name = "pitch"
    metric = "pitch_accuracy"
    paired_test = "proportion"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets).abs().mean()

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        return {"score": ((outputs[:, 0] - targets).abs() < 50).double().numpy()}

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        return (np.abs(np.asarray(outputs)[:, 0] - np.asarray(reference)[:, 0]) < 50).astype(float)

    def predictions(self, outputs: Any) -> np.ndarray:
        return np.asarray(outputs)[:, 0]


def test_a_task_of_ones_own() -> None:
    reference = f"{__file__}:Pitch"
    task = make_task(reference)
    metrics = task.metrics(np.array([[0.0], [100.0]]), np.array([10.0, 10.0]))
    assert metrics == {"pitch_accuracy": 0.5}
    assert task.spec == TaskSpec(name=reference)
    with pytest.raises(RecipeError, match="not a subclass"):
        make_task(f"{__file__}:nn")
