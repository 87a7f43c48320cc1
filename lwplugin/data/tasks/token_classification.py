"""One class per token; positions labelled −100 do not count."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from lwplugin.data.task import NAME_THE_OUTPUT, Task, TaskOptions, as_floats, mean_over_rest
from lwplugin.data.tasks.classification import class_indices
from lwplugin.errors import DataError, ModelError


class TokenClassificationOptions(TaskOptions):
    """Options of the token classification task."""

    ignore_index: int = Field(-100, description="Positions with this label are neither trained nor scored.")


class TokenClassification(Task):
    """Outputs are logits [n, tokens, classes], targets int64 [n, tokens].

    The score of an example is the share of its counted tokens that are right (1 where none counts).
    Metrics: token_accuracy (mean over examples), token_accuracy_micro (over all tokens), exact_match,
    log_loss (over all tokens). Agreement is over all positions, padding included.
    """

    name = "token_classification"
    metric = "token_accuracy"
    paired_test: Literal["proportion", "mean"] = "mean"
    Options: ClassVar[type[TaskOptions]] = TokenClassificationOptions

    def outputs(self, raw: Any) -> torch.Tensor:
        return _checked(super().outputs(raw))

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        return class_indices(targets, dims=2)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.smoothed_loss(outputs, targets, 0.0)

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        logits, flat = outputs.flatten(0, 1), targets.flatten()
        return F.cross_entropy(logits, flat, ignore_index=self.ignore_index, label_smoothing=smoothing)

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        if _checked(outputs).shape[:2] != targets.shape:
            raise DataError(
                "Outputs and targets have different numbers of tokens",
                got=f"{list(outputs.shape[:2])} and {list(targets.shape)}",
                do="label every position, with the ignore index where there is nothing to say",
            )
        counted = targets != self.ignore_index
        right = (outputs.argmax(dim=2) == targets) & counted
        tokens = counted.sum(dim=1).double()
        hits = right.sum(dim=1).double()
        losses = F.cross_entropy(
            outputs.double().transpose(1, 2), targets, ignore_index=self.ignore_index, reduction="none"
        )
        return {
            "score": torch.where(tokens > 0, hits / tokens.clamp_min(1), torch.ones_like(tokens)).numpy(),
            "exact_match": (hits == tokens).double().numpy(),
            "hits": hits.numpy(),
            "tokens": tokens.numpy(),
            "loss": losses.sum(dim=1).numpy(),
        }

    def summarise(self, columns: Any) -> dict[str, float]:
        tokens = max(float(np.sum(columns["tokens"])), 1.0)
        return {
            self.metric: float(np.mean(columns["score"])),
            "token_accuracy_micro": float(np.sum(columns["hits"])) / tokens,
            "exact_match": float(np.mean(columns["exact_match"])),
            "log_loss": float(np.sum(columns["loss"])) / tokens,
        }

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        ours, parents = _checked(as_floats(outputs)), _checked(as_floats(reference))
        return mean_over_rest(ours.argmax(dim=2) == parents.argmax(dim=2))

    def predictions(self, outputs: Any) -> np.ndarray:
        answer: np.ndarray = _checked(as_floats(outputs)).argmax(dim=2).numpy()
        return answer

    @property
    def ignore_index(self) -> int:
        """The label of positions that do not count."""
        return int(getattr(self.options, "ignore_index", -100))


def _checked(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 3:
        raise ModelError(
            "A token classification needs outputs of shape [n, tokens, classes]",
            got=f"shape {list(logits.shape)}",
            do=NAME_THE_OUTPUT,
        )
    return logits
