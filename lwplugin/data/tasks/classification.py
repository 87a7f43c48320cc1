"""One class out of several per example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from lwplugin.data.task import NAME_THE_OUTPUT, Task, TaskOptions, as_floats
from lwplugin.errors import DataError, ModelError


class ClassificationOptions(TaskOptions):
    """Options of the classification task."""

    probabilities: bool = Field(False, description="The model returns probabilities, not logits.")


class Classification(Task):
    """Outputs are logits [n, classes], targets int64 [n].

    Scores are 0/1 (right or wrong). Metrics: accuracy, log_loss, top5_accuracy from ten classes on, and
    the expected calibration error ``ece`` over 15 equal-width bins (Guo 2017, 1706.04599).
    """

    name = "classification"
    metric = "accuracy"
    paired_test: Literal["proportion", "mean"] = "proportion"
    Options: ClassVar[type[TaskOptions]] = ClassificationOptions

    def outputs(self, raw: Any) -> torch.Tensor:
        logits = super().outputs(raw)
        if logits.ndim > 2 and all(size == 1 for size in logits.shape[2:]):
            logits = logits.flatten(1)
        return _checked(logits)

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        return class_indices(targets, dims=1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.smoothed_loss(outputs, targets, 0.0)

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        logits = _log(outputs) if self._probabilities else outputs
        try:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        except IndexError as error:
            raise _beyond(logits, targets) from error

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        logits = _checked(outputs)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
            raise _beyond(logits, targets)
        logp = _log(logits) if self._probabilities else torch.log_softmax(logits.double(), dim=1)
        columns = {
            "score": (logits.argmax(dim=1) == targets).double().numpy(),
            "log_loss": -logp.double().gather(1, targets[:, None])[:, 0].numpy(),
            "confidence": logp.double().max(dim=1).values.exp().numpy(),
        }
        if logits.shape[1] >= 10:
            top = logits.topk(5, dim=1).indices
            columns["top5_accuracy"] = (top == targets[:, None]).any(dim=1).double().numpy()
        return columns

    def summarise(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        kept = {name: values for name, values in columns.items() if name != "confidence"}
        metrics = super().summarise(kept)
        metrics["ece"] = _calibration_error(columns["confidence"], columns["score"])
        return metrics

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        same: np.ndarray = self.predictions(outputs) == self.predictions(reference)
        return same.astype(np.float64)

    def predictions(self, outputs: Any) -> np.ndarray:
        answer: np.ndarray = _checked(as_floats(outputs)).argmax(dim=1).numpy()
        return answer

    @property
    def _probabilities(self) -> bool:
        return bool(getattr(self.options, "probabilities", False))


def class_indices(targets: torch.Tensor, *, dims: int) -> torch.Tensor:
    """Targets as int64 class indices with ``dims`` dimensions.

    Raises DataError for floats, one-hot rows and wrong shapes.
    """
    if targets.ndim == dims + 1 and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    if targets.ndim != dims or targets.is_floating_point() or targets.is_complex():
        shape = "[n]" if dims == 1 else "[n, tokens]"
        raise DataError(
            f"Class labels must be whole numbers of shape {shape}",
            got=f"{str(targets.dtype).removeprefix('torch.')} of shape {list(targets.shape)}",
            do="give class indices as integers (of one-hot rows their argmax); for several labels at once use the task "
            "multi_label",
        )
    return targets.to(torch.int64)


def _checked(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ModelError(
            "A classification needs outputs of shape [n, classes]",
            got=f"shape {list(logits.shape)}",
            do=f"{NAME_THE_OUTPUT}; one logit per example is multi_label, "
            "one class per token is token_classification",
        )
    return logits


def _beyond(logits: torch.Tensor, targets: torch.Tensor) -> DataError:
    return DataError(
        "A label lies beyond the model's classes",
        got=f"labels {int(targets.min())} to {int(targets.max())}, the model has {logits.shape[1]} outputs",
        do="number the classes from 0, as the model was trained",
    )


def _log(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.clamp_min(1e-12).log()


def _calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / max(len(confidence), 1))
