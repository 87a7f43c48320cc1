"""How each quantized layer type is written in ONNX. Another layer type is one more `lowering`.

While torch exports the model, every quantized layer stands as one node ``lwplugin::Layer`` that carries its
name; afterwards the node is replaced by what its lowering writes. So no weight has to be recognised in the
graph again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lwplugin.errors import ExportError
from lwplugin.export.onnx_graph import GraphEditor, make_node
from lwplugin.quantize.layers import QuantConv1d, QuantConv2d, QuantConv3d, QuantLayer, QuantLinear
from lwplugin.quantize.packed import PackedMatrix
from lwplugin.quantize.scheme import AffineGrid

if TYPE_CHECKING:
    import onnx

DOMAIN = "lwplugin"
MARK = "Layer"
DYNAMIC = "DynamicQuantizeLinear"


@dataclass(frozen=True)
class Scheme:
    """How a target lays out integers."""

    name: str
    symmetric_activations: bool
    integer_bias: bool
    packed_kernels: bool = False
    """Whether weight-only groups become operators that read them packed, or are unpacked at load."""
    block_constants: bool = False
    """Whether weight-only groups are 4- and 8-bit constants with scales in blocks (operator set 21)."""
    adds_into_products: bool = False
    """Whether a convolution or product takes the addition that reads it into its kernel, unrounded."""
    keeps_gains_apart: bool = False
    """Whether the gain of a two-dimensional input must not meet the rounding, into which the runtime would fold it."""
    products_without_zero_points: bool = False
    """Whether products are fastest on codes without a zero point, which then goes to their bias."""
    plain_roundings: bool = False
    """Whether gains and norms in front of a rounding take up its scale and zero point (`onnx_roundings.py`)."""
    width_multiple: int = 1
    """Channels between two products come in whole multiples of this, where few are missing (`onnx_widths.py`)."""
    rounds_scores: bool = False
    """Whether attention multiplies whole numbers where queries and keys are outputs of layers."""
    least_inputs_3d: int = 1
    """3d convolutions of fewer input channels a group are multiplied in float: their integer kernel is slower."""
    dynamic_ranges: bool = True
    """Whether there are kernels that take the range of their input while they run."""

    def grid(self, lo: float, hi: float, bits: int = 8) -> AffineGrid:
        """The integer grid of an activation range."""
        return (AffineGrid.symmetric if self.symmetric_activations else AffineGrid.of_range)(
            lo, hi, bits=bits
        )

    def reads_own_range(self, layer: Any) -> bool:
        """Whether a layer's input is rounded to the range it turns out to have, or to the calibrated one."""
        return bool(getattr(layer, "dynamic", False)) and self.dynamic_ranges

    def multiplies(self, layer: Any) -> bool:
        """Whether a layer with calibrated ranges is multiplied in integers."""
        narrow = isinstance(layer, QuantConv3d) and layer.in_channels // layer.groups < self.least_inputs_3d
        return not narrow and not self.reads_own_range(layer)

    def describe(self, layers: dict[str, Any]) -> dict[str, Any]:
        """What ``export.json`` says about the integer layers; empty without any."""
        layers = {name: layer for name, layer in layers.items() if isinstance(layer, QuantLayer)}
        if not layers:
            return {}
        largest = max(int(layer.integers().abs().max()) for layer in layers.values())
        return {
            "name": self.name,
            "activations": "s8 symmetric" if self.symmetric_activations else "u8 asymmetric",
            "weights": "s8 symmetric per channel",
            "bias": "int32" if self.integer_bias else "float32",
            "largest_weight": largest,
            "layers": len(layers),
            "dynamic_layers": sum(self.reads_own_range(layer) for layer in layers.values()),
        }


SCHEMES = {
    "cpu": Scheme("u8s8", symmetric_activations=False, integer_bias=True, least_inputs_3d=8),
    "tensorrt": Scheme("s8s8", symmetric_activations=True, integer_bias=False, dynamic_ranges=False),
}

Lowering = Callable[[GraphEditor, "onnx.NodeProto", str, Any, Scheme], "list[onnx.NodeProto]"]
LOWERINGS: dict[type[nn.Module], Lowering] = {}


def lowering(*types: type[nn.Module]) -> Callable[[Lowering], Lowering]:
    """Registers how layers of exactly these types are written."""

    def register(function: Lowering) -> Lowering:
        for cls in types:
            LOWERINGS[cls] = function
        return function

    return register


class _Mark(nn.Module):
    """Stands in for a layer during export: same shapes, one node with the layer's name.

    ``weight`` and ``bias`` are there for code that reads them past the layer, and what else it may ask for, such as a
    ``stride``, is the float twin's.
    """

    def __init__(self, layer: Any, name: str) -> None:
        super().__init__()
        twin = layer.to_float()
        self.weight = twin.weight
        self.bias = getattr(twin, "bias", None)
        self.twin = twin
        self.name = name

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("twin"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The float twin runs for its output's shape only; the exporter drops what nobody reads."""
        output = self.twin(x)
        made: torch.Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{MARK}",
            [x],
            attrs={"layer": self.name},
            dtype=output.dtype,
            shape=output.shape,
            version=1,
        )
        return made


