"""Which tensors of a graph have a known range: the layers' own, carried through what keeps values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lwplugin.export.onnx_graph import GraphEditor, attribute

if TYPE_CHECKING:
    import onnx

Range = tuple[float, float]

# Operators whose output holds only values of their input: the same grid serves both sides exactly.
SAME_VALUES = frozenset(
    {
        "Flatten",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "MaxPool",
        "Identity",
        "DepthToSpace",
        "Slice",
    }
)


def known_ranges(graph: GraphEditor, taken: dict[str, Range], given: dict[str, Range]) -> dict[str, Range]:
    """Ranges by tensor name.

    ``taken`` are input ranges of layers, ``given`` output ranges; where a tensor has both, what is taken
    counts: it was seen behind whatever the graph has fused.
    """
    known = dict(taken)
    readers = graph.readers()
    for node in reversed(graph.nodes):
        if node.op_type not in SAME_VALUES or node.output[0] not in known:
            continue
        source = node.input[0]
        if source in known:
            known[source] = known[node.output[0]] = union(known[source], known[node.output[0]])
        elif len(readers[source]) == 1:
            known[source] = known[node.output[0]]
    for name, bounds in given.items():
        known.setdefault(name, bounds)
    for node in graph.nodes:
        output = node.output[0]
        if output in known:
            if node.op_type in SAME_VALUES and node.input[0] in known:
                known[output] = known[node.input[0]]
            continue
        sources = [name for name in node.input if name and name not in graph.constants]
        if not sources or any(name not in known for name in sources):
            continue
        if node.op_type in SAME_VALUES:
            known[output] = known[sources[0]]
        elif node.op_type in ("Relu", "Clip"):
            known[output] = clipped(known[sources[0]], limits(graph, node))
        elif node.op_type == "Add" and len(sources) == len(node.input):
            # No layer reads this sum, so it was not observed: the bound costs it at most one bit.
            known[output] = _sum_of([known[name] for name in sources])
        elif node.op_type == "Concat":
            known[output] = _union_of([known[name] for name in sources])
    return known


def limits(graph: GraphEditor, node: onnx.NodeProto) -> Range:
    """The bounds a Relu or Clip imposes; infinite where a side is open or not a constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    found = [-math.inf, math.inf]
    for position, name in enumerate(("min", "max")):
        if len(node.input) > position + 1 and node.input[position + 1]:
            value = graph.value(node.input[position + 1])
            if value is not None:
                found[position] = float(value)
        else:
            found[position] = float(attribute(node, name, found[position]))
    return found[0], found[1]


def clipped(bounds: Range, limit: Range) -> Range:
    """A range after clipping."""
    lo, hi = (min(max(value, limit[0]), limit[1]) for value in bounds)
    return lo, hi


def union(a: Range, b: Range) -> Range:
    """The smallest range that holds both."""
    return min(a[0], b[0]), max(a[1], b[1])


def _union_of(parts: list[Range]) -> Range:
    result = parts[0]
    for part in parts[1:]:
        result = union(result, part)
    return result


def _sum_of(parts: list[Range]) -> Range:
    return sum(lo for lo, _ in parts), sum(hi for _, hi in parts)
