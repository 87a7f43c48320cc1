"""Zero padding in front of a convolution becomes the convolution's own: a Pad has no integer kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.export.onnx_graph import GraphEditor, attribute, set_attribute

if TYPE_CHECKING:
    import onnx

    from lwplugin.export.onnx_ranges import Range


def fold_padding(graph: GraphEditor, taken: dict[str, Range]) -> None:
    """Remove every Pad that only one convolution reads; the range it ``took`` is that of the Pad's input."""
    producers, readers = graph.producers(), graph.readers()
    gone: set[int] = set()
    for conv in graph.nodes:
        pad = producers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or len(readers[conv.input[0]]) > 1:
            continue
        amounts = _spatial_zeros(graph, pad)
        if amounts is None or conv.input[0] in graph.outputs:
            continue
        own = list(attribute(conv, "pads", [0] * len(amounts)))
        set_attribute(conv, "pads", [a + b for a, b in zip(own, amounts, strict=True)])
        source = pad.input[0]
        if conv.input[0] in taken:
            taken[source] = _joined(taken.get(source), taken.pop(conv.input[0]))
        conv.input[0] = source
        gone.add(id(pad))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _spatial_zeros(graph: GraphEditor, pad: onnx.NodeProto) -> list[int] | None:
    """What a Pad adds to the spatial dimensions, all beginnings, then all ends; None where it does anything else."""
    amounts = graph.value(pad.input[1])
    fill = graph.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else None
    constant = attribute(pad, "mode", b"constant") == b"constant" and (len(pad.input) < 4 or not pad.input[3])
    if amounts is None or not constant or (fill is not None and bool((fill != 0).any())):
        return None
    if len(pad.input) > 2 and pad.input[2] and fill is None:
        return None
    begins, ends = (part.tolist() for part in amounts.reshape(2, -1))
    if any(begins[:2]) or any(ends[:2]) or min(*begins, *ends) < 0:
        return None
    return [int(amount) for amount in (*begins[2:], *ends[2:])]


def _joined(a: Range | None, b: Range) -> Range:
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))
