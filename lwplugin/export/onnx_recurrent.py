"""LSTMs that multiply whole numbers: ONNX Runtime's operator for 8-bit matrices, which rounds its input while it runs.

Torch's exporter orders the gates anew and joins both directions; whole numbers and scales go the way of the floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.export.onnx_graph import GraphEditor, attribute
from lwplugin.export.onnx_kernels import CONTRIB
from lwplugin.export.onnx_layers import layer_of
from lwplugin.export.onnx_products import MIDDLE
from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.packed import PackedMatrix

if TYPE_CHECKING:
    import onnx

INTEGER_LSTM = "DynamicQuantizeLSTM"
_ATTRIBUTES = ("direction", "hidden_size")


def integer_lstms(graph: GraphEditor, layers: Mapping[str, Any]) -> None:
    """Replace, in place, every LSTM whose matrices are marks of layers with one symmetric 8-bit grid a row."""
    producers = graph.producers()
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        found = _matrices(graph, producers, node, layers) if node.op_type == "LSTM" else None
        nodes.append(node if found is None else _integer(graph, node, *found))
    graph.nodes = nodes


def _integer(
    graph: GraphEditor, node: onnx.NodeProto, weights: dict[str, np.ndarray], scales: dict[str, np.ndarray]
) -> onnx.NodeProto:
    from onnx import helper

    made = node.output[0] or node.output[1]
    held: dict[str, str] = {}
    for part in weights:
        held[part] = graph.constant(f"{made}_{part}_quantized", weights[part].transpose(0, 2, 1))
        held[f"{part}_scale"] = graph.constant(f"{made}_{part}_scale", scales[part][:, :, 0])
        zeros = np.zeros(scales[part].shape[:2], dtype=np.int8)
        held[f"{part}_zero"] = graph.constant(f"{made}_{part}_zero_point", zeros)
    others = [*node.input[3:], *[""] * (8 - len(node.input))]
    inputs = [node.input[0], held["W"], held["R"], *others]
    inputs += [held[name] for name in ("W_scale", "W_zero", "R_scale", "R_zero")]
    kept = {key: value for key in _ATTRIBUTES if (value := attribute(node, key)) is not None}
    return helper.make_node(
        INTEGER_LSTM, inputs, list(node.output), name=f"{made}/{INTEGER_LSTM}", domain=CONTRIB, **kept
    )


def _matrices(
    graph: GraphEditor, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto, layers: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    """Whole numbers int8 [directions, 4 × hidden, in] and scales [directions, 4 × hidden, 1] of W and R."""
    if any(entry.name not in _ATTRIBUTES and attribute(node, entry.name) for entry in node.attribute):
        return None
    weights, scales = {}, {}
    for part, name in (("W", node.input[1]), ("R", node.input[2])):
        way = _way_of(producers, name)
        marks = {each.output[0]: layers.get(layer_of(each) or "") for each in way if not each.input}
        if not marks or not all(_symmetric(layer) for layer in marks.values()):
            return None
        weights[part] = _follow(graph, way, marks, name, _whole_numbers)
        scales[part] = _follow(graph, way, marks, name, lambda layer: layer.scale.float().numpy())
    return weights, scales


def _way_of(producers: dict[str, onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """The nodes that make a tensor, in order; every node once."""
    found: dict[int, onnx.NodeProto] = {}

    def visit(name: str) -> None:
        node = producers.get(name)
        if node is not None and id(node) not in found:
            for source in node.input:
                visit(source)
            found[id(node)] = node

    visit(name)
    return list(found.values())


def _symmetric(layer: Any) -> bool:
    if not isinstance(layer, PackedMatrix) or not isinstance(layer.encoding, Groups):
        return False
    encoding, shape = layer.encoding, layer.weight_shape
    if encoding.width != 8 or encoding.groups(shape) != 1:
        return False
    return bool((encoding.zeros(layer.stored, shape) == MIDDLE).all())


def _whole_numbers(layer: PackedMatrix) -> np.ndarray:
    encoding = layer.encoding
    assert isinstance(encoding, Groups)
    codes: np.ndarray = encoding.codes(layer.stored, layer.weight_shape).numpy()
    return (codes.astype(np.int16) - MIDDLE).astype(np.int8)


def _follow(
    graph: GraphEditor,
    way: list[onnx.NodeProto],
    marks: dict[str, Any],
    name: str,
    values: Callable[[Any], np.ndarray],
) -> np.ndarray:
    """What the ``way`` makes of a layer's ``values`` in the place of its weight."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    given = {mark: values(layer) for mark, layer in marks.items()}
    moves = [node for node in way if node.output[0] not in marks]
    wanted = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for key, each in given.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(next(iter(given.values())).dtype)
    held = [
        graph.constants[key] for key in {key for node in moves for key in node.input} & set(graph.constants)
    ]
    proto = helper.make_graph(moves, "way", wanted, [helper.make_tensor_value_info(name, kind, None)], held)
    model = helper.make_model(proto, opset_imports=graph.proto.opset_import)
    made: np.ndarray = ReferenceEvaluator(model).run(None, given)[0]
    return made
