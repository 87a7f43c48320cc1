"""Products for runtimes whose fastest integer kernels know no zero point, and round attention's scores too."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from lwplugin.export.onnx_graph import GraphEditor, make_node
from lwplugin.export.onnx_ranges import SAME_VALUES

if TYPE_CHECKING:
    import onnx

MIDDLE = 128
"""The zero point at which an unsigned code is a signed one; 0 needs no correction either."""


def score_operands(graph: GraphEditor, given: Collection[str]) -> set[str]:
    """Outputs of layers, of those ``given``, that meet in one product: queries and keys.

    Not where they are scaled before, as torch's own attention is written: OpenVINO then transposes keys twice, and
    codes more slowly than floats.
    """
    producers, readers = graph.producers(), graph.readers()

    def layer_behind(name: str) -> str | None:
        while name not in given:
            node = producers.get(name)
            if node is None or len(readers[name]) > 1 or node.op_type not in SAME_VALUES:
                return None
            name = node.input[0]
        return name

    found: set[str] = set()
    for node in graph.nodes:
        if node.op_type == "MatMul":
            left, right = (layer_behind(name) for name in node.input)
            found.update({left, right} if left and right else ())
    return found


def move_zero_points(graph: GraphEditor) -> None:
    """Codes that only products of layers read count from 128; the bias takes up W · scale · (128 - zero point)."""
    producers, readers = graph.producers(), graph.readers()
    added: dict[int, onnx.NodeProto] = {}
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear" or node.input[0] in graph.constants:
            continue
        scale, zero = (graph.value(name) for name in node.input[1:3])
        products = readers[node.output[0]]
        found = [_sums_over_inputs(graph, producers, product, node.output[0]) for product in products]
        sums = [each for each in found if each is not None]
        movable = 0 < len(sums) == len(found) and node.output[0] not in graph.outputs
        if scale is None or zero is None or zero.dtype != np.uint8 or zero in (0, MIDDLE) or not movable:
            continue
        node.input[2] = graph.constant(f"{node.input[2]}_moved", np.array(MIDDLE, dtype=np.uint8))
        for product, each in zip(products, sums, strict=True):
            shift = each * (float(scale) * (MIDDLE - float(zero)))
            if not _add_to_bias(graph, readers, product, shift):
                added[id(product)] = _bias_of_its_own(graph, product, shift)
    graph.nodes = [each for node in graph.nodes for each in (node, added.get(id(node))) if each is not None]


def _sums_over_inputs(
    graph: GraphEditor, producers: dict[str, onnx.NodeProto], product: onnx.NodeProto, source: str
) -> np.ndarray | None:
    """Of a layer's weight, [out]; None where this is not the product of ``source`` and a layer's weight."""
    weight = producers.get(product.input[1]) if len(product.input) > 1 else None
    if product.op_type != "MatMul" or product.input[0] != source or weight is None:
        return None
    integers = graph.value(weight.input[0]) if weight.op_type == "DequantizeLinear" else None
    scale = graph.value(weight.input[1]) if integers is not None else None
    if integers is None or scale is None or integers.ndim != 2 or scale.shape != integers.shape[1:]:
        return None
    return np.asarray(integers.sum(axis=0, dtype=np.int64) * scale.astype(np.float64))


def _add_to_bias(
    graph: GraphEditor, readers: dict[str, list[onnx.NodeProto]], product: onnx.NodeProto, shift: np.ndarray
) -> bool:
    name = product.output[0]
    reader = readers[name][0] if len(readers[name]) == 1 and name not in graph.outputs else None
    if reader is None or reader.op_type != "Add" or reader.input[0] != name:
        return False
    bias = graph.value(reader.input[1])
    if bias is None or bias.shape != shift.shape:
        return False
    made = f"{reader.input[1]}_moved"
    reader.input[1] = graph.constant(made, (bias + shift).astype(np.float32))
    return True


def _bias_of_its_own(graph: GraphEditor, product: onnx.NodeProto, shift: np.ndarray) -> onnx.NodeProto:
    output = product.output[0]
    product.output[0] = f"{output}_unmoved"
    bias = graph.constant(f"{output}_moved", shift.astype(np.float32))
    return make_node("Add", [product.output[0], bias], output)
