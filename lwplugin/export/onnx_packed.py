"""How packed layers are written in ONNX: the file holds the packed bytes, the runtime makes the weight.

Two forms. *Unpacked*: shifts, masks and products turn the bytes into a float weight; they read only constants,
so ONNX Runtime runs them once, when it loads the file, and then computes at float speed in float memory.
*Packed*: operators that read 4- or 8-bit groups while they multiply (MatMulNBits, GatherBlockQuantized); the
weight stays small in memory too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lwplugin.errors import ExportError
from lwplugin.export.onnx_graph import GraphEditor, make_node
from lwplugin.export.onnx_layers import Scheme, lowering, pads
from lwplugin.quantize.encodings import Codebook, Groups, Half, Signs
from lwplugin.quantize.packed import PackedConv1d, PackedConv2d, PackedEmbedding, PackedLayer, PackedLinear
from lwplugin.quantize.packing import pack_codes, unpack_codes

if TYPE_CHECKING:
    import onnx

CONTRIB = "com.microsoft"
Nodes = list["onnx.NodeProto"]


@lowering(PackedLinear)
def _linear(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    output = node.output[0]
    if has_kernel(layer, scheme):
        return _with_bias(graph, name, layer, _matmul_nbits(graph, node.input[0], name, layer, output))
    nodes, weight = _weight(graph, name, layer, scheme)
    nodes.append(make_node("Transpose", [weight], f"{weight}_transposed", perm=[1, 0]))
    wrapped, source, target = _in_type(node.input[0], output, layer)
    nodes += wrapped[:1]
    product = make_node("MatMul", [source, f"{weight}_transposed"], target)
    return [*nodes, *_with_bias(graph, name, layer, product), *wrapped[1:]]


@lowering(PackedConv1d, PackedConv2d)
def _conv(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    nodes, weight = _weight(graph, name, layer, scheme)
    wrapped, source, target = _in_type(node.input[0], node.output[0], layer)
    inputs = [source, weight]
    if layer.bias is not None:
        inputs.append(_bias(graph, name, layer))
    conv = make_node(
        "Conv",
        inputs,
        target,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        group=layer.groups,
        pads=pads(layer),
    )
    return [*nodes, *wrapped[:1], conv, *wrapped[1:]]


@lowering(PackedEmbedding)
def _embedding(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    if (asked := graph.value(node.input[0])) is not None:
        name, layer = _only_rows(graph, node, name, layer, asked)
    if has_kernel(layer, scheme):
        return _gather_block(graph, node.input[0], name, layer, node.output[0])
    if isinstance(layer.encoding, Half):
        # Rows are looked up in 16 bits and only these become float32.
        table = _half(graph, f"{name}.weight", layer)
        rows = f"{node.output[0]}_half"
        return [make_node("Gather", [table, node.input[0]], rows, axis=0), _to_float(rows, node.output[0])]
    if scheme.looks_codes_up and isinstance(layer.encoding, Groups) and layer.encoding.width > 4:
        codes, zeros = _padded_codes(layer, layer.encoding)
        if codes.shape[1:] == (1, layer.weight_shape[1]):
            return _rows_of_codes(graph, node, name, layer, codes[:, 0], zeros)
    nodes, weight = _weight(graph, name, layer, scheme)
    return [*nodes, make_node("Gather", [weight, node.input[0]], node.output[0], axis=0)]


def _only_rows(
    graph: GraphEditor, node: Any, name: str, layer: PackedEmbedding, rows: np.ndarray
) -> tuple[str, PackedEmbedding]:
    """The table without the rows that are never asked for (positions past the last token), under a name of its own.

    ``rows`` is the constant that ``node`` reads, which then counts in the smaller table.
    """
    encoding, kept = layer.encoding, np.unique(rows)
    if not isinstance(encoding, Groups | Half) or len(kept) == layer.num_embeddings:
        return name, layer
    index = torch.from_numpy(kept)
    few = PackedEmbedding(len(kept), layer.embedding_dim, encoding=encoding.spec())
    few.store(**encoding.rows(layer.stored, layer.weight_shape, index))
    made = f"{node.output[0]}_table"
    node.input[0] = graph.constant(f"{made}_rows", np.searchsorted(kept, rows).astype(np.int64))
    return made, few


def _rows_of_codes(
    graph: GraphEditor, node: Any, name: str, layer: PackedLayer, codes: np.ndarray, zeros: np.ndarray
) -> Nodes:
    """Rows are looked up as codes, [rows, width] with one zero point and one scale each; only these become floats."""
    output = node.output[0]
    parts = {"codes": codes, "zero_point": zeros, "scale": layer.scale.numpy()}
    nodes: Nodes = []
    for part, values in parts.items():
        table = graph.constant(f"{name}.weight_{part}", values)
        nodes.append(make_node("Gather", [table, node.input[0]], f"{output}_{part}", axis=0))
        nodes.append(_to_float(f"{output}_{part}", f"{output}_{part}_float"))
    return [
        *nodes,
        make_node("Sub", [f"{output}_codes_float", f"{output}_zero_point_float"], f"{output}_steps"),
        make_node("Mul", [f"{output}_steps", f"{output}_scale_float"], output),
    ]


def has_kernel(layer: PackedLayer, scheme: Scheme) -> bool:
    """Whether the layer is written as an operator that reads packed groups."""
    encoding = layer.encoding
    if not (scheme.packed_kernels and isinstance(encoding, Groups)):
        return False
    if not isinstance(layer, PackedLinear | PackedEmbedding):
        return False
    size = encoding.group_size
    return (
        encoding.width in (4, 8)
        and size >= 16
        and size & (size - 1) == 0
        and layer.weight_shape[1] % size == 0
    )


def computes_narrow(layer: Any) -> bool:
    """Whether a layer multiplies in 16 bits, so that runtimes differ by its rounding."""
    return isinstance(layer, PackedLayer) and isinstance(layer.encoding, Half) and layer.encoding.native


def describe(layers: dict[str, Any], scheme: Scheme) -> dict[str, Any]:
    """What ``export.json`` says about the packed layers; empty without any."""
    packed = {name: layer for name, layer in layers.items() if isinstance(layer, PackedLayer)}
    if not packed:
        return {}
    return {
        "packed_weights": sorted({layer.encoding.kind for layer in packed.values()}),
        "packed_bits": sorted({layer.encoding.bits for layer in packed.values()}),
        "packed_layers": len(packed),
        "packed_kernels": sum(has_kernel(layer, scheme) for layer in packed.values()),
    }


def _weight(graph: GraphEditor, name: str, layer: PackedLayer, scheme: Scheme) -> tuple[Nodes, str]:
    """Nodes that make the weight in its shape, and its name."""
    made, encoding = f"{name}.weight", layer.encoding
    if isinstance(encoding, Half):
        table = _half(graph, made, layer)
        return ([], table) if encoding.native else ([_to_float(table, made)], made)
    if isinstance(encoding, Groups):
        whole = math.prod(layer.weight_shape[1:]) % encoding.group_size == 0
        in_blocks = scheme.block_constants and encoding.width < 8 and whole
        return (_in_blocks if in_blocks else _from_groups)(graph, made, layer, encoding), made
    if isinstance(encoding, Codebook):
        return _from_table(graph, made, layer, encoding), made
    if isinstance(encoding, Signs):
        return _from_signs(graph, made, layer), made
    raise ExportError("This weight encoding cannot be written", got=encoding.kind, do="report it")


def _from_groups(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Groups) -> Nodes:
    codes, zeros = _padded_codes(layer, encoding)
    rows, groups, size = codes.shape
    nodes, integers = _unpacked(graph, made, codes, encoding.width)
    zero = graph.constant(f"{made}_zero_point", zeros[:, :, None])
    scale = graph.constant(f"{made}_scale", layer.scale.numpy()[:, :, None])
    nodes += [
        _to_float(integers, f"{made}_codes"),
        _to_float(zero, f"{made}_zero_float"),
        make_node("Sub", [f"{made}_codes", f"{made}_zero_float"], f"{made}_steps"),
        _to_float(scale, f"{made}_scale_float"),
        make_node("Mul", [f"{made}_steps", f"{made}_scale_float"], f"{made}_groups"),
    ]
    flat, row = f"{made}_groups", math.prod(layer.weight_shape[1:])
    if groups * size != row:
        nodes.append(_reshape(graph, flat, (rows, groups * size), f"{made}_rows"))
        bounds = [
            graph.constant(f"{made}_{key}", np.array([value], dtype=np.int64))
            for key, value in (("start", 0), ("end", row), ("axis", 1))
        ]
        nodes.append(make_node("Slice", [f"{made}_rows", *bounds], f"{made}_cut"))
        flat = f"{made}_cut"
    return [*nodes, _reshape(graph, flat, layer.weight_shape, made)]


def _in_blocks(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Groups) -> Nodes:
    """The codes as a constant of 4 (or 8) bits, of which every block of a row has its scale and zero point."""
    from onnx import TensorProto, helper

    kind = TensorProto.UINT4 if encoding.width <= 4 else TensorProto.UINT8
    held = {
        f"{made}_codes": encoding.codes(layer.stored, layer.weight_shape),
        f"{made}_zero_point": encoding.zeros(layer.stored, layer.weight_shape),
    }
    for name, values in held.items():
        graph.constants[name] = helper.make_tensor(name, kind, list(values.shape), values.numpy().reshape(-1))
    codes, zero = held
    scale = graph.constant(f"{made}_scale", layer.scale.float().numpy())
    rows = make_node(
        "DequantizeLinear", [codes, scale, zero], f"{made}_rows", axis=1, block_size=encoding.group_size
    )
    return [rows, _reshape(graph, f"{made}_rows", layer.weight_shape, made)]


def _from_table(graph: GraphEditor, made: str, layer: PackedLayer, encoding: Codebook) -> Nodes:
    count = math.prod(layer.weight_shape)
    codes = unpack_codes(layer.codes, encoding.width, count).numpy()
    nodes, integers = _unpacked(graph, made, codes.reshape(encoding.tables, -1), encoding.width)
    from onnx import TensorProto

    nodes.append(make_node("Cast", [integers], f"{made}_indices", to=TensorProto.INT32))
    table = graph.constant(f"{made}_table", layer.table.numpy().reshape(-1))
    indices = f"{made}_indices"
    if encoding.tables > 1:
        first = np.arange(encoding.tables, dtype=np.int32)[:, None] * 2**encoding.width
        nodes.append(make_node("Add", [indices, graph.constant(f"{made}_first", first)], f"{made}_places"))
        indices = f"{made}_places"
    nodes += [
        _to_float(table, f"{made}_table_float"),
        make_node("Gather", [f"{made}_table_float", indices], f"{made}_values", axis=0),
    ]
    return [*nodes, _reshape(graph, f"{made}_values", layer.weight_shape, made)]


def _from_signs(graph: GraphEditor, made: str, layer: PackedLayer) -> Nodes:
    rows = layer.weight_shape[0]
    bits = unpack_codes(layer.codes, 1, math.prod(layer.weight_shape)).numpy().reshape(rows, -1)
    nodes, integers = _unpacked(graph, made, bits, 1)
    # ±scale + shift: twice the scale for each set bit on top of the lower value.
    scale, shift = layer.scale.numpy()[:, None], layer.shift.numpy()[:, None]
    two, one = (
        graph.constant(f"{made}_{n}", np.array(v, dtype=np.float32)) for n, v in (("two", 2), ("one", 1))
    )
    nodes += [
        _to_float(integers, f"{made}_bits"),
        make_node("Mul", [f"{made}_bits", two], f"{made}_doubled"),
        make_node("Sub", [f"{made}_doubled", one], f"{made}_signs"),
        make_node("Mul", [f"{made}_signs", graph.constant(f"{made}_scale", scale)], f"{made}_scaled"),
        make_node("Add", [f"{made}_scaled", graph.constant(f"{made}_shift", shift)], f"{made}_rows"),
    ]
    return [*nodes, _reshape(graph, f"{made}_rows", layer.weight_shape, made)]


def _unpacked(graph: GraphEditor, made: str, codes: np.ndarray, bits: int) -> tuple[Nodes, str]:
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


def _matmul_nbits(graph: GraphEditor, source: str, name: str, layer: Any, output: str) -> Any:
    from onnx import helper

    encoding = layer.encoding
    codes, zeros = _padded_codes(layer, encoding)
    blocks = pack_codes(torch.from_numpy(codes), encoding.width).numpy()
    made = f"{name}.weight"
    inputs = [
        source,
        graph.constant(f"{made}_packed", blocks.reshape(*codes.shape[:2], -1)),
        graph.constant(f"{made}_scale", layer.scale.float().numpy().reshape(-1)),
        graph.constant(f"{made}_zero_point", _packed_rows(zeros, encoding.width).reshape(-1)),
    ]
    return helper.make_node(
        "MatMulNBits",
        inputs,
        [output],
        name=f"{output}/MatMulNBits",
        domain=CONTRIB,
        K=layer.in_features,
        N=layer.out_features,
        bits=encoding.width,
        block_size=encoding.group_size,
    )


def _gather_block(graph: GraphEditor, indices: str, name: str, layer: Any, output: str) -> Nodes:
    from onnx import helper

    encoding = layer.encoding
    codes, zeros = _padded_codes(layer, encoding)
    made = f"{name}.weight"
    inputs = [
        graph.constant(f"{made}_packed", _packed_rows(codes.reshape(len(codes), -1), encoding.width)),
        indices,
        f"{made}_scale_float",
        graph.constant(f"{made}_zero_point", _packed_rows(zeros, encoding.width)),
    ]
    scale = graph.constant(f"{made}_scale", layer.scale.numpy())
    gather = helper.make_node(
        "GatherBlockQuantized",
        inputs,
        [output],
        name=f"{output}/GatherBlockQuantized",
        domain=CONTRIB,
        block_size=encoding.group_size,
        bits=encoding.width,
        gather_axis=0,
        quantize_axis=1,
    )
    return [_to_float(scale, f"{made}_scale_float"), gather]


def _padded_codes(layer: PackedLayer, encoding: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8 [out, groups, group_size], the last group filled up, and zero points uint8 [out, groups]."""
    shape = layer.weight_shape
    codes = encoding.codes(layer.stored, shape).numpy()
    zeros = encoding.zeros(layer.stored, shape).numpy()
    missing = zeros.shape[1] * encoding.group_size - codes.shape[1]
    codes = np.pad(codes, ((0, 0), (0, missing)))
    return codes.reshape(len(codes), zeros.shape[1], -1), zeros


