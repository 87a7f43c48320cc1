"""First-order Taylor group importance (Molchanov 2019, 1906.10771), taken where a unit is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.data.batch import Batch
from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.select import Importance
from lwplugin.prune.sensitivity import gate_loss, unit_slopes

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
    """E[(∂loss/∂gate)²] of a gate on each unit where it is read, over small batches.

    Raises:
        MethodError: calibration examples without labels, or a loss that is not finite.
    """
    split = data.need("calibration").head(min(config.taylor_examples, len(data.need("calibration"))))
    sums = [np.zeros(len(group)) for group in graph.groups]
    total = -(-len(split) // config.taylor_batch_size)
    module.eval()

    def loss(batch: Batch) -> Tensor:
        if batch.targets is None:
            raise MethodError(
                "taylor needs labels on the calibration examples",
                do="give labels, or use method: reconstruct",
            )
        return gate_loss(module, batch, data.task, torch.Generator())

    batches = split.batches(config.taylor_batch_size)
    for done, slopes in enumerate(unit_slopes(module, graph.groups, batches, loss), start=1):
        for tally, slope in zip(sums, slopes, strict=True):
            tally += slope**2
        progress("taylor", done, total)
    return [tally / max(total, 1) for tally in sums]


METHOD = Method(
    "taylor", TaylorConfig, score, "least change of the loss first, by gradients on labelled examples"
)
