"""Batch norm statistics of a changed network, estimated anew from unlabelled examples."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn

from lwplugin.data.batch import call
from lwplugin.data.evaluation import kept_modes
from lwplugin.data.split import Split
from lwplugin.errors import DataError
from lwplugin.model.batch_statistics import running_norms
from lwplugin.progress import Progress, silent


def recalibrate_batchnorm(
    module: nn.Module,
    split: Split,
    *,
    batches: int | None = None,
    batch_size: int = 128,
    progress: Progress = silent,
) -> int:
    """Replaces running means and variances by averages over batches, in place; returns how many layers.

    Streams: every batch counts equally and is dropped after use, so memory does not grow with their
    number. All else (dropout, weights) stays as in evaluation. A last batch under half the size is left
    out unless it is the only one. 0 means the module has no batch norm with running statistics.
    (Layers average statistics of batches normalised by themselves, as in training.)
    """
    layers = running_norms(module)
    if not layers:
        return 0
    if len(split) < 2:
        raise DataError("Batch norm statistics need at least 2 examples", got=len(split), do="give more")
    total = -(-len(split) // batch_size)
    total = total if batches is None else min(batches, total)
    momenta = [layer.momentum for layer in layers]
    with kept_modes(module), torch.no_grad():
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        try:
            for done, batch in enumerate(islice(split.batches(batch_size), total)):
                if done and 2 * len(batch) < batch_size:
                    break
                call(module, batch.inputs)
                progress("recalibrate batch norm", done + 1, total)
        finally:
            for layer, momentum in zip(layers, momenta):
                layer.momentum = momentum
    return len(layers)
