"""Batch norms with running statistics, and those whose answer to one example depends on the others of its batch."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class ModelWarning(UserWarning):
    """A model will be worked on, and something about it deserves a look."""


def warn_of_batch_statistics(module: nn.Module, *, stacklevel: int) -> None:
    """Warns where a BatchNorm has no running statistics (``track_running_stats=False``)."""
    names = [name for name, layer in module.named_modules() if _of_its_batch(layer)]
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        warnings.warn(
            f"'{names[0]}'{more} normalises by the statistics of each batch: an answer depends on what else is in "
            "its batch, so files and measurements of another batch size answer otherwise, and one example alone may "
            "get no useful answer. Do: train with track_running_stats=True, or use GroupNorm or InstanceNorm.",
            ModelWarning,
            stacklevel=stacklevel + 1,
        )


def running_norms(module: nn.Module) -> list[_BatchNorm]:
    """Batch norms with running statistics: in evaluation mode what they do to a value does not hang on its batch."""
    return [n for n in module.modules() if isinstance(n, _BatchNorm) and n.running_mean is not None]


def _of_its_batch(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is None
