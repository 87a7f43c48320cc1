"""Operators that read 4- or 8-bit groups while they multiply or look up; the weight stays small in memory too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lwplugin.export.onnx_graph import GraphEditor
from lwplugin.export.onnx_layers import Scheme
from lwplugin.export.onnx_unpacked import Nodes, padded_codes, to_float
from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.packed import PackedEmbedding, PackedLayer, PackedLinear
from lwplugin.quantize.packing import pack_codes

CONTRIB = "com.microsoft"


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


def matmul_nbits(graph: GraphEditor, source: str, name: str, layer: Any, output: str) -> Any:
    """x Wᵀ of a linear layer, its groups read as they are."""
    from onnx import helper

    encoding = layer.encoding
    codes, zeros = padded_codes(layer, encoding)
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


def gather_block(graph: GraphEditor, indices: str, name: str, layer: Any, output: str) -> Nodes:
    """Rows of a table of groups."""
    from onnx import helper

    encoding = layer.encoding
    codes, zeros = padded_codes(layer, encoding)
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
    return [to_float(scale, f"{made}_scale_float"), gather]


def _packed_rows(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row in whole bytes."""
    whole = np.pad(values, ((0, 0), (0, -values.shape[1] % (8 // bits))))
    return pack_codes(torch.from_numpy(whole), bits).numpy().reshape(len(values), -1)
