"""Which layers can become a product of smaller ones, and why the others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError
from lwplugin.factorize.forms import Form, FormName
from lwplugin.model.cost import Cost
from lwplugin.model.hooks import hooks_on
from lwplugin.model.trace import tensors_of
from lwplugin.model.watching import watching

KINDS: dict[type[nn.Module], tuple[FormName, ...]] = {
    nn.Linear: ("channel",),
    nn.Embedding: ("channel",),
    nn.Conv1d: ("channel", "tucker"),
    nn.Conv2d: ("channel", "spatial", "tucker"),
}
"""Layer types that have a product form, exactly: code of a subclass may do something else."""


@dataclass(frozen=True)
class Sites:
    """Layers that may be factorized in the order in which they run, and why the others stay."""

    names: list[str]
    left_alone: dict[str, str]


def find_sites(module: nn.Module, inputs: Inputs, skip: Sequence[str]) -> Sites:
    """Runs the inputs and looks at every layer that holds a weight matrix.

    Raises MethodError for a skip pattern that names no layer.
    """
    layers = {name: layer for name, layer in module.named_modules() if _holds_matrix(layer)}
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise MethodError(
                "A skip pattern names no layer that could be factorized",
                got=repr(pattern),
                do=f"use names such as {', '.join(list(layers)[:5])}",
            )
    calls: Counter[str] = Counter()
    with torch.no_grad(), watching(module, layers, lambda name, *_: calls.update([name])):
        call(module, inputs)
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    homes = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    left_alone: dict[str, str] = {}
    names: list[str] = []
    for name in [*calls, *(n for n in layers if n not in calls)]:
        layer: Any = layers[name]
        shared = homes[id(layer)] > 1 or any(owners[id(p)] > 1 for p in layer.parameters(recurse=False))
        reason = _reason(layer, calls[name], shared)
        if any(fnmatchcase(name, pattern) for pattern in skip):
            reason = "named in skip"
        if reason is None:
            names.append(name)
        else:
            left_alone[name] = reason
    read = read_by_others(module, names, inputs)
    left_alone |= dict.fromkeys(read, "code around the layer reads its attributes")
    return Sites([name for name in names if name not in read], left_alone)


def _holds_matrix(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor):
        return weight.dim() >= 2
    return not layer._modules and any(p.dim() >= 2 for p in layer.parameters(recurse=False))


def _reason(layer: Any, calls: int, shared: bool) -> str | None:
    if type(layer) not in KINDS:
        return f"layer type {type(layer).__name__} has no product form"
    if shared:
        return "its weight is shared with another module"
    if hooks_on(layer):
        return "hooks on it would be lost"
    if calls == 0:
        return "not called as a layer in the forward pass"
    if calls > 1:
        return "called more than once in a forward pass"
    if layer.weight.dtype not in (torch.float32, torch.float64):
        return f"its weight is {layer.weight.dtype}; float32 is needed"
    if isinstance(layer, nn.Embedding):
        return "it renormalises its rows (max_norm)" if layer.max_norm is not None else None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        if layer.groups > 1:
            return "a grouped convolution is block diagonal already"
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return f"padding {layer.padding_mode}, {layer.padding}"
    return None


def read_by_others(module: nn.Module, names: Sequence[str], inputs: Inputs) -> list[str]:
    """Layers whose place cannot be taken by a container: code outside them reads ``.weight`` or the like.

    Found by trial: each layer is put into a Sequential, the model runs, and its answer must stay.
    """
    with torch.no_grad():
        wanted = tensors_of(call(module, inputs))

    def stands(tried: Sequence[str]) -> bool:
        layers = {name: module.get_submodule(name) for name in tried}
        try:
            for name, layer in layers.items():
                put(module, name, nn.Sequential(layer))
            with torch.no_grad():
                found = tensors_of(call(module, inputs))
            return len(found) == len(wanted) and all(map(torch.equal, found, wanted))
        except (AttributeError, TypeError, RuntimeError):
            return False
        finally:
            for name, layer in layers.items():
                put(module, name, layer)

    return [] if stands(names) else [name for name in names if not stands([name])]


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Replaces the submodule of a dotted name."""
    parent, _, last = name.rpartition(".")
    module.get_submodule(parent)._modules[last] = layer


def ladder(kernel: tuple[int, ...], name: FormName, round_to: int | None, rank: int | None) -> list[Form]:
    """Forms of one kind, smallest first: ranks in multiples, up to where the kernel's own rank ends.

    ``rank`` asks for this one alone (``tucker``: at most it on either side).
    """
    o, i, kh, kw = kernel
    if name == "tucker":
        return _tucker_ladder(o, i, kh * kw, round_to, rank)
    if name == "spatial" and min(kh, kw) == 1:
        return []  # the channel form of a kernel with one row is as small
    full = min(o, i * kh * kw) if name == "channel" else min(o * kw, i * kh)
    if rank is not None:
        return [Form(name, (rank,))] if rank <= full else []
    step = multiple(full, round_to)
    return [Form(name, (r,)) for r in range(step, full + 1, step)]


def _tucker_ladder(o: int, i: int, taps: int, round_to: int | None, rank: int | None) -> list[Form]:
    if taps == 1:
        return []
    if rank is not None:
        return [Form("tucker", (min(rank, i), min(rank, o)))]
    step_i, step_o = multiple(i, round_to), multiple(o, round_to)
    levels = max(i // step_i, o // step_o)
    pairs = {
        (
            max(step_i, round(i * level / levels / step_i) * step_i),
            max(step_o, round(o * level / levels / step_o) * step_o),
        )
        for level in range(1, levels + 1)
    }
    return [Form("tucker", pair) for pair in sorted(pairs)]


def multiple(full: int, round_to: int | None) -> int:
    """Ranks go in steps of this: 8 for layers of rank 32 and more, less for narrow ones."""
    wanted = round_to or next((m for m in (8, 4, 2) if full >= 4 * m), 1)
    return min(wanted, max(full, 1))


@dataclass(frozen=True)
class Places:
    """How many positions of one example a layer's kernel is applied at, and its strides."""

    outputs: float
    stride: tuple[int, int] = (1, 1)
    lookup: bool = False
    """The first kernel is a table that is looked up, not multiplied."""

    def macs(self, form: Form | None, kernel: tuple[int, ...]) -> float:
        """Multiply-accumulates of one example."""
        if form is None:
            return 0.0 if self.lookup else self.outputs * _numel(kernel)
        first, *rest = form.shapes(kernel)
        if self.lookup:
            return self.outputs * sum(_numel(shape) for shape in rest)
        sh, sw = self.stride
        # The first of two 1d kernels has not yet stepped along the other axis; a 1 × 1 before it along neither.
        wider = {"channel": 1, "spatial": sw, "tucker": sh * sw}[form.name]
        return self.outputs * (wider * _numel(first) + sum(_numel(shape) for shape in rest))


def places(name: str, layer: Any, cost: Cost) -> Places:
    """From the model's own count of multiply-accumulates."""
    if isinstance(layer, nn.Embedding):
        shape = cost.layer(name).out_shape or (1, 1)
        return Places(_numel(shape[:-1]), lookup=True)
    weight = layer.weight.numel()
    stride = getattr(layer, "stride", (1, 1))
    return Places(
        cost.layer(name).macs / weight, (stride[0], stride[1]) if len(stride) > 1 else (1, stride[0])
    )


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= int(size)
    return count
