"""One or several real values per example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from lwplugin.data.task import Task, TaskOptions, as_floats, mean_over_rest
from lwplugin.errors import DataError


class RegressionOptions(TaskOptions):
    """Options of the regression task."""

    tolerance: float | None = Field(
        None,
        gt=0,
        description="Two answers agree within this distance; without it agreement is relative closeness.",
    )


class Regression(Task):
    """Outputs and targets are float [n, …] of one shape ([n] and [n, 1] are the same).

    The score is minus the absolute error, so that its mean ``neg_mae`` keeps the target's unit and one
    outlier cannot decide a comparison; the loss is the squared error. Metrics: neg_mae, mae, rmse, r2.
    Agreement without a tolerance is 1 − |a − b| / (|a| + |b|): 1 for equal answers, 0 for opposite signs.
    """

    name = "regression"
    metric = "neg_mae"
    paired_test: Literal["proportion", "mean"] = "mean"
    output_keys = ("predictions", "prediction", *Task.output_keys)
    Options: ClassVar[type[TaskOptions]] = RegressionOptions

    @classmethod
    def bounded_metrics(cls) -> tuple[str, ...]:
        return cls.metric, "mae"

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.to(torch.float32)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(*_alike(outputs, targets))

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        outputs, targets = _alike(outputs, targets)
        error = outputs.double() - targets.double()
        absolute = mean_over_rest(error.abs())
        return {
            "score": -absolute,
            "mae": absolute,
            "squared_error": mean_over_rest(error.square()),
            "target": mean_over_rest(targets),
            "target_square": mean_over_rest(targets.double().square()),
        }

    def summarise(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        metrics = super().summarise(columns)
        squared = metrics.pop("squared_error")
        variance = metrics.pop("target_square") - metrics.pop("target") ** 2
        metrics["rmse"] = squared**0.5
        metrics["r2"] = 1 - squared / variance if variance > 0 else float("nan")
        return metrics

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        ours, parents = _alike(as_floats(outputs).double(), as_floats(reference).double())
        distance = (ours - parents).abs()
        tolerance = getattr(self.options, "tolerance", None)
        if tolerance is not None:
            return mean_over_rest(distance <= tolerance)
        scale = ours.abs() + parents.abs()
        close = torch.where(scale > 0, 1 - distance / scale.clamp_min(1e-300), torch.ones_like(scale))
        return mean_over_rest(close)

    def predictions(self, outputs: Any) -> np.ndarray:
        answer: np.ndarray = as_floats(outputs).numpy()
        return answer


def _alike(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if outputs.shape != targets.shape and outputs.numel() == targets.numel() and len(outputs) == len(targets):
        outputs = outputs.reshape(targets.shape)
    if outputs.shape != targets.shape:
        # Broadcasting [n, 1] against [n] would silently average over all pairs.
        raise DataError(
            "Outputs and targets of a regression have different shapes",
            got=f"{list(outputs.shape)} and {list(targets.shape)}",
            do="give one target value per output value",
        )
    return outputs, targets
