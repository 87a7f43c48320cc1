"""Derivatives by gates, and a loss for them: the labels' where there are some, else the model's own answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.errors import MethodError
from lwplugin.model.graph import Group
from lwplugin.prune.importance import sum_by_unit
from lwplugin.training.finetune import LOGITS

if TYPE_CHECKING:
    from lwplugin.data import Task


def gate_loss(module: nn.Module, batch: Batch, task: Task, generator: torch.Generator) -> Tensor:
    """The loss of a batch whose derivative by a gate says how much the gate matters.

    With labels, the task's own. Without, the divergence from the model's own outputs is no use: at the model
    itself its gradient is zero. Its curvature is not, and is the mean square of the gradients of
    log p(answer) over answers drawn from the model (the Fisher information), or, for outputs that are not logits,
    of random projections of the outputs (Gauss-Newton). So answers or projections are drawn.

    Raises:
        MethodError: the loss is not finite.
    """
    outputs = task.outputs(call(module, batch.inputs))
    if batch.targets is not None:
        loss = task.loss(outputs, batch.targets.to(outputs.device))
    elif task.name in LOGITS:
        loss = _own_answers(outputs.flatten(0, -2), generator)
    else:
        signs = torch.randint(2, outputs.shape, generator=generator).to(outputs) * 2 - 1
        scale = outputs.detach().square().mean().sqrt().clamp_min(1e-12)
        loss = (outputs * signs).flatten(1).sum(1).mean() / scale
    if not torch.isfinite(loss):
        raise MethodError(
            "The loss on a calibration batch is not finite",
            got=float(loss.detach()),
            do="check the model and the calibration examples for NaN or infinite values",
        )
    return loss


def _own_answers(logits: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
    return F.cross_entropy(logits, drawn.to(logits.device))


def unit_slopes(
    module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch], loss: Callable[[Batch], Tensor]
) -> Iterator[list[npt.NDArray[np.float64]]]:
    """For each batch ∂loss/∂gate of a gate on every unit of ``groups``, where other layers read it.

    The derivative is the sum of weight × gradient over the reading slices, exact whatever norms and activations lie
    between.
    """
    names = {name for group in groups for name, _ in group.readers}
    weights = {name: p for name, p in module.named_parameters() if name in names}
    with only_trainable(module, names):
        for batch in batches:
            gradients = torch.autograd.grad(loss(batch), list(weights.values()), allow_unused=True)
            products = {
                name: weight.detach() * gradient
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
                if gradient is not None
            }
            yield [sum_by_unit(group, products, group.readers) for group in groups]


@contextmanager
def only_trainable(module: nn.Module, names: set[str]) -> Iterator[None]:
    """Gradients for the named parameters only; afterwards each wants what it wanted before."""
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
