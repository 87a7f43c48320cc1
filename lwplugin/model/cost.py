"""What one example costs: parameters, multiply-accumulates and bytes, layer by layer.

MACs are counted where the numbers are multiplied, at the dispatcher: convolutions, matrix products and
attention, in layers or in functions, each attributed to the innermost module that runs it. Elementwise work,
norms, pooling and look-ups count as none, as is usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lwplugin.data.batch import Inputs, call, take
from lwplugin.data.evaluation import kept_modes
from lwplugin.errors import LwpluginError
from lwplugin.model.forward_error import forward_error
from lwplugin.model.skeleton import own_tensors, walk
from lwplugin.model.trace import plain_kernels


@dataclass(frozen=True)
class LayerCost:
    """One module's own share; its children have theirs."""

    name: str
    kind: str
    params: int
    macs: int
    """For one example."""
    size_bytes: int
    """Parameters and buffers as they are stored: packed integers count packed."""
    out_shape: tuple[int, ...] | None
    """Of the first tensor it returned last, batch first; None where it did not run."""


@dataclass(frozen=True)
class Cost:
    """A model's cost for one example; tied tensors and modules used twice hold their bytes once."""

    params: int
    macs: int
    size_bytes: int
    layers: list[LayerCost]

    def layer(self, name: str) -> LayerCost:
        """The layer of a dotted name; KeyError where there is none."""
        return {layer.name: layer for layer in self.layers}[name]


def cost(module: nn.Module, inputs: Inputs) -> Cost:
    """Runs the first example of ``inputs`` once in eval mode and counts; the module is left as it was.

    Tensors outside every module's parameters and buffers hold no bytes here. Raises ModelError where the
    module cannot run on the inputs.
    """
    names = {id(found): name for name, found in walk(module) if isinstance(found, nn.Module)}
    modules = {name: found for name, found in walk(module) if isinstance(found, nn.Module)}
    macs, shapes = _count(module, names, take(inputs, 1))
    layers: list[LayerCost] = []
    seen: set[tuple[object, ...]] = set()
    for name, found in modules.items():
        # A packed layer keeps its numbers in buffers and says how many there are.
        params, size_bytes = int(getattr(found, "packed_params", 0)), 0
        own = [(kind, t) for kind, t in own_tensors(found).values() if t is not None and kind != "plain"]
        for kind, tensor in own:
            memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and memory in seen:
                continue
            seen.add(memory)
            params += tensor.numel() if kind == "parameter" else 0
            size_bytes += tensor.nbytes
        if own or macs.get(name) or not found._modules:
            kind_name = type(found).__name__
            layers.append(LayerCost(name, kind_name, params, macs.get(name, 0), size_bytes, shapes.get(name)))
    return Cost(
        params=sum(layer.params for layer in layers),
        macs=sum(macs.values()),
        size_bytes=sum(layer.size_bytes for layer in layers),
        layers=layers,
    )


def _count(
    module: nn.Module, names: Mapping[int, str], inputs: Inputs
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    running: list[str] = [""]
    counter = _MacCounter(running)
    shapes: dict[str, tuple[int, ...]] = {}

    def enter(found: nn.Module, _: Any) -> None:
        running.append(names[id(found)])

    def leave(found: nn.Module, _: Any, output: Any) -> None:
        name = running.pop()
        tensor = next(_tensors_in(output), None)
        if tensor is not None:
            shapes[name] = tuple(tensor.shape)

    with ExitStack() as stack:
        for found in module.modules():
            stack.callback(found.register_forward_pre_hook(enter).remove)
            stack.callback(found.register_forward_hook(leave).remove)
        stack.enter_context(plain_kernels(module))
        stack.enter_context(kept_modes(module))
        try:
            module.eval()
            with torch.no_grad(), counter:
                call(module, inputs)
        except LwpluginError:
            raise
        except Exception as error:
            raise forward_error(module, inputs, error) from error
    return counter.macs, shapes


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


class _MacCounter(TorchDispatchMode):
    """Adds up multiply-accumulates under the name of the module that is running."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()
        self.macs: dict[str, int] = {}
        self._running = running

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name not in _PRODUCTS:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if name in _PRODUCTS:
            here = self._running[-1]
            self.macs[here] = self.macs.get(here, 0) + _PRODUCTS[name](args, output)
        return output


def _product(left: int) -> Callable[[tuple[Any, ...], Any], int]:
    """One output number takes as many MACs as the left matrix is wide; ``left`` is its argument's place."""
    return lambda args, output: output.numel() * int(args[left].shape[-1])


def _summed_batches(args: tuple[Any, ...], output: Any) -> int:
    return int(args[1].numel()) * int(args[2].shape[-1])


def _convolution(args: tuple[Any, ...], output: Any) -> int:
    x, weight, transposed = args[0], args[1], bool(args[6])
    places = x if transposed else output
    return int(x.shape[0]) * prod(places.shape[2:]) * int(weight.numel())


def _attention(args: tuple[Any, ...], output: Any) -> int:
    query, key, value = args[:3]
    pairs = prod(query.shape[:-1]) * int(key.shape[-2])
    return pairs * (int(query.shape[-1]) + int(value.shape[-1]))


def _bilinear(args: tuple[Any, ...], output: Any) -> int:
    left, weight = args[:2]
    rows = prod(left.shape[:-1]) if left.dim() else 1
    return int(rows) * int(weight.numel())


_PRODUCTS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::mv": _product(0),
    "aten::dot": _product(0),
    "aten::vdot": _product(0),
    "aten::_int_mm": _product(0),
    "aten::_scaled_mm": _product(0),
    "aten::addmm": _product(1),
    "aten::addmv": _product(1),
    "aten::baddbmm": _product(1),
    "aten::addbmm": _summed_batches,
    "aten::convolution": _convolution,
    "aten::_trilinear": _bilinear,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
}
