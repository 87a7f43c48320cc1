"""The model that is learnt from: frozen, on the training's device, its answers kept where that saves time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.evaluation import predict
from lwplugin.data.readers import ArrayReader, TensorReader
from lwplugin.progress import Progress
from lwplugin.training.finetune import LOGITS

if TYPE_CHECKING:
    from lwplugin.data import Data

_MOST_KEPT_BYTES = 2**30


class Teacher:
    """One frozen module, or several whose answers are averaged (as probabilities, for classes)."""

    def __init__(self, modules: Sequence[nn.Module], data: Data, device: torch.device) -> None:
        self.modules = [module.eval().requires_grad_(False).to(device) for module in modules]
        self._data, self.device = data, device
        self._kept: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """The first of them: the one whose layers and gradients can be followed."""
        return self.modules[0]

    @property
    def logits(self) -> bool:
        """Whether its answers are classes' logits."""
        return self._data.task.name in LOGITS

    def __call__(self, batch: Batch, *, of_training: bool) -> Tensor:
        """Answers for a batch on the device: float [n, …], without gradients; kept ones are ``of_training``."""
        if of_training and self._kept is not None:
            return self._kept[torch.from_numpy(batch.ids)].to(self.device)
        with torch.no_grad():
            outputs = [self._data.task.outputs(call(module, batch.inputs)).float() for module in self.modules]
        return self._averaged(outputs)

    def keep_answers(self, examples_used: int, progress: Progress) -> None:
        """Answer every training example once, where that is less work and reading it again gives the same.

        Nothing is kept where fewer ``examples_used`` (over the whole training) than there are would ask,
        for a data set that may read an example differently each time, and beyond 1 GiB.
        """
        split = self._data.need("train")
        if examples_used <= len(split) or not isinstance(split.reader, TensorReader | ArrayReader):
            return
        example = self(next(split.batches(1)).to(self.device), of_training=False)
        if example.nbytes * len(split) > _MOST_KEPT_BYTES:
            return
        task = self._data.task
        kept = [
            torch.from_numpy(predict(module, split, task, progress=progress)).to(self.device)
            for module in self.modules
        ]
        self._kept = self._averaged(kept).cpu()

    def _averaged(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        stacked = torch.stack(outputs)
        if not self.logits:
            return stacked.mean(0)
        return stacked.softmax(-1).mean(0).clamp_min(1e-12).log()
