"""A module's forward as a flat graph of aten operations, with every parameter and buffer as an input.

Tracing below the module level is what lets the dependency graph carry models written any way: functional
residuals, shared modules, tied weights, control flow on shapes, attention, recurrent layers. Whatever the
Python looked like, only a few dozen tensor operations remain.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from lwplugin.data.batch import Inputs, device_of, to_device
from lwplugin.data.evaluation import kept_modes
from lwplugin.errors import ModelError
from lwplugin.model.forward_error import forward_error


class AtenTrace:
    """The traced graph and which of its placeholders is which parameter or buffer."""

    def __init__(self, graph: fx.Graph, names: dict[str, str], batch: int) -> None:
        self.graph = graph
        self.names = names
        """Placeholder name → dotted parameter or buffer name."""
        self.batch = batch
        """Examples in the traced inputs; costs are divided by it."""


class Recorder(TorchDispatchMode):
    """Runs every aten operation for real and writes it down as a node.

    Because values are real, a model may branch on them (masks, shapes, early exits): the branch taken is the
    one recorded. What does not come from a parameter is a constant of the graph.
    """

    def __init__(self, states: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.names: dict[str, str] = {}
        self._node_of = WeakTensorKeyDictionary()
        for name, tensor in states.items():
            node = self._placed(self.graph.placeholder("state"), tensor)
            self.names[node.name] = name

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        if tensor not in self._node_of:
            self._placed(self.graph.create_node("get_attr", "constant"), tensor)
        return cast(fx.Node, self._node_of[tensor])

    def _placed(self, node: fx.Node, value: Any) -> fx.Node:
        node.meta["val"] = pytree.tree_map_only(
            torch.Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device="meta"), value
        )
        if isinstance(value, torch.Tensor):
            self._node_of[value] = node
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        nodes = pytree.tree_map_only(torch.Tensor, self.node_of, (args, kwargs))
        out = func(*args, **kwargs)
        plain = pytree.tree_map_only(torch.Generator, str, nodes)
        if isinstance(out, torch.Tensor):
            self._placed(self.graph.call_function(func, *plain), out)
        elif isinstance(out, (tuple, list)):
            whole = self._placed(self.graph.call_function(func, *plain), out)
            for index, item in enumerate(out):
                if isinstance(item, torch.Tensor):
                    self._placed(self.graph.call_function(operator.getitem, (whole, index)), item)
        return out


@contextmanager
def plain_kernels(module: nn.Module) -> Iterator[None]:
    """Fused fast paths (attention, oneDNN recurrent layers) off, so that their inner structure is visible."""
    # A stand-in for one of torch's says of itself that it is recurrent.
    recurrent = any(
        isinstance(layer, nn.RNNBase) or getattr(layer, "recurrent", False) for layer in module.modules()
    )
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            if recurrent:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # oneDNN speaks of Intel GPUs when its flags are set
                    stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
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
    """Every tensor in a module's return value: tensor, tuple, dict, dataclass, ModelOutput."""
    if hasattr(outputs, "to_tuple"):
        outputs = outputs.to_tuple()
    found = []
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of([getattr(leaf, field.name) for field in fields(leaf)])
    return found


def states_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers (persistent or not) by dotted name, each shared tensor once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def aten_trace(module: nn.Module, inputs: Inputs) -> AtenTrace:
    """Trace ``module`` in eval mode on ``inputs`` (a few real examples).

    Raises:
        ModelError: the forward does not run on these inputs.
    """
    args, kwargs = split_inputs(to_device(inputs, device_of(module)))
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if not leaves:
        raise ModelError("The model cannot be traced without input tensors", got=type(inputs).__name__)
    states = states_of(module)
    try:
        with torch.no_grad(), kept_modes(module), plain_kernels(module), Recorder(states) as recorder:
            module.eval()
            outputs = tensors_of(module(*args, **kwargs))
    except Exception as error:
        raise forward_error(module, inputs, error) from error
    recorder.graph.output([recorder.node_of(t) for t in outputs])
    reads = _meet_weights(recorder.graph)
    recorder.graph.eliminate_dead_code(is_impure_node=lambda node: _written_in_place(node) or node in reads)
    return AtenTrace(recorder.graph, recorder.names, batch=max(1, leaves[0].shape[0]))


def _meet_weights(graph: fx.Graph) -> set[fx.Node]:
    """Operations where something meets a weight or buffer. They run, and must fit, though nobody reads the result."""
    weights, found = set(graph.find_nodes(op="placeholder")), set[fx.Node]()
    for node in graph.nodes:
        if node.op != "call_function" or not (sources := node.all_input_nodes):
            continue
        if all(source in weights for source in sources):
            weights.add(node)
        elif any(source in weights for source in sources):
            found.add(node)
    return found


def _written_in_place(node: fx.Node) -> bool:
    """Kept although unread: inputs, and operations that write into a tensor others read."""
    schema = getattr(node.target, "_schema", None)
    return node.op in {"placeholder", "output"} or (schema is not None and schema.is_mutable)
