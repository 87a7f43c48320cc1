"""First-order Taylor group importance (Molchanov 2019, 1906.10771), taken where a unit is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lwplugin.data.batch import call
from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.importance import sum_by_unit
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data


class TaylorConfig(PruneConfig):
    """Options of ``taylor``."""

    taylor_examples: int = Field(1024, ge=1, description="Labelled calibration examples for the gradients.")
    taylor_batch_size: int = Field(
        16, ge=1, description="Examples a gradient; squares are averaged over them."
    )


def score(
    module: nn.Module, graph: Graph, data: Data, config: TaylorConfig, progress: Progress
) -> Importance:
    """E[(∂loss/∂gate)²] of a gate on each unit, over small batches.

    The gate sits on the unit where other layers read it: its derivative is the sum of weight × gradient over the
    reading slices, exact whatever norms and activations lie between.

    Raises:
        MethodError: calibration examples without labels, or a loss that is not finite.
    """
    split = data.need("calibration").head(min(config.taylor_examples, len(data.need("calibration"))))
    readers = {name for group in graph.groups for name, _ in group.readers}
    weights = {name: p for name, p in module.named_parameters() if name in readers}
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in readers)
    sums = [np.zeros(len(group)) for group in graph.groups]
    steps, total = 0, -(-len(split) // config.taylor_batch_size)
    module.eval()
    try:
        for batch in split.batches(config.taylor_batch_size):
            if batch.targets is None:
                raise MethodError(
                    "taylor needs labels on the calibration examples",
                    do="give labels, or use method: reconstruct",
                )
            loss = data.task.loss(data.task.outputs(call(module, batch.inputs)), batch.targets)
            if not torch.isfinite(loss):
                raise MethodError("The loss on a calibration batch is not finite", got=float(loss.detach()))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            products = {
                name: weight.detach() * gradient
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
                if gradient is not None
            }
            for group, total_squares in zip(graph.groups, sums, strict=True):
                total_squares += sum_by_unit(group, products, group.readers) ** 2
            steps += 1
            progress("taylor", steps, total)
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
    return [s / max(steps, 1) for s in sums]


METHOD = Method(
    "taylor", TaylorConfig, score, "least change of the loss first, by gradients on labelled examples"
)
