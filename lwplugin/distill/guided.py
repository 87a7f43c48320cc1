"""A student with what learns beside it: adapters that fall away afterwards, and a count of steps that resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Guided(nn.Module):
    """Answers as its student does. Only the student is kept when the training is over.

    ``seen`` counts training batches; it lies in the state, so a checkpoint goes on from where it stood.
    """

    seen: Tensor

    def __init__(self, student: nn.Module, adapters: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.student = student
        # Dotted names of layers cannot be keys of a ModuleDict.
        self.adapters = nn.ModuleList(list((adapters or {}).values()))
        self._positions = {name: position for position, name in enumerate(adapters or {})}
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the student returns."""
        return self.student(*args, **kwargs)

    def adapted(self, name: str, values: Tensor) -> Tensor:
        """What the student's layer ``name`` gave, at the teacher's width."""
        if name not in self._positions:
            return values
        projected: Tensor = self.adapters[self._positions[name]](values)
        return projected

    def done(self, batches: int) -> float:
        """How far the training is, from 0 to 1, with so many ``batches`` in all; counts one more in training."""
        fraction = min(1.0, int(self.seen) / max(batches - 1, 1))
        if self.training:
            self.seen += 1
        return fraction
