"""The bundle's own integers as the Q/DQ graph that PT2E converters read (LiteRT, XNNPACK).

The float twin is exported; every ranged tensor then gets one quantize/dequantize pair that all readers share, and
every weight its own, with the scales and zero points of the bundle: the converter decides nothing again. Activations
are s8 (the bundle's u8 grid, shifted by 128), weights s8 per output channel, biases float, which converters round to
32 bits at the product of both scales. A layer that reads its own range while it runs does so here too: for
XNNPACK the operators of such a rounding stand before it; for LiteRT it stays float and its integers go beside it.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx, nn

from lwplugin.errors import ExportError
from lwplugin.export.onnx_ranges import Range, union
from lwplugin.export.pt2e_ranges import (
    CATS,
    CLIPS,
    POOLS,
    data_inputs,
    is_sum,
    keeps_values,
    known_ranges,
    packet,
)
from lwplugin.quantize.layers import QuantConv1d, QuantLayer, QuantLinear
from lwplugin.quantize.scheme import AffineGrid

_quantized = torch.ops.quantized_decomposed
_KERNELS = frozenset(getattr(torch.ops.aten, name) for name in ("conv2d", "linear"))
_SHIFT = 128
_LEAST_SCALE = torch.finfo(torch.float32).eps


class ConvAs2d(nn.Module):
    """A 1-d convolution as the 2-d one that integer kernels know. [n, in, length] → [n, out, length']."""

    def __init__(self, layer: QuantConv1d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.unsqueeze(2), requires_grad=False)
        self.bias = layer.bias
        same = isinstance(layer.padding, str)
        self._padding = layer.padding if same else (0, *layer.padding)
        self._stride, self._dilation = (1, *layer.stride), (1, *layer.dilation)
        self._groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """Through one more dimension and back."""
        y = nn.functional.conv2d(
            x.unsqueeze(2), self.weight, self.bias, self._stride, self._padding, self._dilation, self._groups
        )
        return y.squeeze(2)


class GainedLinear(nn.Module):
    """A linear layer whose input is scaled by channel before it is rounded."""

    def __init__(self, layer: QuantLinear, gain: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("gain", gain)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        return nn.functional.linear(x * self.gain, self.weight, self.bias)


def float_twin(module: nn.Module, layers: dict[str, QuantLayer]) -> nn.Module:
    """A copy whose quantized layers are the float layers that `lower` finds again by their weights.

    Raises ExportError for a layer that no integer kernel runs as the bundle has it.
    """
    twin = copy.deepcopy(module)
    for name, layer in layers.items():
        _refuse(name, layer)
        stands: nn.Module
        if isinstance(layer, QuantConv1d):
            stands = ConvAs2d(layer)
        elif isinstance(layer, QuantLinear) and layer.input_gain is not None:
            stands = GainedLinear(layer, layer.input_gain)
        else:
            stands = layer.to_float()
        if not name:
            return stands
        twin.set_submodule(name, stands)
    return twin


def reads_own_range(layer: QuantLayer) -> bool:
    """Whether the input is rounded to the range that it turns out to have; linear layers alone can."""
    return isinstance(layer, QuantLinear) and layer.dynamic


def lower(
    program: fx.GraphModule, layers: dict[str, QuantLayer], *, prefix: str, weights_as_integers: bool
) -> fx.GraphModule:
    """Place all pairs in the float twin's graph; changes and returns ``program``.

    Args:
        layers: quantized layers by the dotted names that, behind ``prefix``, their twins have in the program.
        weights_as_integers: weights are stored as s8 (XNNPACK); else as their float values with a quantize
            operator of their own (LiteRT), or as they are where the layer reads its own range.

    Raises ExportError where a layer's weight is read by something else than its own operator.
    """
    graph = program.graph
    by_weight = {f"{prefix}{name}.weight".removeprefix("."): name for name in layers}
    found: dict[fx.Node, QuantLayer] = {}
    for node in graph.nodes:
        weight = node.args[1] if packet(node) in _KERNELS else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and str(weight.target) in by_weight:
            found[node] = layers[by_weight[str(weight.target)]]
    # A weight that nobody reads belongs to a layer whose answer is not asked for.
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr" and node.users}
    called = set(map(id, found.values()))
    missing = [
        name for weight, name in by_weight.items() if weight in read and id(layers[name]) not in called
    ]
    if missing:
        raise ExportError(
            "The weights of quantized layers are read past the layers",
            got=", ".join(sorted(missing)[:5]),
            do="leave these layers in float with skip",
        )
    _place_activations(graph, {node: layer for node, layer in found.items() if not reads_own_range(layer)})
    for node, layer in found.items():
        if reads_own_range(layer) and weights_as_integers:
            _round_to_own_range(graph, node)
    for place, (node, layer) in enumerate(found.items()):
        if weights_as_integers or not reads_own_range(layer):
            _round_weight(program, node, layer, place, weights_as_integers)
    graph.lint()
    program.recompile()
    return program


def _place_activations(graph: fx.Graph, kernels: dict[fx.Node, QuantLayer]) -> None:
    taken: dict[fx.Node, Range] = {}
    given: dict[fx.Node, Range] = {}
    for node, layer in kernels.items():
        source = data_inputs(node)[0]
        bounds: Range = tuple(layer.input_range.tolist())
        taken[source] = union(taken[source], bounds) if source in taken else bounds
        given[node] = tuple(layer.output_range.tolist())
    known = known_ranges(graph, taken, given)
    integer = _integer_nodes(graph, known, set(kernels))
    pairs = [
        node
        for node in graph.nodes
        if node in known
        and (node in integer or any(reader in integer for reader in node.users))
        and not _only_clipped(node, integer)
    ]
    for node in pairs:
        readers = [reader for reader in node.users if node in integer or reader in integer]
        rounded = _pair(graph, node, AffineGrid.of_range(*known[node]))
        for reader in readers:
            reader.replace_input_with(node, rounded)


def _integer_nodes(graph: fx.Graph, known: dict[fx.Node, Range], kernels: set[fx.Node]) -> set[fx.Node]:
    """The layers, what lies between them with all ranges known, and the clips that vanish into either."""
    integer = set(kernels)
    for node in reversed(graph.nodes):
        kind = packet(node)
        if node in integer or node not in known:
            continue
        if not (keeps_values(node) or is_sum(node) or kind in CATS or kind in POOLS):
            continue
        behind = [
            reader for user in node.users for reader in (user.users if packet(user) in CLIPS else (user,))
        ]
        if any(reader in integer for reader in behind) and all(each in known for each in data_inputs(node)):
            integer.add(node)
    for node in graph.nodes:
        if packet(node) in CLIPS and node in known:
            source = data_inputs(node)[0]
            if source in integer and len(source.users) == 1 and (source in kernels or is_sum(source)):
                integer.add(node)
    return integer


def _only_clipped(node: fx.Node, integer: set[fx.Node]) -> bool:
    """Whether the only reader is a clip that the kernel does itself: rounding in between would round twice."""
    readers = list(node.users)
    return node in integer and len(readers) == 1 and packet(readers[0]) in CLIPS and readers[0] in integer


def _pair(graph: fx.Graph, node: fx.Node, grid: AffineGrid) -> fx.Node:
    numbers = (grid.scale, grid.zero_point - _SHIFT, grid.low - _SHIFT, grid.high - _SHIFT, torch.int8)
    after = node
    if node.op == "placeholder":
        after = [each for each in graph.nodes if each.op == "placeholder"][-1]
    with graph.inserting_after(after):
        rounded = graph.call_function(_quantized.quantize_per_tensor.default, (node, *numbers))
    with graph.inserting_after(rounded):
        return graph.call_function(_quantized.dequantize_per_tensor.default, (rounded, *numbers))


def _round_to_own_range(graph: fx.Graph, node: fx.Node) -> None:
    """The layer's input is rounded to the range that it turns out to have; each reader has operators of its own."""
    (source,) = data_inputs(node)[:1]
    limits = (-128, 127)
    with graph.inserting_before(node):
        chosen = graph.call_function(
            _quantized.choose_qparams.tensor, (source, *limits, _LEAST_SCALE, torch.int8)
        )
        scale, zero = (graph.call_function(operator.getitem, (chosen, place)) for place in (0, 1))
        numbers = (scale, zero, *limits, torch.int8)
        rounded = graph.call_function(_quantized.quantize_per_tensor.tensor, (source, *numbers))
        back = graph.call_function(_quantized.dequantize_per_tensor.tensor, (rounded, *numbers))
    node.update_arg(0, back)


def _round_weight(
    program: fx.GraphModule, node: fx.Node, layer: QuantLayer, place: int, as_integers: bool
) -> None:
    graph, weight = program.graph, node.args[1]
    assert isinstance(weight, fx.Node)
    shape = dict(program.named_parameters())[str(weight.target)].shape
    held: dict[str, Any] = {
        "scale": layer.scale[:, 0].clone(),
        "zero": torch.zeros(shape[0], dtype=torch.int64),
    }
    if as_integers:
        held["integers"] = layer.integers().reshape(shape).contiguous()
    names = {kind: f"lwplugin_weight_{place}_{kind}" for kind in held}
    for kind, tensor in held.items():
        program.register_buffer(names[kind], tensor)
    limits = (0, -127, 127, torch.int8)
    with graph.inserting_before(node):
        scale, zero = graph.get_attr(names["scale"]), graph.get_attr(names["zero"])
        if as_integers:
            source = graph.get_attr(names["integers"])
        else:
            source = graph.call_function(
                _quantized.quantize_per_channel.default, (weight, scale, zero, *limits)
            )
        rounded = graph.call_function(
            _quantized.dequantize_per_channel.default, (source, scale, zero, *limits)
        )
    node.update_arg(1, rounded)


def _refuse(name: str, layer: QuantLayer) -> None:
    reason = None
    if layer.activation_bits != 8:
        reason = f"activations of {layer.activation_bits or 'no'} bits"
    elif layer.scale.shape[1] != 1:
        reason = f"groups of {layer.group_size} weights with a scale each"
    if reason:
        raise ExportError(
            "The integer kernels here know 8-bit activations and one scale for each output channel",
            got=f"layer '{name}' with {reason}",
            do="quantize with method int8 and no group_size, or export format 'onnx'",
        )
