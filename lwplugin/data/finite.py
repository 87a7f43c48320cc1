"""Examples that hold NaN or infinity, looked for where an answer came out as one."""

from __future__ import annotations

import numpy as np
import torch

from lwplugin.data.batch import Inputs, tensors
from lwplugin.data.split import Split
from lwplugin.errors import DataError


def finite_rows(inputs: Inputs, targets: torch.Tensor | None = None) -> np.ndarray:
    """Of each example whether all its numbers are finite, bool [n]."""
    found = list(tensors(inputs).values())
    if targets is not None:
        found.append(targets)
    finite = torch.ones(len(found[0]), dtype=torch.bool)
    for tensor in found:
        if tensor.is_floating_point():
            finite &= tensor.isfinite().reshape(len(tensor), -1).all(1).cpu()
    return finite.numpy()


def need_finite(split: Split) -> None:
    """Reads the split. Raises DataError where examples hold NaN or infinity, which few models answer sensibly."""
    bad = np.concatenate(
        [batch.ids[~finite_rows(batch.inputs, batch.targets)] for batch in split.batches(256)]
    )
    if len(bad):
        rows = bad if split.index is None else split.index[bad]
        raise not_finite(split.name, f"{len(bad)} of {len(split)}, the first in row {rows.min()}")


def not_finite(where: str, which: str) -> DataError:
    """The error for examples that hold NaN or infinity."""
    return DataError(
        f"Examples of {where} hold NaN or infinity",
        got=which,
        do="fill in or drop what is missing before the data block reads it, as was done for the training",
    )