class _WeightMark(nn.Module):
    """Stands in for a layer that only gives its ``weight``, which is then the node."""

    def __init__(self, layer: Any, name: str) -> None:
        super().__init__()
        self.shape = tuple(layer.weight.shape)
        self.name = name

    @property
    def weight(self) -> torch.Tensor:
        """Its shape is all that is known of it."""
        made: torch.Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{MARK}",
            [],
            attrs={"layer": self.name},
            dtype=torch.float32,
            shape=self.shape,
            version=1,
        )
        return made


def traced_from_source(module: nn.Module) -> nn.Module:
    """The marked ``module`` for an export that reads the source, which passes over torch's own ONNX functions."""
    for part in module.modules():
        if isinstance(part, _Mark):
            part.forward = torch._dynamo.dont_skip_tracing(part.forward)  # type: ignore[method-assign]
    return module


def marked_layers(module: nn.Module) -> dict[str, Any]:
    """All layers that have a lowering, by dotted name."""
    return {name: layer for name, layer in module.named_modules() if type(layer) in LOWERINGS}


def mark(module: nn.Module) -> nn.Module:
    """A copy in which each of those layers leaves a mark in the graph."""
    marked = copy.deepcopy(module)
    for name, layer in marked_layers(marked).items():
        made = (_WeightMark if isinstance(layer, PackedMatrix) else _Mark)(layer, name)
        if not name:
            return made
        marked.set_submodule(name, made)
    return marked


def layer_of(node: onnx.NodeProto) -> str | None:
    """The layer's name a mark carries; None for other nodes."""
    from lwplugin.export.onnx_graph import attribute

    if node.domain != DOMAIN or node.op_type != MARK:
        return None
    return str(attribute(node, "layer", b"").decode())


@lowering(QuantConv1d, QuantConv2d, QuantConv3d)
def _conv(
    graph: GraphEditor, node: onnx.NodeProto, name: str, layer: Any, scheme: Scheme
) -> list[onnx.NodeProto]:
    nodes, weight = _weight(graph, name, layer)
    inputs = [node.input[0], weight]
    bias_nodes, bias = _bias(graph, name, layer, scheme)
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "group": layer.groups,
        "pads": pads(layer),
    }
    conv = make_node("Conv", [*inputs, *([bias] if bias else [])], node.output[0], **attributes)
    return [*nodes, *bias_nodes, conv]


@lowering(QuantLinear)
def _linear(
    graph: GraphEditor, node: onnx.NodeProto, name: str, layer: Any, scheme: Scheme
) -> list[onnx.NodeProto]:
    if layer.input_gain is None:
        return _product(graph, node, name, layer, scheme)
    scaled = _scaled_input(graph, node, layer, scheme)
    mark = make_node(MARK, [scaled[-1].output[0]], node.output[0])
    return [*scaled, *_product(graph, mark, name, layer, scheme)]


def _scaled_input(
    graph: GraphEditor, node: onnx.NodeProto, layer: Any, scheme: Scheme
) -> list[onnx.NodeProto]:
    """The product of the input and its gain, by a name that layers with the same input and gain share."""
    source, output = node.input[0], range_taken(node, layer)
    gain = graph.constant(_gain_name(layer), layer.input_gain.numpy())
    rank = graph.ranks.get(source)
    if rank is not None:
        graph.ranks[output] = rank
    if rank != 2 or not scheme.keeps_gains_apart:
        return [make_node("Mul", [source, gain], output)]
    axis = graph.constant("gain_axis", np.array([1], dtype=np.int64))
    return [
        make_node("Unsqueeze", [source, axis], f"{output}_row"),
        make_node("Mul", [f"{output}_row", gain], f"{output}_scaled"),
        make_node("Squeeze", [f"{output}_scaled", axis], output),
    ]


def _gain_name(layer: Any) -> str:
    return f"gain_{sha256(layer.input_gain.numpy().tobytes()).hexdigest()[:16]}"


def range_taken(node: onnx.NodeProto, layer: Any) -> str:
    """The tensor that ``layer.input_range`` is of."""
    source = node.input[0]
    return source if getattr(layer, "input_gain", None) is None else f"{source}_{_gain_name(layer)}"


def _product(
    graph: GraphEditor, node: onnx.NodeProto, name: str, layer: Any, scheme: Scheme
) -> list[onnx.NodeProto]:
    if scheme.reads_own_range(layer):
        return _dynamic_product(graph, node, name, layer)
    rank = graph.ranks.get(node.input[0])
    if rank is None:
        raise ExportError(
            "The exported graph does not say how many dimensions a layer's input has",
            got=f"layer '{name}'",
            do="leave this layer in float with skip",
        )
    if rank == 2:
        nodes, weight = _weight(graph, name, layer)
        bias_nodes, bias = _bias(graph, name, layer, scheme)
        inputs = [node.input[0], weight, *([bias] if bias else [])]
        return [*nodes, *bias_nodes, make_node("Gemm", inputs, node.output[0], transB=1)]
    nodes, weight = _weight(graph, name, layer, transposed=True)
    if layer.bias is None:
        return [*nodes, make_node("MatMul", [node.input[0], weight], node.output[0])]
    product = f"{node.output[0]}_product"
    bias = graph.constant(f"{name}.bias", layer.bias.numpy())
    return [
        *nodes,
        make_node("MatMul", [node.input[0], weight], product),
        make_node("Add", [product, bias], node.output[0]),
    ]


