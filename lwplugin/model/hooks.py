"""Code hung on a module from outside, which goes when the module is replaced or built again."""

from __future__ import annotations

from torch import nn

_RECORDERS = "transformers.utils.output_capturing"
"""Its hooks look at outputs only; a model hangs them on itself when it first runs, and does so again when rebuilt."""


def hooks_on(module: nn.Module) -> int:
    """How many forward hooks a module itself has, a ``forward`` set on the object among them."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))


def hooked(module: nn.Module) -> dict[str, int]:
    """Dotted name → how many hooks, of the submodules that have some; without those that come by themselves."""
    return {
        name: count for name, part in module.named_modules() if (count := hooks_on(part) - _recorders(part))
    }


def _recorders(module: nn.Module) -> int:
    return sum(getattr(hook, "__module__", "") == _RECORDERS for hook in module._forward_hooks.values())
