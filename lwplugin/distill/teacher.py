"""The model that is learnt from: frozen, on the training's device, its answers kept where that saves time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Batch, Inputs, call
from lwplugin.distill.answers import Answers, write_answers
from lwplugin.progress import Progress
from lwplugin.training.finetune import LOGITS

if TYPE_CHECKING:
    from lwplugin.data import Data


class Together(nn.Module):
    """Several teachers as one: the mean of their probabilities as logits where they answer classes, else the mean."""

    def __init__(self, modules: Sequence[nn.Module], data: Data) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self._task = data.task

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """Answers float [n, …]."""
        given: Inputs = named or (args if len(args) > 1 else args[0])
        answers = [self._task.outputs(call(part, given)).float() for part in self.parts]
        stacked = torch.stack([answer.to(answers[0].device) for answer in answers])
        if self._task.name not in LOGITS:
            return stacked.mean(0)
        return stacked.softmax(-1).mean(0).clamp_min(1e-12).log()


def as_one(modules: Sequence[nn.Module], data: Data) -> nn.Module:
    """The teacher itself, or several together."""
    return modules[0] if len(modules) == 1 else Together(modules, data)


class Teacher:
    """A frozen module; ``paired`` data hold the student's examples as the teacher sees them.

    Kept answers lie below ``folder``, or in memory without one.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Data,
        device: torch.device,
        *,
        paired: Data | None = None,
        folder: Path | None = None,
    ) -> None:
        self.module = module.eval().requires_grad_(False).to(device)
        self.device, self.paired, self.folder = device, paired, folder
        self._data = data
        self._kept: Answers | None = None

    def of(self, module: nn.Module, data: Data) -> Teacher:
        """Another teacher of the same kind."""
        return Teacher(module, data, self.device, paired=self.paired, folder=self.folder)

    @property
    def seen(self) -> Data:
        """The data as the teacher sees them."""
        return self.paired or self._data

    @property
    def logits(self) -> bool:
        """Whether its answers are classes' logits."""
        return self._data.task.name in LOGITS

    def inputs(self, batch: Batch, *, of_training: bool) -> Inputs:
        """What the teacher sees of a batch of the training, or else the calibration split."""
        if self.paired is None:
            return batch.inputs
        split = self.paired.need("train" if of_training else "calibration")
        return next(split.subset(batch.ids).batches(len(batch))).inputs

    def __call__(self, batch: Batch, *, of_training: bool) -> Tensor:
        """Answers for a batch on the device: float [n, …], without gradients; kept ones are ``of_training``."""
        if of_training and self._kept is not None:
            return self._kept.rows(batch.ids).to(self.device)
        with torch.no_grad():
            return self._answers(self.inputs(batch, of_training=of_training))

    def keep_answers(self, examples_used: int, progress: Progress) -> None:
        """Answer every training example once, where that is less work and reading it again gives the same.

        Nothing is kept where fewer ``examples_used`` (over the whole training) than there are would ask, where
        sequences are padded to the length of their batch, and beyond 1 GiB in memory or half of what is free on disk.
        """
        split = self.seen.need("train")
        if self._kept is None and examples_used > len(split) and split.reader.repeatable:
            self._kept = write_answers(
                self.module, split, self._answers, self.folder, progress, digest=self.seen.digest
            )

    def _answers(self, inputs: Inputs) -> Tensor:
        return self._data.task.outputs(call(self.module, inputs)).float().to(self.device)
