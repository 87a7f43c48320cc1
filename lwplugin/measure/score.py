"""Per-example scores of one or two files in their real runtimes, on the same examples, streamed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwplugin.errors import MeasureError
from lwplugin.measure.feeds import feeds_of, run_together
from lwplugin.measure.session import Worker
from lwplugin.measure.subject import Subject
from lwplugin.measure.wire import Array
from lwplugin.progress import Progress, silent

_BATCH = 64
_MAX_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Side:
    """A loaded worker and its file; ``name`` is ``baseline`` or ``candidate``."""

    name: str
    worker: Worker
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
    """Score every example of a split; memory grows with the scores, not with the outputs.

    With two sides the second is compared with the first: ``agreement`` needs no labels. Without labels
    there are no scores and no metrics. Metrics that need all outputs at once are given while these are small.
    """
    import torch

    columns: dict[str, list[Array]] = {}
    outputs: dict[str, list[Array]] = {side.name: [] for side in sides}
    targets: list[Any] = []
    batch_sizes = {side.name: side.score_batch for side in sides}
    kept_bytes, keep_all, done = 0, True, 0
    for batch in split.batches(_BATCH):
        results = run_together(
            [
                (side.worker, side.subject, feeds_of(batch.inputs, side.subject), batch_sizes[side.name])
                for side in sides
            ]
        )
        columns.setdefault("ids", []).append(np.asarray(batch.ids, np.int64))
        as_tensors = [torch.from_numpy(np.array(result)) for result in results]
        for side, tensor in zip(sides, as_tensors):
            columns.setdefault(f"{side.name}_predictions", []).append(np.asarray(task.predictions(tensor)))
            if batch.targets is not None:
                scores = np.asarray(task.scores(tensor, batch.targets), np.float64)
                columns.setdefault(f"{side.name}_scores", []).append(scores)
        if len(sides) == 2:
            same = np.asarray(task.agreement(as_tensors[1], as_tensors[0]), np.float64)
            columns.setdefault("agreement", []).append(same)
        kept_bytes += sum(result.nbytes for result in results)
        same_shape = all(
            not outputs[side.name] or outputs[side.name][0].shape[1:] == result.shape[1:]
            for side, result in zip(sides, results)
        )
        keep_all = keep_all and same_shape and kept_bytes <= _MAX_KEPT_BYTES
        if same_shape and (keep_all or done < first):
            for side, result in zip(sides, results):
                outputs[side.name].append(result)
            if batch.targets is not None:
                targets.append(batch.targets)
        done += len(batch.ids)
        progress("score", done, len(split))
    if not done:
        raise MeasureError("The test split is empty", do="add test examples")
    scored = Scored(n=done)
    scored.arrays = {name: _joined(parts) for name, parts in columns.items()}
    for side in sides:
        scored.first[side.name] = np.concatenate(outputs[side.name])[:first]
        scores_of_side = scored.arrays.get(f"{side.name}_scores")
        scored.metrics[side.name] = {}
        if scores_of_side is not None:
            if keep_all:
                everything = torch.from_numpy(np.concatenate(outputs[side.name]))
                scored.metrics[side.name] = dict(task.metrics(everything, torch.cat(targets)))
            scored.metrics[side.name][task.metric] = float(scores_of_side.mean())
    for column, values in split.slices().items():
        scored.arrays[f"slice_{column}"] = _plain(np.asarray(values))
    return scored


def _joined(parts: list[Array]) -> Array:
    """Concatenated; predictions whose shape follows the batch (token sequences) are padded with -100."""
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
