"""A module's forward as a flat graph of aten operations, with every parameter and buffer as an input.

Tracing below the module level is what lets the dependency graph carry models written any way: functional
residuals, shared modules, tied weights, control flow on shapes, attention, recurrent layers. Whatever the
Python looked like, only a few dozen tensor operations remain.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from lwplugin.data.batch import Inputs
from lwplugin.errors import ModelError

Constants = dict[str, torch.Tensor]


class AtenTrace:
    """The traced graph and which of its placeholders is which parameter or buffer."""

    def __init__(self, graph: fx.Graph, names: dict[str, str], batch: int) -> None:
        self.graph = graph
        self.names = names
        """Placeholder name → dotted parameter or buffer name; the model's inputs are not in it."""
        self.batch = batch
        """Examples in the traced inputs; costs are divided by it."""


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Fused fast paths (attention, oneDNN recurrent layers) off, so that their inner structure is visible."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward call."""
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    return (inputs,), {}


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """Every tensor in a module's return value: tensor, tuple, dict, dataclass-like output object."""
    if hasattr(outputs, "to_tuple"):
        outputs = outputs.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def states_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers (persistent or not) by dotted name, each shared tensor once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def aten_trace(module: nn.Module, inputs: Inputs) -> AtenTrace:
    """Trace ``module`` in eval mode on ``inputs`` (a few real examples).

    Raises:
        ModelError: the forward cannot be traced (data-dependent control flow that torch refuses).
    """
    args, kwargs = split_inputs(inputs)
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if not leaves:
        raise ModelError("The model cannot be traced without input tensors", got=type(inputs).__name__)
    states = {name: tensor.detach() for name, tensor in states_of(module).items()}
    names = list(states)

    def forward(tensors: list[torch.Tensor], args: Any, kwargs: Any) -> list[torch.Tensor]:
        bound = dict(zip(names, tensors, strict=True))
        return tensors_of(torch.func.functional_call(module, bound, args, kwargs))

    training = module.training
    module.eval()
    try:
        with torch.no_grad(), plain_kernels():
            functional = torch.func.functionalize(forward, remove="mutations")
            graph = make_fx(functional)(list(states.values()), args, kwargs).graph
    except Exception as error:
        raise ModelError(
            "The model's forward cannot be traced",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            do="make the forward run on tensors alone, or compress a part of the model",
        ) from error
    finally:
        module.train(training)
    graph.eliminate_dead_code()
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    return AtenTrace(graph, dict(zip(placeholders, names, strict=False)), batch=max(1, leaves[0].shape[0]))
