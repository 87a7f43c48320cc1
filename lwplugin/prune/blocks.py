"""Blocks that may be dropped whole: what they are given and what they give back have one shape."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.data.evaluation import kept_modes
from lwplugin.errors import MethodError
from lwplugin.model.trace import tensors_of
from lwplugin.model.watching import main_output
from lwplugin.prune.layers import Bypass


@dataclass(frozen=True)
class Block:
    """A residual block, a transformer layer: anything that can be bypassed."""

    name: str
    extras: int
    """Entries of its answer after the first (all None), −1 where it gives back a tensor."""
    plain: bool
    """Called with one tensor and answering with one: an ``nn.Identity`` stands for it."""

    def replacement(self) -> nn.Module:
        """What stands where the block was."""
        return nn.Identity() if self.plain else Bypass(self.extras)


def bypass(module: nn.Module, blocks: Sequence[Block]) -> None:
    """Put a pass-through where each block is, in place: depth and cost go with it."""
    for block in blocks:
        parent, _, leaf = block.name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, block.replacement())


def first_tensor(args: tuple[Any, ...]) -> Tensor | None:
    """The tensor a block carries on: its first argument, by position before keyword."""
    return next((v for v in args if isinstance(v, Tensor)), None)


def find_blocks(module: nn.Module, inputs: Inputs, only: Sequence[str] = ()) -> list[Block]:
    """Blocks in the order they run, outermost ones only.

    A block has layers of its own, is called once, gives back a tensor of its input's shape, alone or first in a tuple
    whose other entries are None, and the model still runs without it. Unless ``only`` (names, * allowed) says which,
    its class must occur at least twice: that is what tells a block from a body or a head.

    Raises:
        MethodError: a pattern names nothing that can be dropped, or there is no block at all.
    """
    called = _calls(module, inputs)
    kinds = Counter(type(part) for part in module.modules())
    candidates = []
    for name, block in called.items():
        layer = module.get_submodule(name)
        wanted = (
            any(fnmatch(name, pattern) for pattern in only)
            if only
            else kinds[type(layer)] > 1 and not isinstance(layer, nn.Sequential)
        )
        if wanted and block is not None and _holds_layers(layer):
            candidates.append(block)
    names = {block.name for block in candidates}
    outer = [b for b in candidates if not any(b.name.startswith(f"{other}.") for other in names)]
    found = [block for block in outer if _runs_without(module, inputs, block)]
    for pattern in only:
        if not any(fnmatch(block.name, pattern) for block in found):
            raise MethodError(
                f"only names no block that can be dropped: '{pattern}'",
                do="name modules whose input and output have one shape"
                + (
                    f": {', '.join(sorted(n for n, b in called.items() if b is not None)[:12])}"
                    if called
                    else ""
                ),
            )
    if not found:
        raise MethodError(
            "The model has no block that can be dropped",
            got="no repeated module whose input and output have one shape",
            do="name blocks with only, or use a method that removes channels (reconstruct)",
        )
    return found


def _calls(module: nn.Module, inputs: Inputs) -> dict[str, Block | None]:
    """Every submodule in the order of its first call; None where it cannot be bypassed."""
    found: dict[str, Block | None] = {}

    def hook(name: str) -> Any:
        def seen(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            found[name] = None if name in found else _block(name, args, kwargs, output)

        return seen

    handles = [
        part.register_forward_hook(hook(name), with_kwargs=True)
        for name, part in module.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), kept_modes(module):
            module.eval()
            call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _block(name: str, args: Any, kwargs: dict[str, Any], output: Any) -> Block | None:
    given, answer = first_tensor((*args, *kwargs.values())), main_output(output)
    if given is None or not isinstance(answer, Tensor) or not answer.is_floating_point():
        return None
    if given.shape != answer.shape or given.dtype != answer.dtype:
        return None
    extras = -1
    if not isinstance(output, Tensor):
        # A named tuple or a dataclass has a type that a pass-through cannot give back.
        if type(output) is not tuple or any(rest is not None for rest in output[1:]):
            return None
        extras = len(output) - 1
    return Block(name, extras, plain=extras < 0 and len(args) == 1 and not kwargs)


def _holds_layers(layer: nn.Module) -> bool:
    """Weights in submodules of its own: a block, not a single layer."""
    return any(p.ndim > 1 and "." in name for name, p in layer.named_parameters())


def _runs_without(module: nn.Module, inputs: Inputs, block: Block) -> bool:
    trial = copy.deepcopy(module).eval()
    with torch.no_grad():
        before = [t.shape for t in tensors_of(call(trial, inputs))]
        bypass(trial, [block])
        try:
            after = tensors_of(call(trial, inputs))
        except Exception:
            return False
    return before == [t.shape for t in after] and all(
        bool(torch.isfinite(t).all()) for t in after if t.is_floating_point()
    )
