"""Code hung on a module from outside, which goes when the module is replaced or built again."""

from __future__ import annotations

from torch import nn


def hooks_on(module: nn.Module) -> int:
    """How many forward hooks a module itself has, a ``forward`` set on the object among them."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))


def hooked(module: nn.Module) -> dict[str, int]:
    """Dotted name → how many hooks, of the submodules that have some."""
    return {name: count for name, part in module.named_modules() if (count := hooks_on(part))}
