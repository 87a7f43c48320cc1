"""A vector per example, used for search or as input of other models; there are no labels."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from lwplugin.data.task import Task, TaskOptions, as_floats
from lwplugin.errors import DataError, ModelError


class EmbeddingOptions(TaskOptions):
    """Options of the embedding task."""

    pooling: Literal["none", "first", "mean"] = Field(
        "none",
        description="How outputs [n, tokens, d] become vectors: the first token, or the mean of all "
        "positions, padding included.",
    )


class Embedding(Task):
    """Outputs are [n, d]; what counts is the cosine with the parent's vector of the same example.

    Targets are reference vectors [n, d]: the parent's outputs. The score is the cosine itself, in
    [−1, 1]; agreement is the cosine with negative values set to 0. Metrics: cosine, cosine_distance.
    """

    name = "embedding"
    metric = "cosine"
    paired_test: Literal["proportion", "mean"] = "mean"
    needs_targets = False
    output_keys = (
        "sentence_embedding",
        "embeddings",
        "embedding",
        "text_embeds",
        "image_embeds",
        "pooler_output",
        "last_hidden_state",
        *Task.output_keys,
    )
    Options: ClassVar[type[TaskOptions]] = EmbeddingOptions

    def outputs(self, raw: Any) -> torch.Tensor:
        vectors = super().outputs(raw)
        pooling = getattr(self.options, "pooling", "none")
        if vectors.ndim == 3 and pooling == "first":
            vectors = vectors[:, 0]
        elif vectors.ndim == 3 and pooling == "mean":
            vectors = vectors.mean(dim=1)
        return _checked(vectors)

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.to(torch.float32)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (1 - F.cosine_similarity(outputs, targets, dim=1)).mean()

    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        cosine = _cosine(outputs, targets)
        return {"score": cosine, "cosine_distance": (1 - cosine).clip(0)}

    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        return _cosine(as_floats(outputs), as_floats(reference)).clip(0, 1)

    def predictions(self, outputs: Any) -> np.ndarray:
        vectors: np.ndarray = _checked(as_floats(outputs)).numpy()
        return vectors


def _cosine(left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    if _checked(left).shape != right.shape:
        raise DataError(
            "Embeddings and their references have different shapes",
            got=f"{list(left.shape)} and {list(right.shape)}",
            do="give the parent's outputs for the same examples as targets",
        )
    cosine: np.ndarray = F.cosine_similarity(left.double(), right.double(), dim=1).numpy()
    return cosine


def _checked(vectors: torch.Tensor) -> torch.Tensor:
    if vectors.ndim != 2:
        raise ModelError(
            "An embedding needs outputs of shape [n, d]",
            got=f"shape {list(vectors.shape)}",
            do="set the task's option 'pooling', name another 'output', or let the model pool",
        )
    return vectors
