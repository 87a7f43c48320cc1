"""The layer that stands where a block was."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lwplugin.model.layers import register_layer


class Bypass(nn.Module):
    """Gives back the first tensor it is called with, as the block it replaces did: alone, or first of a tuple.

    ``extras`` is how many entries follow in the tuple, all None; −1 means no tuple.
    """

    def __init__(self, extras: int = -1) -> None:
        super().__init__()
        self.extras = extras

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor among the arguments, positions before keywords."""
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return first if self.extras < 0 else (first, *[None] * self.extras)

    def extra_repr(self) -> str:
        return f"extras={self.extras}"


register_layer(Bypass, lambda layer: {"extras": layer.extras})
