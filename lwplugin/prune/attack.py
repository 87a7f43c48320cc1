"""Projected gradient descent on the inputs (Madry 2018, 1706.06083): the worst small change of an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lwplugin.data.batch import Inputs, tensors
from lwplugin.errors import MethodError

if TYPE_CHECKING:
    from lwplugin.data.split import Split


@dataclass(frozen=True)
class Attack:
    """An L∞ ball around every floating-point input.

    ``epsilon`` is a share of the input's range over ``low`` … ``high``, what the examples hold; attacked inputs stay
    within that range.
    """

    epsilon: float
    steps: int
    low: float
    high: float

    @classmethod
    def on(cls, split: Split, epsilon: float, steps: int) -> Attack:
        """The attack with the range that a split's inputs have.

        Raises:
            MethodError: no input holds floating-point numbers (token ids cannot be changed a little).
        """
        low, high = float("inf"), float("-inf")
        for batch in split.batches(256):
            for tensor in tensors(batch.inputs).values():
                if tensor.is_floating_point():
                    low, high = min(low, float(tensor.min())), max(high, float(tensor.max()))
        if low > high:
            kinds = {name: str(t.dtype) for name, t in tensors(next(split.batches(1)).inputs).items()}
            raise MethodError(
                "Adversarial pruning needs inputs that can be changed a little",
                got=", ".join(f"{name}: {kind.removeprefix('torch.')}" for name, kind in kinds.items()),
                do="use taylor or reconstruct for token ids, or give the model its embeddings as floats",
            )
        return cls(epsilon, steps, low, high)

    def __call__(
        self, loss: Callable[[Inputs], Tensor], inputs: Inputs, generator: torch.Generator
    ) -> Inputs:
        """Inputs near ``inputs`` that raise ``loss``: a random start, then ``steps`` signed gradient steps."""
        radius = self.epsilon * (self.high - self.low)
        start = {n: t for n, t in tensors(inputs).items() if t.is_floating_point()}
        moved = {
            name: self._within(
                t + radius * (2 * torch.rand(t.shape, generator=generator).to(t) - 1), t, radius
            )
            for name, t in start.items()
        }
        for _ in range(self.steps):
            held = {name: t.detach().requires_grad_() for name, t in moved.items()}
            gradients = torch.autograd.grad(loss(_with(inputs, held)), list(held.values()), allow_unused=True)
            for (name, t), gradient in zip(held.items(), gradients, strict=True):
                step = 0 if gradient is None else 2.5 * radius / self.steps * gradient.sign()
                moved[name] = self._within(t.detach() + step, start[name], radius)
        return _with(inputs, moved)

    def _within(self, moved: Tensor, start: Tensor, radius: float) -> Tensor:
        near = torch.minimum(torch.maximum(moved, start - radius), start + radius)
        return near.clamp(self.low, self.high)


def _with(inputs: Inputs, changed: dict[str, Tensor]) -> Inputs:
    named = {**tensors(inputs), **changed}
    if isinstance(inputs, dict):
        return named
    return tuple(named.values()) if isinstance(inputs, tuple) else named["input"]
