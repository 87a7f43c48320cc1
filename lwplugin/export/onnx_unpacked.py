"""Nodes that turn the bytes of a packed weight into floats: shifts, masks, products and tables.

They read only constants, so ONNX Runtime runs them once, when it loads the file, and then computes at float speed in
float memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lwplugin.errors import ExportError
from lwplugin.export.onnx_graph import GraphEditor, make_node
from lwplugin.export.onnx_layers import Scheme
from lwplugin.quantize.encodings import Codebook, Groups, Half, Signs
from lwplugin.quantize.packed import PackedLayer
from lwplugin.quantize.packing import pack_codes, unpack_codes

if TYPE_CHECKING:
    import onnx

Nodes = list["onnx.NodeProto"]


def float_weight(graph: GraphEditor, name: str, layer: PackedLayer, scheme: Scheme) -> tuple[Nodes, str]:
    """Nodes that make the weight in its shape, and its name."""
    made, encoding = f"{name}.weight", layer.encoding
    if isinstance(encoding, Half):
        table = half_constant(graph, made, layer)
        return ([], table) if encoding.native else ([to_float(table, made)], made)
    if isinstance(encoding, Groups):
        in_blocks = scheme.block_constants and encoding.width < 8
        return (_in_blocks if in_blocks else _from_groups)(graph, made, layer, encoding), made
    if isinstance(encoding, Codebook):
        return _from_table(graph, made, layer, encoding), made
    if isinstance(encoding, Signs):
        return _from_signs(graph, made, layer), made
    raise ExportError("This weight encoding cannot be written", got=encoding.kind, do="report it")


def _from_groups(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Groups) -> Nodes:
    codes, zeros = padded_codes(layer, encoding)
    _, groups, size = codes.shape
    nodes, integers = unpacked(graph, made, codes, encoding.width)
    zero = graph.constant(f"{made}_zero_point", zeros[:, :, None])
    scale = graph.constant(f"{made}_scale", layer.scale.numpy()[:, :, None])
    nodes += [
        to_float(integers, f"{made}_codes"),
        to_float(zero, f"{made}_zero_float"),
        make_node("Sub", [f"{made}_codes", f"{made}_zero_float"], f"{made}_steps"),
        to_float(scale, f"{made}_scale_float"),
        make_node("Mul", [f"{made}_steps", f"{made}_scale_float"], f"{made}_groups"),
    ]
    return [*nodes, *_without_filling(graph, made, f"{made}_groups", groups * size, layer)]


def _without_filling(graph: GraphEditor, made: str, source: str, width: int, layer: PackedLayer) -> Nodes:
    """The weight in its shape, of rows that groups have filled up to ``width``."""
    rows, row = layer.weight_shape[0], math.prod(layer.weight_shape[1:])
    if width == row:
        return [_reshape(graph, source, layer.weight_shape, made)]
    bounds = [
        graph.constant(f"{made}_{key}", np.array([value], dtype=np.int64))
        for key, value in (("start", 0), ("end", row), ("axis", 1))
    ]
    return [
        _reshape(graph, source, (rows, width), f"{made}_filled"),
        make_node("Slice", [f"{made}_filled", *bounds], f"{made}_cut"),
        _reshape(graph, f"{made}_cut", layer.weight_shape, made),
    ]


def turned(graph: GraphEditor, source: str, output: str, layer: PackedLayer) -> Nodes:
    """A weight that lies output by output as the layer's layout has it, `Layout.weight`."""
    groups, (rows, columns, *kernel) = layer.layout.groups, layer.weight_shape
    later = range(len(kernel))
    if groups == 1:
        return [make_node("Transpose", [source], output, perm=[1, 0, *(2 + axis for axis in later)])]
    by_group, swapped = f"{output}_by_group", f"{output}_swapped"
    return [
        _reshape(graph, source, (groups, rows // groups, columns, *kernel), by_group),
        make_node("Transpose", [by_group], swapped, perm=[0, 2, 1, *(3 + axis for axis in later)]),
        _reshape(graph, swapped, (groups * columns, rows // groups, *kernel), output),
    ]


def _in_blocks(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Groups) -> Nodes:
    """The codes as a constant of 4 (or 8) bits, of which every block of a row has its scale and zero point."""
    from onnx import TensorProto, helper

    kind = TensorProto.UINT4 if encoding.width <= 4 else TensorProto.UINT8
    codes_in_groups, zeros = padded_codes(layer, encoding)
    held = {
        f"{made}_codes": codes_in_groups.reshape(len(codes_in_groups), -1),
        f"{made}_zero_point": zeros,
    }
    for name, values in held.items():
        graph.constants[name] = helper.make_tensor(name, kind, list(values.shape), values.reshape(-1))
    codes, zero = held
    scale = graph.constant(f"{made}_scale", layer.scale.float().numpy())
    rows = make_node(
        "DequantizeLinear", [codes, scale, zero], f"{made}_rows", axis=1, block_size=encoding.group_size
    )
    width = codes_in_groups[0].size
    return [rows, *_without_filling(graph, made, f"{made}_rows", width, layer)]


def _from_table(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Codebook) -> Nodes:
    count = math.prod(layer.weight_shape)
    codes = unpack_codes(layer.codes, encoding.width, count).numpy()
    nodes, integers = unpacked(graph, made, codes.reshape(encoding.tables, -1), encoding.width)
    from onnx import TensorProto

    nodes.append(make_node("Cast", [integers], f"{made}_indices", to=TensorProto.INT32))
    table = graph.constant(f"{made}_table", layer.table.numpy().reshape(-1))
    indices = f"{made}_indices"
    if encoding.tables > 1:
        first = np.arange(encoding.tables, dtype=np.int32)[:, None] * 2**encoding.width
        nodes.append(make_node("Add", [indices, graph.constant(f"{made}_first", first)], f"{made}_places"))
        indices = f"{made}_places"
    nodes += [
        to_float(table, f"{made}_table_float"),
        make_node("Gather", [f"{made}_table_float", indices], f"{made}_values", axis=0),
    ]
    return [*nodes, _reshape(graph, f"{made}_values", layer.weight_shape, made)]


def _from_signs(graph: GraphEditor, made: str, layer: PackedLayer) -> Nodes:
    rows = layer.weight_shape[0]
    bits = unpack_codes(layer.codes, 1, math.prod(layer.weight_shape)).numpy().reshape(rows, -1)
    nodes, integers = unpacked(graph, made, bits, 1)
    # ±scale + shift: twice the scale for each set bit on top of the lower value.
    scale, shift = layer.scale.numpy()[:, None], layer.shift.numpy()[:, None]
    two, one = (
        graph.constant(f"{made}_{n}", np.array(v, dtype=np.float32)) for n, v in (("two", 2), ("one", 1))
    )
    nodes += [
        to_float(integers, f"{made}_bits"),
        make_node("Mul", [f"{made}_bits", two], f"{made}_doubled"),
        make_node("Sub", [f"{made}_doubled", one], f"{made}_signs"),
        make_node("Mul", [f"{made}_signs", graph.constant(f"{made}_scale", scale)], f"{made}_scaled"),
        make_node("Add", [f"{made}_scaled", graph.constant(f"{made}_shift", shift)], f"{made}_rows"),
    ]
    return [*nodes, _reshape(graph, f"{made}_rows", layer.weight_shape, made)]


def unpacked(graph: GraphEditor, made: str, codes: np.ndarray, bits: int) -> tuple[Nodes, str]:
    """Nodes that turn packed bytes into ``codes`` (uint8, same shape), and the name of the result.

    Widths that divide a byte are shifted out of it; others are stored as one plane of bits for each bit.
    """
    if bits == 8:
        return [], graph.constant(f"{made}_packed", codes)
    width = bits if bits in (1, 2, 4) else 1
    flat = torch.from_numpy(codes.reshape(-1))
    whole = torch.nn.functional.pad(flat, (0, -flat.numel() % (8 // width)))
    shifts = graph.constant(f"{made}_shifts", np.arange(0, 8, width, dtype=np.uint8))
    mask = graph.constant(f"{made}_mask", np.array(2**width - 1, dtype=np.uint8))
    nodes: Nodes = []
    total = ""
    for plane in range(bits // width):
        packed = pack_codes((whole >> (plane * width)) & (2**width - 1), width).numpy()[:, None]
        part = f"{made}_plane{plane}"
        nodes += [
            make_node(
                "BitShift",
                [graph.constant(f"{part}_packed", packed), shifts],
                f"{part}_shifted",
                direction="RIGHT",
            ),
            make_node("BitwiseAnd", [f"{part}_shifted", mask], part),
        ]
        if plane:
            place = graph.constant(f"{part}_place", np.array(plane, dtype=np.uint8))
            nodes += [
                make_node("BitShift", [part, place], f"{part}_placed", direction="LEFT"),
                make_node("BitwiseOr", [total, f"{part}_placed"], f"{part}_sum"),
            ]
        total = f"{part}_sum" if plane else part
    if len(whole) != len(flat):
        nodes.append(_reshape(graph, total, (len(whole),), f"{made}_flat"))
        bounds = [
            graph.constant(f"{made}_flat_{key}", np.array([value], dtype=np.int64))
            for key, value in (("start", 0), ("end", len(flat)))
        ]
        nodes.append(make_node("Slice", [f"{made}_flat", *bounds], f"{made}_whole"))
        total = f"{made}_whole"
    return [*nodes, _reshape(graph, total, codes.shape, f"{made}_integers")], f"{made}_integers"


def padded_codes(layer: PackedLayer, encoding: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8 [out, groups, group_size], the last group filled up, and zero points uint8 [out, groups]."""
    shape = layer.weight_shape
    codes = encoding.codes(layer.stored, shape).numpy()
    zeros = encoding.zeros(layer.stored, shape).numpy()
    missing = zeros.shape[1] * encoding.group_size - codes.shape[1]
    codes = np.pad(codes, ((0, 0), (0, missing)))
    return codes.reshape(len(codes), zeros.shape[1], -1), zeros


def half_constant(graph: GraphEditor, made: str, layer: PackedLayer) -> str:
    """The weight as a 16-bit constant."""
    from onnx import TensorProto, helper

    numbers = layer.stored["numbers"]
    kind = TensorProto.FLOAT16 if numbers.dtype == torch.float16 else TensorProto.BFLOAT16
    raw = numbers.contiguous().view(torch.int16).numpy().tobytes()
    graph.constants[f"{made}half_constant"] = helper.make_tensor(
        f"{made}half_constant", kind, list(numbers.shape), raw, raw=True
    )
    return f"{made}half_constant"


def to_float(source: str, output: str) -> Any:
    """A node that makes float32 of any type."""
    from onnx import TensorProto

    return make_node("Cast", [source], output, to=TensorProto.FLOAT)


def _reshape(graph: GraphEditor, source: str, shape: tuple[int, ...], output: str) -> Any:
    wanted = graph.constant(f"{output}_shape", np.array(shape, dtype=np.int64))
    return make_node("Reshape", [source, wanted], output)
