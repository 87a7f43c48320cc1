"""How each aten operation couples the dimensions of its tensors.

One rule an operation family. A rule gets the node and returns the dimensions of its result: for each
dimension an array of atoms, or None where its size is fixed (batch, space, time). An operation without a rule
freezes what it touches and says so: the graph never guesses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lwplugin.model.atoms import Atoms, IntArray
from lwplugin.model.reshape import shape_of

Dim = IntArray | None


@dataclass
class Value:
    """Dimensions of one tensor; ``parameter`` and ``axes`` tell whose weight it is, seen through transposes."""

    dims: list[Dim]
    parameter: str | None = None
    axes: list[int | None] | None = None


@dataclass(frozen=True)
class Contraction:
    """A matrix product or convolution: ``macs`` = constant × the living sizes of ``dims`` (all examples)."""

    node: str
    parameter: str | None
    constant: float
    dims: tuple[IntArray, ...]


@dataclass
class Walk:
    """What the rules read and write while the graph is walked in order."""

    atoms: Atoms
    values: dict[fx.Node, Value | list[Value]] = field(default_factory=dict)
    readers: set[tuple[str, int]] = field(default_factory=set)
    """(parameter, dimension) that a contraction sums over: zeroing them silences the channel."""
    contractions: list[Contraction] = field(default_factory=list)

    def value(self, node: Any) -> Value:
        found = self.values.get(node) if isinstance(node, fx.Node) else None
        if isinstance(found, Value):
            return found
        return Value([])

    def freeze(self, value: Value, reason: str, dims: Sequence[int] | None = None) -> None:
        for index, dim in enumerate(value.dims):
            if dim is not None and (dims is None or index in dims):
                self.atoms.freeze(dim, reason)

    def meet(self, left: Dim, right: Dim, reason: str) -> Dim:
        """Two dimensions that must keep equal sizes: joined, or frozen where one is fixed."""
        if left is None or right is None:
            present = left if left is not None else right
            if present is not None:
                self.atoms.freeze(present, reason)
            return None
        if len(left) != len(right):
            self.atoms.freeze(left, reason)
            self.atoms.freeze(right, reason)
            return None
        self.atoms.join(left, right)
        return left

    def contract(self, value: Value, dim: int) -> None:
        if value.parameter is not None and value.axes is not None and (axis := value.axes[dim]) is not None:
            self.readers.add((value.parameter, axis))


Rule = Callable[[Walk, fx.Node], Value | list[Value]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def visit(walk: Walk, node: fx.Node) -> None:
    """Give ``node`` its dimensions."""
    if node.target is operator.getitem:
        source = walk.values.get(node.args[0])  # type: ignore[arg-type]
        index = node.args[1]
        if isinstance(source, list) and isinstance(index, int) and index < len(source):
            walk.values[node] = source[index]
        else:
            walk.values[node] = Value([None] * len(shape_of(node)))
        return
    name = operation(node)
    inputs = [walk.value(n) for n in node.all_input_nodes]
    if name in FACTORIES:
        # A tensor of one value (an LSTM's first state) is as wide as the code makes it: it follows what it meets.
        walk.values[node] = Value([walk.atoms.new(s) if s > 1 else None for s in shape_of(node)])
    elif name in RULES:
        walk.values[node] = RULES[name](walk, node)
    elif all(dim is None for value in inputs for dim in value.dims):
        walk.values[node] = fixed(node)
    elif is_pointwise(node):
        walk.values[node] = pointwise(walk, node)
    else:
        for value in inputs:
            walk.freeze(value, f"operation {name} is not known to the dependency graph")
        walk.values[node] = fixed(node)


def operation(node: fx.Node) -> str:
    """``convolution`` for aten::convolution.default."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target._schema.name.split("::")[-1])
        return name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return str(target)


def is_pointwise(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def fixed(node: fx.Node) -> Value | list[Value]:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [Value([None] * (v.ndim if isinstance(v, torch.Tensor) else 0)) for v in value]
    return Value([None] * len(shape_of(node)))


FACTORIES = {
    "zeros",
    "ones",
    "full",
    "empty",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
}


def pointwise(walk: Walk, node: fx.Node) -> Value:
    """Element by element with broadcasting: aligned dimensions live and die together."""
    shape = shape_of(node)
    dims: list[Dim] = [None] * len(shape)
    operands = [walk.value(n) for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    shapes = [shape_of(n) for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    for axis in range(len(shape)):
        back = len(shape) - axis
        present = [
            v.dims[-back] for v, s in zip(operands, shapes, strict=True) if back <= len(s) and s[-back] != 1
        ]
        if not present:
            continue
        dim = present[0]
        for other in present[1:]:
            dim = walk.meet(dim, other, f"{operation(node)} with a tensor of fixed size")
        dims[axis] = dim
    return Value(dims)
