"""Lowers quantized layers to explicit Q/DQ that ONNX Runtime turns into integer kernels from end to end.

Every ranged tensor gets one Q/DQ pair, shared by all that read it, so that residual additions, pooling and
concatenation stay in integers. An activation that only clips disappears into the rounding before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.errors import ExportError
from lwplugin.export import onnx_packed
from lwplugin.export.onnx_graph import GraphEditor, attribute, make_node
from lwplugin.export.onnx_layers import (
    LOWERINGS,
    SCHEMES,
    Scheme,
    layer_of,
    mark,
    marked_layers,
    range_taken,
)
from lwplugin.export.onnx_padding import fold_padding
from lwplugin.export.onnx_products import move_zero_points, score_operands
from lwplugin.export.onnx_ranges import SAME_VALUES, Range, known_ranges, limits, union
from lwplugin.export.onnx_recurrent import integer_lstms
from lwplugin.export.onnx_roundings import plain_roundings
from lwplugin.export.onnx_widths import fill_widths
from lwplugin.quantize.layers import QuantLinear

if TYPE_CHECKING:
    import onnx

__all__ = ["SCHEMES", "Scheme", "describe", "lower", "mark", "quantized_layers"]

quantized_layers = marked_layers

_PRODUCTS = ("Gemm", "MatMul")
_INTEGER_WITH_RANGES = SAME_VALUES | {"Add", "Concat", "AveragePool", "GlobalAveragePool"}


def describe(layers: dict[str, Any], scheme: Scheme) -> dict[str, Any]:
    """What ``export.json`` says about the layers that are not plain float ones."""
    return {**scheme.describe(layers), **onnx_packed.describe(layers, scheme)}


def lower(proto: onnx.ModelProto, layers: dict[str, Any], scheme: Scheme) -> onnx.ModelProto:
    """Replace every marked layer and place Q/DQ pairs; changes and returns ``proto``.

    Raises ExportError where a layer left no mark or its input has no range.
    """
    graph = GraphEditor(proto)
    if scheme.packed_kernels:
        integer_lstms(graph, layers)
    taken, given, kernels = _expand(graph, layers, scheme)
    fold_padding(graph, taken)
    _average_over_space(graph)
    ranges = known_ranges(graph, taken, given)
    clips = {} if scheme.symmetric_activations else _remove_clips(graph, ranges, kernels, scheme)
    scores = score_operands(graph, given) if scheme.rounds_scores else set()
    _place(graph, ranges, kernels, scores, clips, scheme)
    if scheme.products_without_zero_points:
        move_zero_points(graph)
    if scheme.plain_roundings:
        plain_roundings(graph)
    if scheme.width_multiple > 1:
        fill_widths(graph, scheme.width_multiple)
    return graph.finish()


def _expand(
    graph: GraphEditor, layers: dict[str, Any], scheme: Scheme
) -> tuple[dict[str, Range], dict[str, Range], set[int]]:
    """Marks → operators. Returns input ranges, output ranges, and the ids of nodes with integer kernels."""
    taken: dict[str, Range] = {}
    given: dict[str, Range] = {}
    kernels: set[int] = set()
    seen: dict[str, bool] = {}
    made_before: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        name = layer_of(node)
        if name is None:
            nodes.append(node)
            continue
        layer = layers[name]
        # A linear layer's weight lies in the graph as its input's rank wants it.
        of_rows = bool(node.input) and graph.ranks.get(node.input[0]) == 2
        if seen.setdefault(name, of_rows) != of_rows and isinstance(layer, QuantLinear):
            raise ExportError(
                "A quantized layer is used for rows alone and for rows of examples",
                got=name,
                do="leave it in float with skip, or reshape its inputs alike",
            )
        written = LOWERINGS[type(layer)](graph, node, name, layer, scheme)
        # Layers that read the same tensor name what they share alike, and so do the uses of one layer.
        nodes.extend(made for made in written if made.output[0] not in made_before)
        made_before.update(made.output[0] for made in written)
        if getattr(layer, "activation_bits", None) is not None and scheme.multiplies(layer):
            given[node.output[0]] = tuple(layer.output_range.tolist())
            source = range_taken(node, layer)
            bounds: Range = tuple(layer.input_range.tolist())
            taken[source] = union(taken[source], bounds) if source in taken else bounds
            kernels.update(id(made) for made in written if made.op_type in ("Conv", *_PRODUCTS))
    # A layer that left neither mark nor weight is one whose answer is not asked for.
    missing = [
        name for name in set(layers) - set(seen) if any(f"{name}.weight" in each for each in graph.constants)
    ]
    if missing:
        raise ExportError(
            "The weights of quantized layers are read past the layers",
            got=", ".join(sorted(missing)[:5]),
            do="leave these layers in float with skip",
        )
    graph.nodes = nodes
    return taken, given, kernels


def _average_over_space(graph: GraphEditor) -> None:
    """ReduceMean over all spatial axes → GlobalAveragePool, which has an integer kernel."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        rank = graph.ranks.get(node.input[0]) if node.input else None
        axes = graph.value(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
        spatial = rank is not None and rank in (3, 4) and axes is not None
        if node.op_type != "ReduceMean" or not spatial or rank is None or axes is None:
            nodes.append(node)
            continue
        if sorted(int(axis) % rank for axis in np.asarray(axes).reshape(-1)) != list(range(2, rank)):
            nodes.append(node)
        elif attribute(node, "keepdims", 1):
            nodes.append(make_node("GlobalAveragePool", [node.input[0]], node.output[0]))
        else:
            pooled = f"{node.output[0]}_pooled"
            nodes.append(make_node("GlobalAveragePool", [node.input[0]], pooled))
            nodes.append(make_node("Flatten", [pooled], node.output[0], axis=1))
    graph.nodes = nodes


def _remove_clips(
    graph: GraphEditor, ranges: dict[str, Range], kernels: set[int], scheme: Scheme
) -> dict[str, onnx.NodeProto]:
    """Drop Relu and Clip behind a kernel or an addition where the grid itself would clip at the same place.

    Returns those that are gone, by the tensor they gave: `_put_back` knows which tensors are rounded in the end.
    """
    producers, readers = graph.producers(), graph.readers()
    kept: list[onnx.NodeProto] = []
    gone: dict[str, onnx.NodeProto] = {}
    for node in graph.nodes:
        kept.append(node)
        if node.op_type not in ("Relu", "Clip") or node.output[0] not in ranges:
            continue
        source, output = node.input[0], node.output[0]
        producer = producers.get(source)
        if producer is None or not (id(producer) in kernels or producer.op_type == "Add"):
            continue
        low, high = limits(graph, node)
        lo, hi = ranges[output]
        same_place = scheme.grid(lo, hi).zero_point == 0 and low == 0.0 and hi <= high * (1 + 1e-6)
        if same_place and len(readers[source]) == 1 and source not in graph.outputs:
            gone[output] = kept.pop()
            producer.output[0] = output
    graph.nodes = kept
    return gone


def _put_back(graph: GraphEditor, clips: dict[str, onnx.NodeProto]) -> None:
    """Relus and Clips again behind the nodes whose outputs they were, for those that are read as floats."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes.append(node)
        if node.output and (clip := clips.get(node.output[0])) is not None:
            node.output[0] = clip.input[0]
            nodes.append(clip)
    graph.nodes = nodes


def _place(
    graph: GraphEditor,
    ranges: dict[str, Range],
    kernels: set[int],
    scores: set[str],
    clips: dict[str, onnx.NodeProto],
    scheme: Scheme,
) -> None:
    """Decide which nodes compute in integers, then give their tensors one Q/DQ pair each.

    ``scores`` are tensors to be rounded to grids without zero points though no layer reads them; ``clips`` have been
    removed and come back where the tensor they gave is not rounded for all its readers.
    """
    producers, readers = graph.producers(), graph.readers()
    integer = _integer_nodes(graph, ranges, kernels)
    if scheme.products_without_zero_points:
        _leave_floats_in_place(graph, integer)
    unrounded = _added_into(graph, integer & kernels) if scheme.adds_into_products else set()
    pairs: dict[str, bool] = {}
    schemes: dict[str, Scheme] = {}
    for name in [*graph.inputs, *producers]:
        if name not in ranges:
            continue
        producer = producers.get(name)
        from_integer = producer is not None and id(producer) in integer
        read_by_integer = any(_reads_as_data(node, name, integer) for node in readers[name])
        if producer is not None and id(producer) in unrounded:
            continue
        # An integer product can hand over floats itself; a convolution or an addition cannot.
        needed = producer is not None and from_integer and not _gives_float(producer)
        if read_by_integer or needed:
            pairs[name] = from_integer
            schemes[name] = scheme
        elif name in scores:
            pairs[name] = True
            schemes[name] = replace(scheme, symmetric_activations=True)
    still_clips = {
        name
        for name in pairs
        if schemes[name] is scheme
        and (pairs[name] or all(_reads_as_data(node, name, integer) for node in readers[name]))
    }
    _put_back(graph, {name: clip for name, clip in clips.items() if name not in still_clips})
    nodes: list[onnx.NodeProto] = []
    for name in graph.inputs:
        if name in pairs:
            nodes.extend(_pair(graph, name, ranges[name], schemes[name]))
    replaced = {name: f"{name}_dequantized" for name in pairs}
    for node in graph.nodes:
        for position, name in enumerate(node.input):
            if name in pairs and (pairs[name] or _reads_as_data(node, name, integer)):
                node.input[position] = replaced[name]
        nodes.append(node)
        for name in list(node.output):
            if name not in pairs:
                continue
            if name in graph.outputs:
                node.output[list(node.output).index(name)] = f"{name}_float"
                nodes.extend(
                    _pair(graph, name, ranges[name], schemes[name], source=f"{name}_float", target=name)
                )
                replaced[name] = name
            else:
                nodes.extend(_pair(graph, name, ranges[name], schemes[name]))
    graph.nodes = nodes


def _added_into(graph: GraphEditor, kernels: set[int]) -> set[int]:
    """Ids of kernels whose only reader is an addition; one an addition, the last to run."""
    producers, readers = graph.producers(), graph.readers()
    place = {id(node): k for k, node in enumerate(graph.nodes)}
    found: set[int] = set()
    for node in graph.nodes:
        if node.op_type != "Add":
            continue
        sources = [producers[name] for name in node.input if name in producers and len(readers[name]) == 1]
        takers = [id(source) for source in sources if id(source) in kernels]
        if takers:
            found.add(max(takers, key=place.__getitem__))
    return found


def _integer_nodes(graph: GraphEditor, ranges: dict[str, Range], kernels: set[int]) -> set[int]:
    """Ids of nodes that run on integers: the layers, and what lies between them with all ranges known."""
    readers = graph.readers()
    integer: set[int] = set()
    for node in reversed(graph.nodes):
        output = node.output[0]
        if id(node) in kernels:
            integer.add(id(node))
            continue
        if node.op_type not in _INTEGER_WITH_RANGES or output not in ranges:
            continue
        data = [name for name in node.input if name and name not in graph.constants]
        if node.op_type in ("Add", "Concat") and len(data) != len(node.input):
            continue
        if node.op_type in SAME_VALUES:
            data = data[:1]
        wanted = any(id(reader) in integer for reader in _behind_clips(readers, output))
        if wanted and all(name in ranges for name in data):
            integer.add(id(node))
    return integer


def _leave_floats_in_place(graph: GraphEditor, integer: set[int]) -> None:
    """What moves values that come as floats moves floats: they are rounded once, where their reader is."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op_type in SAME_VALUES and id(producers.get(node.input[0])) not in integer:
            integer.discard(id(node))


def _behind_clips(readers: dict[str, list[onnx.NodeProto]], name: str) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    for node in readers.get(name, []):
        found.extend(readers.get(node.output[0], []) if node.op_type in ("Relu", "Clip") else [node])
    return found


def _gives_float(node: onnx.NodeProto) -> bool:
    return node.op_type in _PRODUCTS


def _reads_as_data(node: onnx.NodeProto, name: str, integer: set[int]) -> bool:
    return id(node) in integer and name in node.input


def _pair(
    graph: GraphEditor,
    name: str,
    bounds: Range,
    scheme: Scheme,
    *,
    source: str | None = None,
    target: str | None = None,
) -> list[onnx.NodeProto]:
    grid = scheme.grid(*bounds)
    dtype = np.int8 if scheme.symmetric_activations else np.uint8
    scale = graph.constant(f"{name}_scale", np.array(grid.scale, dtype=np.float32))
    zero = graph.constant(f"{name}_zero_point", np.array(grid.zero_point, dtype=dtype))
    rounded = f"{name}_quantized"
    return [
        make_node("QuantizeLinear", [source or name, scale, zero], rounded),
        make_node("DequantizeLinear", [rounded, scale, zero], target or f"{name}_dequantized"),
    ]
