"""Runs a module over a split and judges it, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lwplugin.data.batch import call
from lwplugin.data.split import Split
from lwplugin.data.task import Task
from lwplugin.errors import DataError
from lwplugin.progress import Progress, silent


@dataclass(frozen=True)
class Evaluation:
    """``scores`` are float64 [n], higher is better; ``metrics`` are over the whole split."""

    scores: np.ndarray
    metrics: dict[str, float]
    kept_outputs: np.ndarray | None = None

    @property
    def score(self) -> float:
        """The task's metric: the mean of the scores."""
        return float(np.mean(self.scores))

    @property
    def outputs(self) -> np.ndarray:
        """Outputs float32 [n, …]. Raises DataError where they were not kept."""
        if self.kept_outputs is None:
            raise DataError("The outputs of this evaluation were not kept", do="pass keep_outputs=True")
        return self.kept_outputs


def evaluate(
    module: nn.Module,
    split: Split,
    task: Task,
    *,
    batch_size: int = 256,
    keep_outputs: bool = False,
    reference: np.ndarray | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Scores and metrics of a module on a split, in evaluation mode, without gradients.

    Memory beyond one batch is a few numbers per example, unless ``keep_outputs``. ``reference`` [n, …]
    stands in for targets: the parent's outputs, for a task without labels (embedding). The module is
    given back in the mode it came in. Raises DataError where there are neither targets nor reference.
    """
    columns: dict[str, list[np.ndarray]] = {}
    kept: list[np.ndarray] = []
    with _judging(module):
        for done, batch in enumerate(split.batches(batch_size), start=1):
            outputs = task.outputs(call(module, batch.inputs))
            targets = batch.targets if reference is None else torch.from_numpy(reference[batch.ids])
            if targets is None:
                raise DataError(
                    f"The {split.name} split has no targets to score the task '{task.name}' with",
                    do="give labels, or the parent's outputs as reference",
                )
            for name, values in task.per_example(outputs, targets).items():
                columns.setdefault(name, []).append(values)
            if keep_outputs:
                kept.append(outputs.float().cpu().numpy())
            progress(f"evaluate {split.name}", done, -(-len(split) // batch_size))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Evaluation(
        scores=whole["score"],
        metrics=task.summarise(whole),
        kept_outputs=_join(kept) if keep_outputs else None,
    )


def predict(
    module: nn.Module, split: Split, task: Task, *, batch_size: int = 256, progress: Progress = silent
) -> np.ndarray:
    """Outputs float32 [n, …] of a module on a split; needs no labels and keeps every output in memory."""
    kept: list[np.ndarray] = []
    with _judging(module):
        for done, batch in enumerate(split.batches(batch_size), start=1):
            outputs = task.outputs(call(module, batch.inputs))
            kept.append(outputs.float().cpu().numpy())
            progress(f"predict {split.name}", done, -(-len(split) // batch_size))
    return _join(kept)


@contextmanager
def kept_modes(module: nn.Module) -> Iterator[None]:
    """Gives every submodule back in the training or evaluation mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _judging(module: nn.Module) -> Iterator[None]:
    with kept_modes(module), torch.no_grad():
        module.eval()
        yield


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Batches one after another; sequences padded to different lengths are padded on with zeros."""
    if len({part.shape[1:] for part in parts}) > 1 and len({part.ndim for part in parts}) == 1:
        longest = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts)))
        parts = [
            np.pad(part, [(0, 0), *((0, long - size) for long, size in zip(longest, part.shape[1:]))])
            for part in parts
        ]
    return np.concatenate(parts)
