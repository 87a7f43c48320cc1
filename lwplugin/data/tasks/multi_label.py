"""Any number of labels per example."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from lwplugin.data.task import NAME_THE_OUTPUT, Task, TaskOptions, as_floats, mean_over_rest
from lwplugin.errors import DataError, ModelError


class MultiLabelOptions(TaskOptions):
    """Options of the multi-label task."""

    threshold: float = Field(0.5, gt=0, lt=1, description="A label is given from this probability on.")


class MultiLabel(Task):
    """Outputs are logits [n, labels], targets 0/1 [n, labels].

    The score of an example is its F1 between given and true labels (1 where both are empty): with many
    rare labels, the plain share of right labels would hardly move. Metrics: f1_samples, exact_match,
    label_accuracy, log_loss.
    """

    name = "multi_label"
    metric = "f1_samples"
    paired_test: Literal["proportion", "mean"] = "mean"
    Options: ClassVar[type[TaskOptions]] = MultiLabelOptions

    def outputs(self, raw: Any) -> torch.Tensor:
        return _checked(super().outputs(raw))

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        if targets.ndim == 1:
            targets = targets[:, None]
        if targets.ndim != 2:
            raise DataError(
                "Multi-label targets must have the shape [n, labels]",
                got=f"shape {list(targets.shape)}",
                do="give one 0/1 column per label",
            )
        return targets.to(torch.float32)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        if _checked(outputs).shape != targets.shape:
            raise DataError(
                "Outputs and targets have different numbers of labels",
                got=f"{list(outputs.shape)} and {list(targets.shape)}",
                do="give one target column per output of the model",
            )
        given, true = self._given(outputs), targets > 0.5
        both = (given & true).sum(dim=1).double()
        either = given.sum(dim=1).double() + true.sum(dim=1).double()
        f1 = torch.where(either > 0, 2 * both / either.clamp_min(1), torch.ones_like(either))
        right = given == true
        return {
            "score": f1.numpy(),
            "exact_match": right.all(dim=1).double().numpy(),
            "label_accuracy": mean_over_rest(right),
            "log_loss": mean_over_rest(
                F.binary_cross_entropy_with_logits(outputs.double(), targets.double(), reduction="none")
            ),
        }

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        return mean_over_rest(self._given(as_floats(outputs)) == self._given(as_floats(reference)))

    def predictions(self, outputs: Any) -> np.ndarray:
        given: np.ndarray = self._given(as_floats(outputs)).to(torch.int64).numpy()
        return given

    def _given(self, logits: torch.Tensor) -> torch.Tensor:
        threshold = float(getattr(self.options, "threshold", 0.5))
        return _checked(logits) >= float(np.log(threshold / (1 - threshold)))


def _checked(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim == 1:
        return logits[:, None]
    if logits.ndim != 2:
        raise ModelError(
            "A multi-label task needs outputs of shape [n, labels]",
            got=f"shape {list(logits.shape)}",
            do=NAME_THE_OUTPUT,
        )
    return logits
