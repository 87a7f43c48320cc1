"""Channels between products, filled up with zeros to the whole multiples that a runtime's tiles hold.

What a zero column of the first product gives, a function of each value, meets a zero row of the second: answers stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lwplugin.export.onnx_graph import GraphEditor

if TYPE_CHECKING:
    import onnx

_MOST = 1 / 16
"""Channels added, of those there are, at most."""

_SUMS = frozenset({"Add", "Sub"})
_BY_VALUE = _SUMS | {
    "Mul",
    "Div",
    "Erf",
    "Gelu",
    "Relu",
    "Sigmoid",
    "Tanh",
    "QuantizeLinear",
    "DequantizeLinear",
}


@dataclass
class _Between:
    """What lies in front of a product: the products whose channels it reads, and the functions of each value."""

    products: list[onnx.NodeProto] = field(default_factory=list)
    functions: list[onnx.NodeProto] = field(default_factory=list)


def fill_widths(graph: GraphEditor, multiple: int) -> None:
    """Widen layers' integer products [in, out] in a row to whole multiples of channels, where few are missing."""
    producers, readers = graph.producers(), graph.readers()
    for product in graph.nodes:
        weight = _weight(graph, producers, product)
        width = 0 if weight is None else weight.shape[0]
        missing = -width % multiple
        if not 0 < missing <= width * _MOST:
            continue
        between = _between(graph, producers, product.input[0], width)
        if between is None or not _only_read_by(graph, readers, between, product):
            continue
        for first in between.products:
            _widen(graph, producers[first.input[1]], ((0, 0), (0, missing)))
        for function in between.functions:
            fill = 0.0 if function.op_type in _SUMS else 1.0
            for position, name in enumerate(function.input):
                values = graph.value(name)
                if values is not None and values.shape[-1:] == (width,):
                    amounts = [(0, 0)] * (values.ndim - 1) + [(0, missing)]
                    filled = np.pad(values, amounts, constant_values=fill)
                    function.input[position] = graph.constant(f"{name}_filled", filled)
        _widen(graph, producers[product.input[1]], ((0, missing), (0, 0)))


def _weight(
    graph: GraphEditor, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto
) -> np.ndarray | None:
    """The integers [in, out] of a layer's product; None for other nodes."""
    source = producers.get(node.input[1]) if node.op_type == "MatMul" else None
    if source is None or source.op_type != "DequantizeLinear":
        return None
    integers, scale = (graph.value(name) for name in source.input[:2])
    if integers is None or scale is None or integers.ndim != 2 or scale.shape != integers.shape[1:]:
        return None
    return integers


def _between(
    graph: GraphEditor, producers: dict[str, onnx.NodeProto], name: str, width: int
) -> _Between | None:
    """All that makes ``name`` from products of layers value by value; None where anything else does."""
    found = _Between()
    seen: set[str] = set()
    left = [name]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        constant = graph.value(name)
        if constant is not None:
            if constant.size != 1 and constant.shape != (width,):
                return None
            continue
        node = producers.get(name)
        if node is None or name in graph.outputs:
            return None
        if _weight(graph, producers, node) is not None:
            found.products.append(node)
        elif node.op_type in _BY_VALUE:
            found.functions.append(node)
            left.extend(node.input)
        else:
            return None
    return found


def _only_read_by(
    graph: GraphEditor,
    readers: dict[str, list[onnx.NodeProto]],
    between: _Between,
    product: onnx.NodeProto,
) -> bool:
    """Whether nothing but ``product`` sees the channels, and no weight is another product's too."""
    own = {id(product), *map(id, between.functions)}
    channels = [node.output[0] for node in (*between.products, *between.functions)]
    weights = [node.input[1] for node in (*between.products, product)]
    return all(id(node) in own for name in channels for node in readers[name]) and all(
        len(readers[name]) == 1 for name in weights
    )


def _widen(graph: GraphEditor, weight: onnx.NodeProto, amounts: tuple[tuple[int, int], ...]) -> None:
    integers, scale, zero = (graph.value(name) for name in weight.input)
    if integers is None or scale is None or zero is None:
        return
    columns = amounts[1]
    for position, values in enumerate(
        (
            np.pad(integers, amounts),
            np.pad(scale, columns, constant_values=1.0),
            np.pad(zero, columns),
        )
    ):
        weight.input[position] = graph.constant(f"{weight.input[position]}_filled", values)