def _dynamic_product(graph: GraphEditor, node: onnx.NodeProto, name: str, layer: Any) -> list[onnx.NodeProto]:
    """The form that ONNX Runtime fuses into one product that takes and gives floats."""
    from onnx import TensorProto, helper

    source, output = node.input[0], node.output[0]
    rounded, step, zero = (f"{source}_{part}" for part in ("rounded", "step", "zero"))
    weight = graph.constant(f"{name}.weight_quantized", layer.integers().numpy().T)
    scale = graph.constant(f"{name}.weight_scale", layer.scale.numpy()[:, 0])
    nodes = [
        helper.make_node(DYNAMIC, [source], [rounded, step, zero], name=f"{source}/{DYNAMIC}"),
        make_node("MatMulInteger", [rounded, weight, zero], f"{output}_sums"),
        make_node("Cast", [f"{output}_sums"], f"{output}_counts", to=TensorProto.FLOAT),
        make_node("Mul", [step, scale], f"{output}_step"),
    ]
    if layer.bias is None:
        return [*nodes, make_node("Mul", [f"{output}_counts", f"{output}_step"], output)]
    bias = graph.constant(f"{name}.bias", layer.bias.numpy())
    product = make_node("Mul", [f"{output}_counts", f"{output}_step"], f"{output}_product")
    return [*nodes, product, make_node("Add", [f"{output}_product", bias], output)]


def _weight(
    graph: GraphEditor, name: str, layer: QuantLayer, *, transposed: bool = False
) -> tuple[list[onnx.NodeProto], str]:
    """The int8 weight with its DequantizeLinear, per output channel; groups go through a reshape."""
    integers = layer.integers().cpu().numpy()
    scale = layer.scale.cpu().numpy()
    out, groups = scale.shape
    made = f"{name}.weight"
    if groups > 1:
        rows = integers.reshape(out * groups, -1)
        shape = graph.constant(f"{name}.weight_shape", np.array(integers.shape, dtype=np.int64))
        dequantize = _dequantize(graph, made, rows, scale.reshape(-1), axis=0, output=f"{made}_rows")
        nodes = [dequantize, make_node("Reshape", [f"{made}_rows", shape], made)]
        if transposed:
            nodes.append(make_node("Transpose", [made], f"{made}_transposed", perm=[1, 0]))
        return nodes, nodes[-1].output[0]
    if transposed:
        return [_dequantize(graph, made, integers.T, scale[:, 0], axis=1, output=made)], made
    return [_dequantize(graph, made, integers, scale[:, 0], axis=0, output=made)], made


def _dequantize(
    graph: GraphEditor, name: str, integers: np.ndarray, scale: np.ndarray, *, axis: int, output: str
) -> onnx.NodeProto:
    inputs = [
        graph.constant(f"{name}_quantized", integers),
        graph.constant(f"{name}_scale", scale.astype(np.float32)),
        graph.constant(f"{name}_zero_point", np.zeros(len(scale), dtype=integers.dtype)),
    ]
    return make_node("DequantizeLinear", inputs, output, axis=axis)


def _bias(
    graph: GraphEditor, name: str, layer: QuantLayer, scheme: Scheme
) -> tuple[list[onnx.NodeProto], str | None]:
    if layer.bias is None:
        return [], None
    values = layer.bias.cpu().numpy().astype(np.float64)
    made = f"{name}.bias"
    if not scheme.integer_bias or layer.activation_bits is None or layer.scale.shape[1] != 1:
        return [], graph.constant(made, values.astype(np.float32))
    lo, hi = layer.input_range.tolist()
    step = np.float32(scheme.grid(lo, hi, layer.activation_bits).scale)
    scale = step * layer.scale.cpu().numpy()[:, 0].astype(np.float32)
    integers = np.rint(values / scale.astype(np.float64))
    if np.abs(integers).max(initial=0) >= 2**31:
        raise ExportError(
            f"The bias of layer '{name}' does not fit 32 bits at its scale",
            got=f"{float(np.abs(integers).max()):.3g}",
            do="leave this layer in float with skip, or quantize again",
        )
    return [_dequantize(graph, made, integers.astype(np.int32), scale, axis=0, output=made)], made


def pads(layer: Any) -> list[int]:
    """A convolution's zero padding as ONNX writes it: all beginnings, then all ends."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0] * 2 * len(layer.kernel_size)
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    return [*layer.padding, *layer.padding]