def _packed_rows(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row in whole bytes."""
    whole = np.pad(values, ((0, 0), (0, -values.shape[1] % (8 // bits))))
    return pack_codes(torch.from_numpy(whole), bits).numpy().reshape(len(values), -1)


def _half(graph: GraphEditor, made: str, layer: PackedLayer) -> str:
    """The weight as a 16-bit constant."""
    from onnx import TensorProto, helper

    numbers = layer.stored["numbers"]
    kind = TensorProto.FLOAT16 if numbers.dtype == torch.float16 else TensorProto.BFLOAT16
    raw = numbers.contiguous().view(torch.int16).numpy().tobytes()
    graph.constants[f"{made}_half"] = helper.make_tensor(
        f"{made}_half", kind, list(numbers.shape), raw, raw=True
    )
    return f"{made}_half"


def _in_type(source: str, output: str, layer: PackedLayer) -> tuple[Nodes, str, str]:
    """Casts into and out of the 16 bits a native layer computes in: nodes, and the names between them."""
    from onnx import TensorProto

    encoding = layer.encoding
    if not (isinstance(encoding, Half) and encoding.native):
        return [], source, output
    if encoding.dtype == "bfloat16":
        raise ExportError(
            "ONNX Runtime's CPU kernels do not multiply in bfloat16",
            got="a layer quantized with compute=dtype",
            do="use compute=float32 or dtype=float16",
        )
    into = make_node("Cast", [source], f"{output}_narrow_input", to=TensorProto.FLOAT16)
    return [into, _to_float(f"{output}_narrow", output)], into.output[0], f"{output}_narrow"


def _with_bias(graph: GraphEditor, name: str, layer: PackedLayer, product: Any) -> Nodes:
    if layer.bias is None:
        return [product]
    output = product.output[0]
    product.output[0] = f"{output}_product"
    return [product, make_node("Add", [f"{output}_product", _bias(graph, name, layer)], output)]


def _bias(graph: GraphEditor, name: str, layer: PackedLayer) -> str:
    assert layer.bias is not None
    values = layer.bias.numpy()
    return graph.constant(f"{name}.bias", values.astype(np.float16) if computes_narrow(layer) else values)


def _to_float(source: str, output: str) -> Any:
    from onnx import TensorProto

    return make_node("Cast", [source], output, to=TensorProto.FLOAT)


def _reshape(graph: GraphEditor, source: str, shape: tuple[int, ...], output: str) -> Any:
    wanted = graph.constant(f"{output}_shape", np.array(shape, dtype=np.int64))
    return make_node("Reshape", [source, wanted], output)
