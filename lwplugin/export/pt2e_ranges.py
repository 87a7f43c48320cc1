"""Which tensors of a torch.export graph have a known range: the layers' own, carried through what keeps values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from lwplugin.export.onnx_ranges import Range, clipped, union

_aten = torch.ops.aten

# Operators whose output holds only values of their input, or zero: the same grid serves both sides.
SAME_VALUES = frozenset(
    getattr(_aten, name)
    for name in (
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
        "contiguous",
        "clone",
        "dropout",
        "max_pool1d",
        "max_pool2d",
        "pixel_shuffle",
    )
)
PADS = frozenset({_aten.pad, _aten.constant_pad_nd, _aten.zero_pad2d} if hasattr(_aten, "zero_pad2d") else ())
CLIPS = frozenset({_aten.relu, _aten.relu_, _aten.relu6, _aten.hardtanh, _aten.hardtanh_, _aten.clamp})
ADDS = frozenset({_aten.add, _aten.add_})
CATS = frozenset({_aten.cat, _aten.concat})
POOLS = frozenset({_aten.mean, _aten.avg_pool2d, _aten.adaptive_avg_pool2d, _aten.avg_pool1d})


def packet(node: fx.Node) -> Any:
    """The operator without its overload: ``aten.add`` of ``aten.add.Tensor``; None for what is no operator."""
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def keeps_values(node: fx.Node) -> bool:
    """Whether the output holds only values of the first input, or zero."""
    kind = packet(node)
    if kind in PADS:
        mode = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], str) else "constant"
        value = node.args[-1] if isinstance(node.args[-1], int | float) else 0
        return mode != "constant" or value == 0
    return kind in SAME_VALUES


def data_inputs(node: fx.Node) -> list[fx.Node]:
    """The tensors it computes on, without weights and constants."""
    if packet(node) in CATS:
        parts = node.args[0]
        return (
            [part for part in parts if isinstance(part, fx.Node)] if isinstance(parts, list | tuple) else []
        )
    found = [each for each in node.args if isinstance(each, fx.Node) and each.op != "get_attr"]
    return found[:1] if keeps_values(node) else found


def is_sum(node: fx.Node) -> bool:
    """An addition of two tensors that are both computed."""
    return packet(node) in ADDS and len(data_inputs(node)) == 2 and node.kwargs.get("alpha", 1) == 1


def limits(node: fx.Node) -> Range:
    """The bounds a clipping operator imposes."""
    kind = packet(node)
    if kind in (_aten.relu, _aten.relu_):
        return 0.0, math.inf
    if kind is _aten.relu6:
        return 0.0, 6.0
    given = [*node.args[1:3], None, None]
    defaults = (-1.0, 1.0) if kind in (_aten.hardtanh, _aten.hardtanh_) else (-math.inf, math.inf)
    names = ("min_val", "max_val") if defaults[0] == -1.0 else ("min", "max")
    found = [
        float(value) if isinstance(value := node.kwargs.get(name, given[place]), int | float) else default
        for place, (name, default) in enumerate(zip(names, defaults))
    ]
    return found[0], found[1]


def known_ranges(
    graph: fx.Graph, taken: dict[fx.Node, Range], given: dict[fx.Node, Range]
) -> dict[fx.Node, Range]:
    """Ranges by node. ``taken`` are input ranges of layers, ``given`` output ranges; what is taken counts."""
    known = dict(taken)
    for node in reversed(graph.nodes):
        if node not in known or not keeps_values(node):
            continue
        (source,) = data_inputs(node)
        if source in known:
            known[source] = known[node] = union(known[source], known[node])
        elif len(source.users) == 1:
            known[source] = known[node]
    for node, bounds in given.items():
        known.setdefault(node, bounds)
    for node in graph.nodes:
        sources = data_inputs(node) if node.op == "call_function" else []
        if not sources or any(source not in known for source in sources):
            continue
        if keeps_values(node):
            known[node] = known[sources[0]]
        elif node in known:
            continue
        elif packet(node) in CLIPS:
            known[node] = clipped(known[sources[0]], limits(node))
        elif is_sum(node):
            # No layer reads this sum, so it was not observed: the bound costs it at most one bit.
            known[node] = (
                known[sources[0]][0] + known[sources[1]][0],
                known[sources[0]][1] + known[sources[1]][1],
            )
        elif packet(node) in CATS:
            bounds = known[sources[0]]
            for source in sources[1:]:
                bounds = union(bounds, known[source])
            known[node] = bounds
    return known
