"""Fine-tuning after a cut or a factorization: the parent's own answers as targets, with labels where there are some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.data import Data, Task


LOGITS = frozenset({"classification", "token_classification"})
"""Tasks whose outputs are logits of classes."""


class FinetuneOptions(BaseModel):
    """How a compressed model is trained on; no training by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    finetune_epochs: int = Field(0, ge=0, description="Passes over the training split after the cut.")
    finetune_examples: int | None = Field(
        None, ge=1, description="Training examples an epoch; all by default."
    )
    finetune_lr: float = Field(1e-3, gt=0, description="Peak learning rate (AdamW, one cycle).")
    finetune_batch_size: int = Field(64, ge=1, description="Examples a step.")
    finetune_target: Literal["both", "parent", "labels"] = Field(
        "both", description="Learn the parent's outputs, the labels, or both in equal parts."
    )
    collapse: float = Field(
        0.2, ge=0, le=1, description="Least share of calibration answers that must agree with the parent's."
    )


def finetune(
    module: nn.Module,
    parent: nn.Module,
    data: Data,
    options: FinetuneOptions,
    *,
    seed: int,
    checkpoint: Path | None,
    progress: Progress,
    hold: Callable[[nn.Module], None] | None = None,
    label: str = "train",
) -> dict[str, float]:
    """Train ``module`` in place as the options ask; metrics of the training, empty when none was asked.

    ``hold`` is called before every forward pass and at the end, to put back what must not change.
    """
    if options.finetune_epochs == 0:
        return {}
    from lwplugin.training import TrainConfig, train

    config = TrainConfig(
        epochs=options.finetune_epochs,
        batch_size=options.finetune_batch_size,
        lr=options.finetune_lr,
        examples_per_epoch=options.finetune_examples,
        optimizer="adamw",
        schedule="onecycle",
        seed=seed,
    )
    loss = (
        None
        if options.finetune_target == "labels"
        else parent_loss(parent, data.task, options.finetune_target)
    )
    with holding(module, hold):
        result = train(
            module, data, config=config, loss=loss, checkpoint=checkpoint, progress=progress, label=label
        )
    module.eval()
    return {"finetune_steps": float(result.steps), "finetune_loss": float(result.losses[-1])}


@contextmanager
def holding(module: nn.Module, hold: Callable[[nn.Module], None] | None) -> Iterator[None]:
    """Calls ``hold`` before every forward pass of ``module`` and at the end; None holds nothing."""
    if hold is None:
        yield
        return
    handle = module.register_forward_pre_hook(lambda held, args: hold(held))
    try:
        yield
    finally:
        handle.remove()
    hold(module)


def parent_loss(
    parent: nn.Module, task: Task, target: Literal["both", "parent"]
) -> Callable[[nn.Module, Batch], Tensor]:
    """Loss against the parent's outputs (Hinton 2015, 1503.02531), averaged with the task's own for "both"."""
    parent.eval().requires_grad_(False)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        outputs = task.outputs(call(module, batch.inputs))
        parent.to(outputs.device)  # training may happen elsewhere than where the parent lies
        with torch.no_grad():
            wanted = task.outputs(call(parent, batch.inputs))
        followed = imitation(outputs, wanted, logits=task.name in LOGITS)
        if target == "parent" or batch.targets is None:
            return followed
        return 0.5 * (followed + task.loss(outputs, batch.targets))

    return loss


def imitation(outputs: Tensor, wanted: Tensor, *, logits: bool, temperature: float = 2.0) -> Tensor:
    """Kullback-Leibler divergence of softened classes for logits, relative squared error for anything else."""
    if not logits:
        return (outputs - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)
    classes = outputs.shape[-1]
    given = F.log_softmax(outputs.reshape(-1, classes) / temperature, dim=-1)
    target = F.log_softmax(wanted.reshape(-1, classes) / temperature, dim=-1)
    return F.kl_div(given, target, log_target=True, reduction="batchmean") * temperature**2
