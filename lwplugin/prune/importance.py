"""Sums over the slices of coupled parameters: the arithmetic that importance scores share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwplugin.model.graph import Group, Member


def sum_by_unit(
    group: Group, values: Mapping[str, Tensor], members: Iterable[Member]
) -> npt.NDArray[np.float64]:
    """For each unit the sum of ``values`` (tensors shaped like the parameters) over its slices of ``members``."""
    total = torch.zeros(len(group), dtype=torch.float64)
    for name, axis in members:
        tensor = values.get(name)
        if tensor is None:
            continue
        others = [d for d in range(tensor.ndim) if d != axis]
        per_index = (tensor.sum(others) if others else tensor).double().cpu()
        owner = torch.from_numpy(group.owners[name, axis])
        mine = owner >= 0
        total.index_add_(0, owner[mine], per_index[mine])
    return total.numpy()
