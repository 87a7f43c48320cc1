"""Per-example scores of one or two files in their real runtimes, on the same examples, streamed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwplugin.errors import MeasureError
from lwplugin.measure.feeds import feeds_of, run_together
from lwplugin.measure.session import Peer
from lwplugin.measure.subject import Subject
from lwplugin.measure.wire import Array
from lwplugin.progress import Progress, silent

_BATCH = 64


@dataclass(frozen=True)
class Side:
    """A loaded worker and its file; ``name`` is ``baseline`` or ``candidate``."""

    name: str
    worker: Peer
    subject: Subject
    batch: int  # of the timed runs

    @property
    def score_batch(self) -> int:
        """Any batch scores alike, except where the file takes one only, or where its activations are
        quantized by the range of the whole batch: then the batch that is deployed."""
        if self.subject.fixed_batch is not None:
            return self.subject.fixed_batch
        return self.batch if self.subject.mentions("DynamicQuantizeLinear") else _BATCH


@dataclass
class Scored:
    """``arrays`` are what scores.npz holds; ``first[name]`` the outputs of the first examples."""

    arrays: dict[str, Array] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    first: dict[str, Array] = field(default_factory=dict)
    n: int = 0


def score(split: Any, task: Any, sides: list[Side], *, first: int, progress: Progress = silent) -> Scored:
    """Score every example of a split; memory grows with a few numbers per example, not with the outputs.

    With two sides the second is compared with the first: ``agreement`` needs no labels. Without labels
    there are no scores and no metrics, except for a task that judges by the parent's outputs.
    """
    import torch

    arrays = _Columns()
    columns = {side.name: _Columns() for side in sides}
    opening = {side.name: _Opening(first) for side in sides}
    batches = {side.name: side.score_batch for side in sides}
    done = 0
    for batch in split.batches(_BATCH):
        results = run_together(
            [
                (side.worker, side.subject, feeds_of(batch.inputs, side.subject), batches[side.name])
                for side in sides
            ]
        )
        outputs = [torch.from_numpy(np.array(result)) for result in results]
        targets = batch.targets if task.needs_targets else outputs[0] if len(sides) == 2 else None
        arrays.add(ids=np.asarray(batch.ids, np.int64))
        for side, result, output in zip(sides, results, outputs):
            opening[side.name].add(result)
            arrays.add(**{f"{side.name}_predictions": np.asarray(task.predictions(output))})
            if targets is not None:
                columns[side.name].add(**task.per_example(output, targets))
        if len(sides) == 2:
            arrays.add(agreement=np.asarray(task.agreement(outputs[1], outputs[0]), np.float64))
        done += len(batch.ids)
        progress("score", done, len(split))
    if not done:
        raise MeasureError("The test split is empty", do="add test examples")
    scored = Scored(arrays=arrays.joined(), n=done)
    for side in sides:
        scored.first[side.name] = opening[side.name].joined()
        judged = columns[side.name].joined()
        scored.metrics[side.name] = dict(task.summarise(judged)) if judged else {}
        if judged:
            scored.arrays[f"{side.name}_scores"] = np.asarray(judged["score"], np.float64)
    for column, values in split.slices().items():
        scored.arrays[f"slice_{column}"] = _plain(np.asarray(values))
    return scored


class _Columns:
    """Named arrays that grow batch by batch."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Array]] = {}

    def add(self, **arrays: Array) -> None:
        for name, array in arrays.items():
            self.parts.setdefault(name, []).append(array)

    def joined(self) -> dict[str, Array]:
        return {name: _concatenated(parts) for name, parts in self.parts.items()}


class _Opening:
    """The outputs of the first examples, as long as they have one shape."""

    def __init__(self, count: int) -> None:
        self.count, self.parts, self.held, self.open = count, list[Array](), 0, True

    def add(self, outputs: Array) -> None:
        self.open = self.open and self.held < self.count
        self.open = self.open and (not self.parts or self.parts[0].shape[1:] == outputs.shape[1:])
        if self.open:
            self.parts.append(outputs)
            self.held += len(outputs)

    def joined(self) -> Array:
        return np.concatenate(self.parts)[: self.count]


def _concatenated(parts: list[Array]) -> Array:
    """Predictions whose shape follows the batch (token sequences) are filled up with -100."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    widest = np.max([part.shape[1:] for part in parts], axis=0)
    padded = []
    for part in parts:
        margins = [(0, 0), *((0, int(wide - size)) for wide, size in zip(widest, part.shape[1:]))]
        padded.append(np.pad(part, margins, constant_values=-100))
    return np.concatenate(padded)


def _plain(values: Array) -> Array:
    """Slice values as numbers or text, which need no pickle."""
    return values if values.dtype.kind in "biuf" else values.astype(str)
