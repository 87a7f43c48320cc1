"""An ONNX graph while it is being changed: who makes a tensor, who reads it, new nodes and constants."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class GraphEditor:
    """Nodes in topological order, with their tensors by name. `finish` writes the changes back."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes: list[onnx.NodeProto] = list(proto.graph.node)
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in proto.graph.initializer}
        self.inputs = [value.name for value in proto.graph.input]
        self.outputs = [value.name for value in proto.graph.output]
        self.ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for part in (proto.graph.value_info, proto.graph.input, proto.graph.output)
            for value in part
            if value.type.tensor_type.HasField("shape")
        }

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor name → the node that makes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor name → the nodes that read it, once for each; in graphs of their own (Loop, If) too."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys([*node.input, *sorted(_names_inside(node))]):
                if name:
                    found[name].append(node)
        return found

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add an initializer; the same name must mean the same values."""
        from onnx import numpy_helper

        # np.ascontiguousarray would turn a scalar into a vector, which runtimes do not fuse.
        self.constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def value(self, name: str) -> np.ndarray | None:
        """The values of an initializer; None for any other tensor."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def finish(self) -> onnx.ModelProto:
        """The changed model: dead nodes and unused constants are gone."""
        alive = set(self.outputs)
        kept: list[Any] = []
        for node in reversed(self.nodes):
            if any(name in alive for name in node.output):
                kept.append(node)
                alive.update(node.input, _names_inside(node))
        graph = self.proto.graph
        nodes = list(reversed(kept))
        constants = [tensor for name, tensor in self.constants.items() if name in alive]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        used = {node.domain for node in nodes}
        present = {entry.domain for entry in self.proto.opset_import} | {"", "ai.onnx"}
        for domain in sorted(used - present):
            entry = self.proto.opset_import.add()
            entry.domain, entry.version = domain, 1
        domains = [entry for entry in self.proto.opset_import if entry.domain in used | {"", "ai.onnx"}]
        del self.proto.opset_import[:]
        self.proto.opset_import.extend(domains)
        return self.proto


def _names_inside(node: onnx.NodeProto) -> set[str]:
    """What the graphs in a node's attributes read or give, and those in their nodes."""
    graphs = [graph for entry in node.attribute for graph in (entry.g, *entry.graphs)]
    given = {value.name for graph in graphs for value in graph.output}
    inner = [each for graph in graphs for each in graph.node]
    return given.union(*(set(each.input) | _names_inside(each) for each in inner))


def make_node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A standard operator with one output; named after it."""
    from onnx import helper

    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's Python value."""
    from onnx import helper

    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give an attribute a value, whether it was there or not."""
    from onnx import helper

    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
