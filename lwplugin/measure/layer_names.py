"""Which module of the model a runtime's kernel computes, from the names of the weights in its file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# A fused or moved operator belongs to the layer before it.
_FOLLOWS = {
    *("Relu", "ReLU", "Clip", "Clamp", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu"),
    *("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "BatchNormalization", "Identity", "Cast"),
    *("Convert", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
}
_WEIGHT = re.compile(r"^(module\.)?(?P<layer>.+?)\.(weight|in_proj_weight|codes|packed)")
_BIAS = re.compile(r"^(module\.)?(?P<layer>.+?)\.(bias|in_proj_bias)")
_PRODUCTS = {"MatMul", "Gemm", "Conv", "Convolution", "MatMulInteger", "FullyConnected"}
_DECORATION = re.compile(
    r"^fused |(_kernel_time|_token_\d+|_nchwc|/WithoutBiases|/DequantizationMultiply|/fq_input_\d+|_fused\w*)$"
)


@dataclass
class Node:
    """``names`` it may be called by (its own, its outputs'), ``inputs`` names of what it reads."""

    kind: str
    names: list[str]
    inputs: list[str] = field(default_factory=list)
    constant: bool = False


def layers_of(file: Path, file_format: str) -> dict[str, str]:
    """Name of a node or tensor → the layer whose weights it uses or follows; empty for a file that does not
    tell."""
    try:
        if file_format == "onnx":
            import onnx

            return layers_in(onnx.load(str(file), load_external_data=False))
        if file_format == "openvino":
            return _openvino(file)
    except (ImportError, OSError, ValueError, SyntaxError):
        return {}
    return {}


def layer_of(kernel: str, layers: Mapping[str, str]) -> str | None:
    """The layer of a kernel that the runtime named after the node or tensor it came from."""
    name = kernel
    while name not in layers:
        shorter = _DECORATION.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return layers[name]


def owners(nodes: list[Node]) -> dict[str, str]:
    """For nodes in topological order.

    >>> weight = Node("Const", ["stem.weight"], constant=True)
    >>> owners([weight, Node("Conv", ["conv", "y"], ["x", "stem.weight"]), Node("Relu", ["relu", "z"], ["y"])])
    {'conv': 'stem', 'y': 'stem', 'relu': 'stem', 'z': 'stem'}
    """
    made = {name: node for node in nodes for name in node.names}
    weights: dict[str, str] = {}  # name of a constant → layer
    biases: dict[str, str] = {}
    found: dict[str, str] = {}
    for node in nodes:
        read = [made.get(name) for name in node.inputs]
        node.constant = node.constant or (
            bool(read) and all(one is not None and one.constant for one in read)
        )
        if node.constant:
            _name(node, _WEIGHT, weights)
            _name(node, _BIAS, biases)
            continue
        layer = next((weights[name] for name in node.inputs if name in weights), None)
        if layer is None and node.kind == "Add":
            layer = _of_bias(node, made, biases, found)
        if layer is None and node.kind in _FOLLOWS:
            layer = next((found[name] for name in node.inputs if name in found), None)
        if layer is not None:
            found.update(dict.fromkeys(node.names, layer))
    return found


def _name(node: Node, pattern: re.Pattern[str], known: dict[str, str]) -> None:
    """The layer of a constant, by its own name or by that of what it is computed from."""
    own = next((match["layer"] for name in node.names if (match := pattern.match(name))), None)
    layer = own or next((known[name] for name in node.inputs if name in known), None)
    if layer is not None:
        known.update(dict.fromkeys(node.names, layer))


def _of_bias(
    node: Node, made: Mapping[str, Node], biases: Mapping[str, str], found: dict[str, str]
) -> str | None:
    """A bias that is an operator of its own. Where its name survived and the weight's did not (exporters
    fold a transposition into a weight), it names the product before it too."""
    constant = [name for name in node.inputs if name in made and made[name].constant]
    if not constant:
        return None
    before = next((name for name in node.inputs if name not in constant), None)
    layer = next((biases[name] for name in constant if name in biases), None)
    if layer is None or before is None:
        return found.get(before or "")
    if before in made and before not in found and made[before].kind in _PRODUCTS:
        found.update(dict.fromkeys(made[before].names, layer))
    return found.get(before, layer)


def layers_in(model: onnx.ModelProto) -> dict[str, str]:
    """`owners` of an ONNX graph."""
    nodes = [Node("Const", [entry.name], constant=True) for entry in model.graph.initializer]
    for node in model.graph.node:
        names = [node.name, *node.output] if node.name else list(node.output)
        nodes.append(Node(node.op_type, names, [name for name in node.input if name]))
    return owners(nodes)


def _openvino(file: Path) -> dict[str, str]:
    """By the names in it, and by what our export wrote down: its converter drops the names of some constants."""
    from xml.etree import ElementTree

    root = ElementTree.parse(file).getroot()
    layers = {entry.attrib["id"]: entry for entry in root.findall("./layers/layer")}
    read: dict[str, list[tuple[int, str]]] = {}
    for edge in root.findall("./edges/edge"):
        port = int(edge.attrib["to-port"])
        read.setdefault(edge.attrib["to-layer"], []).append((port, edge.attrib["from-layer"]))
    nodes = [
        Node(
            entry.attrib["type"],
            [entry.attrib["name"]],
            [layers[source].attrib["name"] for _, source in sorted(read.get(number, []))],
            constant=entry.attrib["type"] == "Const",
        )
        for number, entry in layers.items()
    ]
    noted = root.find("./rt_info/lwplugin/layers")
    return {**owners(nodes), **(json.loads(noted.attrib["value"]) if noted is not None else {})}
