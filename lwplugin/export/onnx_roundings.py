"""Roundings without scale and zero point, for runtimes that fuse what lies in front of a rounding with it.

``x · gain`` rounded to a grid is ``x · (gain / scale) + (zero point - 128)`` rounded to whole numbers. A layer norm in
front takes both into the weight and the bias of a copy, whose statistics the runtime finds to be those of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lwplugin.export.onnx_graph import GraphEditor, attribute, make_node, set_attribute
from lwplugin.export.onnx_products import MIDDLE

if TYPE_CHECKING:
    import onnx

_ROUNDING = "QuantizeLinear"

_LEAST_DIMENSIONS = 3
"""OpenVINO rounds gains of two-dimensional tensors wrongly (2026.4): those are kept apart."""


def plain_roundings(graph: GraphEditor) -> None:
    """Every gain that only a rounding to unsigned codes reads takes up the rounding's scale and zero point."""
    producers, readers = graph.producers(), graph.readers()
    written: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        name = node.output[0]
        rounding = readers[name][0] if len(readers[name]) == 1 and name not in graph.outputs else None
        gain = graph.value(node.input[1]) if node.op_type == "Mul" else None
        if rounding is None or rounding.op_type != _ROUNDING or gain is None or gain.ndim != 1:
            continue
        scale, zero = (graph.value(each) for each in rounding.input[1:3])
        if scale is None or zero is None or zero.dtype != np.uint8 or scale.ndim:
            continue
        if graph.ranks.get(name, 0) < _LEAST_DIMENSIONS:
            continue
        gain = gain.astype(np.float64) / float(scale)
        shift = np.full(gain.shape, float(zero) - MIDDLE)
        norm = producers.get(node.input[0])
        written[id(node)] = list(_scaled_norm(graph, norm, name, gain, shift)) or list(
            _scaled(graph, node.input[0], name, gain, shift)
        )
        rounding.input[1] = graph.constant("plain_scale", np.array(1, dtype=np.float32))
        rounding.input[2] = graph.constant("plain_zero_point", np.array(MIDDLE, dtype=np.uint8))
    graph.nodes = [each for node in graph.nodes for each in written.get(id(node), [node])]


def _scaled_norm(
    graph: GraphEditor, norm: onnx.NodeProto | None, name: str, gain: np.ndarray, shift: np.ndarray
) -> Iterator[onnx.NodeProto]:
    """The ``norm`` over channels times ``gain`` plus ``shift``; nothing where it is none."""
    if norm is None or norm.op_type != "LayerNormalization":
        return
    weight = graph.value(norm.input[1])
    bias = graph.value(norm.input[2]) if len(norm.input) > 2 else np.zeros_like(gain)
    if weight is None or bias is None or weight.shape != gain.shape:
        return
    made = make_node(
        "LayerNormalization",
        [
            norm.input[0],
            _floats(graph, f"{norm.input[1]}_{name}", weight * gain),
            _floats(graph, f"{name}_shift", bias * gain + shift),
        ],
        name,
    )
    for key in ("axis", "epsilon", "stash_type"):
        if (value := attribute(norm, key)) is not None:
            set_attribute(made, key, value)
    yield made


def _scaled(
    graph: GraphEditor, source: str, name: str, gain: np.ndarray, shift: np.ndarray
) -> Iterator[onnx.NodeProto]:
    product = f"{name}_unshifted" if shift.any() else name
    yield make_node("Mul", [source, _floats(graph, f"{name}_gain", gain)], product)
    if shift.any():
        yield make_node("Add", [product, _floats(graph, f"{name}_shift", shift)], name)


def _floats(graph: GraphEditor, name: str, values: np.ndarray) -> str:
    return graph.constant(name, values.astype(np.float32))
