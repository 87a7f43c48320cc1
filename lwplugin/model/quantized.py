"""What says that a model was quantized before, for steps that need its float weights."""

from __future__ import annotations

from torch import nn

_PACKAGE = __name__.partition(".")[0]
BEGIN_BEFORE = "begin with the model as it was before it was quantized; in a recipe, quantize last"


def quantized_already(module: nn.Module) -> str | None:
    """``layers that are quantized already, '0' and 2 more``; None without any."""
    names = [
        name
        for name, layer in module.named_modules()
        if any(kind.__module__.split(".")[:2] == [_PACKAGE, "quantize"] for kind in type(layer).__mro__)
    ]
    if not names:
        return None
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"layers that are quantized already, '{names[0]}'{more}"
