"""How packed layers are written in ONNX: the file holds the packed bytes, the runtime makes the weight.

Two forms: unpacked into floats when the file is loaded (`onnx_unpacked.py`), or read by operators that compute with
packed groups (`onnx_kernels.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lwplugin.errors import ExportError
from lwplugin.export.onnx_graph import GraphEditor, make_node
from lwplugin.export.onnx_kernels import gather_block, has_kernel, matmul_nbits
from lwplugin.export.onnx_layers import Scheme, lowering, pads
from lwplugin.export.onnx_unpacked import (
    Nodes,
    float_weight,
    half_constant,
    padded_codes,
    to_float,
    turned,
    unpacked,
)
from lwplugin.quantize.encodings import Groups, Half
from lwplugin.quantize.packed import (
    PACKED_CONVOLUTIONS,
    PackedEmbedding,
    PackedLayer,
    PackedLinear,
    PackedMatrix,
)


@lowering(PackedLinear)
def _linear(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    output = node.output[0]
    if has_kernel(layer, scheme):
        return _with_bias(graph, name, layer, matmul_nbits(graph, node.input[0], name, layer, output))
    nodes, weight = float_weight(graph, name, layer, scheme)
    nodes.append(make_node("Transpose", [weight], f"{weight}_transposed", perm=[1, 0]))
    wrapped, source, target = _in_type(node.input[0], output, layer)
    nodes += wrapped[:1]
    product = make_node("MatMul", [source, f"{weight}_transposed"], target)
    return [*nodes, *_with_bias(graph, name, layer, product), *wrapped[1:]]


@lowering(PackedMatrix)
def _matrix(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    nodes, weight = float_weight(graph, name, layer, scheme)
    return [*nodes, to_float(weight, node.output[0])]


@lowering(*PACKED_CONVOLUTIONS)
def _conv(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    nodes, weight = float_weight(graph, name, layer, scheme)
    if layer.layout.by_input:
        nodes += turned(graph, weight, f"{weight}_turned", layer)
        weight = f"{weight}_turned"
    wrapped, source, target = _in_type(node.input[0], node.output[0], layer)
    inputs = [source, weight]
    if layer.bias is not None:
        inputs.append(_bias(graph, name, layer))
    conv = make_node(
        "ConvTranspose" if layer.layout.by_input else "Conv",
        inputs,
        target,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        group=layer.groups,
        pads=pads(layer),
        **({"output_padding": list(more)} if any(more := getattr(layer, "output_padding", ())) else {}),
    )
    return [*nodes, *wrapped[:1], conv, *wrapped[1:]]


@lowering(PackedEmbedding)
def _embedding(graph: GraphEditor, node: Any, name: str, layer: Any, scheme: Scheme) -> Nodes:
    if (asked := graph.value(node.input[0])) is not None:
        name, layer = _only_rows(graph, node, name, layer, asked)
    if has_kernel(layer, scheme):
        return gather_block(graph, node.input[0], name, layer, node.output[0])
    if isinstance(layer.encoding, Half):
        # Rows are looked up in 16 bits and only these become float32.
        table = half_constant(graph, f"{name}.weight", layer)
        rows = f"{node.output[0]}half_constant"
        return [make_node("Gather", [table, node.input[0]], rows, axis=0), to_float(rows, node.output[0])]
    if isinstance(layer.encoding, Groups) and _looked_up(graph, node, layer, layer.encoding, scheme):
        return _rows_of_codes(graph, node, name, layer, layer.encoding, scheme)
    nodes, weight = float_weight(graph, name, layer, scheme)
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
    made = f"{name}.weight_{node.output[0]}"
    node.input[0] = graph.constant(f"{made}_rows", np.searchsorted(kept, rows).astype(np.int64))
    return made, few


def _looked_up(graph: GraphEditor, node: Any, layer: PackedLayer, encoding: Groups, scheme: Scheme) -> bool:
    """Whether rows are looked up as codes, so that no table of floats lies in memory."""
    row = layer.weight_shape[1]
    if row % encoding.group_size:
        return False
    if scheme.block_constants:
        return encoding.width > 4 and row == encoding.group_size
    return row == encoding.group_size or graph.ranks.get(node.input[0]) is not None


def _rows_of_codes(
    graph: GraphEditor, node: Any, name: str, layer: PackedLayer, encoding: Groups, scheme: Scheme
) -> Nodes:
    """Rows are looked up as codes, their groups' zero points and scales; only these become floats."""
    output, index = node.output[0], node.input[0]
    codes, zeros = padded_codes(layer, encoding)
    several = codes.shape[1] > 1
    held = {"zero_point": zeros, "scale": layer.scale.numpy()}
    if several:
        held = {part: values[:, :, None] for part, values in held.items()}
    codes = codes if several else codes[:, 0]
    nodes: Nodes = []
    if scheme.block_constants:
        integers = graph.constant(f"{name}.weight_codes", codes)
    else:
        nodes, integers = unpacked(graph, f"{name}.weight", codes, encoding.width)
    tables = {"codes": integers} | {
        part: graph.constant(f"{name}.weight_{part}", values) for part, values in held.items()
    }
    looked_up = f"{output}_looked_up"
    for part, table in tables.items():
        nodes.append(make_node("Gather", [table, index], f"{looked_up}_{part}", axis=0))
        nodes.append(to_float(f"{looked_up}_{part}", f"{looked_up}_{part}_float"))
    made = f"{looked_up}_groups" if several else output
    nodes += [
        make_node("Sub", [f"{looked_up}_codes_float", f"{looked_up}_zero_point_float"], f"{looked_up}_steps"),
        make_node("Mul", [f"{looked_up}_steps", f"{looked_up}_scale_float"], made),
    ]
    if several:
        # Zeros keep the dimensions of the indices.
        shape = np.array([0] * graph.ranks[index] + [layer.weight_shape[1]], dtype=np.int64)
        nodes.append(make_node("Reshape", [made, graph.constant(f"{looked_up}_shape", shape)], output))
    return nodes


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
    return [into, to_float(f"{output}_narrow", output)], into.output[0], f"{output}_narrow"


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
