"""How each aten operation couples the dimensions of its tensors.

One rule an operation family. A rule gets the node and returns the dimensions of its result: for each
dimension an array of atoms, or None where its size is fixed (batch, space, time). An operation without a rule
freezes what it touches and says so: the graph never guesses.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from lwplugin.model.atoms import Atoms, IntArray
from lwplugin.model.reshape import couple_view, shape_of

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


@rule("masked_fill", "where", "clamp", "lerp", "addcmul", "addcdiv", "_to_copy", "clone", "detach", "alias",
      "contiguous", "lift_fresh", "lift_fresh_copy", "dropout", "to", "copy", "prelu", "_prelu_kernel", "rsub", "pow",
      "rrelu", "bernoulli", "rand_like", "randn_like", "fill")  # fmt: skip
def _like_pointwise(walk: Walk, node: fx.Node) -> Value:
    name = operation(node)
    first = node.args[0] if node.args else None
    if name in {"_to_copy", "clone", "detach", "alias", "contiguous", "lift_fresh", "lift_fresh_copy", "to"}:
        return walk.value(first)
    if name in {"prelu", "_prelu_kernel"}:
        data, weight = walk.value(first), walk.value(node.args[1])
        for dim, size in zip(weight.dims, shape_of(node.args[1]), strict=True):
            if size > 1:
                walk.meet(data.dims[1], dim, "prelu")
        return Value(list(data.dims))
    return pointwise(walk, node)


@rule("convolution", "_convolution")
def _convolution(walk: Walk, node: fx.Node) -> Value:
    data, weight, bias = walk.value(node.args[0]), walk.value(node.args[1]), node.args[2]
    transposed, groups = bool(node.args[6]), int(node.args[8])  # type: ignore[arg-type]
    out_shape, w_shape = shape_of(node), shape_of(node.args[1])
    channels = data.dims[1]
    reader, writer = (0, 1) if transposed else (1, 0)
    if groups == 1:
        walk.contract(weight, reader)
        walk.meet(channels, weight.dims[reader], "reads the model's input or a tensor of fixed width")
        out = weight.dims[writer]
    elif w_shape[1] == 1 and w_shape[0] == groups * (w_shape[0] // groups):
        out = _depthwise(walk, channels, weight, groups, transposed)
    else:
        out = _grouped(walk, channels, weight, groups, transposed)
    if isinstance(bias, fx.Node):
        walk.meet(out, walk.value(bias).dims[0], "bias of another width")
    space = math.prod(out_shape[2:]) if not transposed else math.prod(shape_of(node.args[0])[2:])
    constant = float(out_shape[0] * space * math.prod(w_shape[2:]))
    living = []
    for dim, size in zip(weight.dims[:2], w_shape[:2], strict=True):
        if dim is None:
            constant *= size
        else:
            living.append(dim)
    walk.contractions.append(Contraction(node.name, weight.parameter, constant, tuple(living)))
    return Value([None, out] + [None] * (len(out_shape) - 2))


def _depthwise(walk: Walk, channels: Dim, weight: Value, groups: int, transposed: bool) -> Dim:
    """Each input channel has filters of its own: they go with it, and the group count falls."""
    writer = weight.dims[0]
    if writer is None or channels is None:
        walk.freeze(weight, "depthwise convolution over channels of fixed number")
        if channels is not None:
            walk.atoms.freeze(channels, "depthwise convolution with a fixed weight")
        return writer
    walk.atoms.join(np.repeat(channels, len(writer) // groups), writer)
    return writer


def _grouped(walk: Walk, channels: Dim, weight: Value, groups: int, transposed: bool) -> Dim:
    """The group count stays; every group loses the same channels, so that all stay equally wide."""
    reader, writer = weight.dims[1], weight.dims[0]
    if transposed:
        reader, writer = writer, reader
    if channels is None:
        walk.freeze(weight, "reads the model's input or a tensor of fixed width")
        if reader is not None and not transposed:
            walk.atoms.freeze(reader, "reads a tensor of fixed width")
    else:
        per_group = channels.reshape(groups, -1)
        walk.atoms.join(np.tile(per_group[0], groups), channels)
        if transposed and reader is not None:
            walk.atoms.join(channels, reader)
        elif reader is not None:
            walk.atoms.join(per_group[0], reader)
        else:
            walk.atoms.freeze(channels, "grouped convolution with one input channel a group")
    walk.contract(weight, 0 if transposed else 1)
    if writer is None:
        return None
    if transposed:
        return np.tile(writer, groups)
    first = writer.reshape(groups, -1)[0]
    walk.atoms.join(np.tile(first, groups), writer)
    return writer


@rule("addmm", "mm", "bmm", "baddbmm", "mv", "matmul", "linear")
def _matrix_product(walk: Walk, node: fx.Node) -> Value:
    name = operation(node)
    added = walk.value(node.args[0]) if name in {"addmm", "baddbmm"} else None
    left_node, right_node = node.args[1:3] if added is not None else node.args[:2]
    left, right = walk.value(left_node), walk.value(right_node)
    ls, rs = shape_of(left_node), shape_of(right_node)
    if name in {"matmul", "mv", "linear"}:
        for value in (left, right):
            walk.freeze(value, f"undecomposed {name}")
        return Value([None] * len(shape_of(node)))
    walk.contract(left, len(ls) - 1)
    walk.contract(right, len(rs) - 2)
    summed = walk.meet(left.dims[-1], right.dims[-2], "matrix product with a tensor of fixed width")
    dims: list[Dim] = [left.dims[-2], right.dims[-1]]
    if name in {"bmm", "baddbmm"}:
        dims = [walk.meet(left.dims[0], right.dims[0], "batched product with a fixed batch"), *dims]
    constant, living = 1.0, []
    factors = [*zip(dims, shape_of(node), strict=True), (summed, ls[-1])]
    for dim, size in factors:
        if dim is None:
            constant *= size
        else:
            living.append(dim)
    owner = right.parameter or left.parameter
    walk.contractions.append(Contraction(node.name, owner, constant, tuple(living)))
    if added is not None:
        for axis, size in enumerate(reversed(shape_of(node.args[0])), start=1):
            if size > 1:
                dims[-axis] = walk.meet(dims[-axis], added.dims[-axis], "added tensor of fixed width")
    return Value(dims)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
      "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math_for_mps")  # fmt: skip
def _attention(walk: Walk, node: fx.Node) -> list[Value]:
    query, key, value = (walk.value(n) for n in node.args[:3])
    heads = walk.meet(query.dims[1], key.dims[1], "attention heads")
    heads = walk.meet(heads, value.dims[1], "attention heads")
    # The width of a head sets the softmax temperature: it stays.
    for operand in (query, key):
        walk.freeze(operand, "width of an attention head, which sets its temperature", [3])
    shape, keys = shape_of(node.args[0]), shape_of(node.args[1])[2]
    constant = float(shape[0] * shape[2] * keys * (shape[3] + shape_of(node.args[2])[3]))
    walk.contractions.append(
        Contraction(node.name, None, constant * (1 if heads is not None else shape[1]),
                    (heads,) if heads is not None else ())
    )  # fmt: skip
    out = Value([query.dims[0], heads, query.dims[2], value.dims[3]])
    return [out] + [Value([None] * 4)] * 8


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
      "_batch_norm_no_update", "batch_norm")  # fmt: skip
def _batch_norm(walk: Walk, node: fx.Node) -> Value | list[Value]:
    data = walk.value(node.args[0])
    channels = data.dims[1]
    for statistic in node.args[1:5]:
        if isinstance(statistic, fx.Node) and shape_of(statistic):
            channels = walk.meet(channels, walk.value(statistic).dims[0], "normalised with fixed statistics")
    out = Value([data.dims[0], channels, *data.dims[2:]])
    return out if operation(node) == "batch_norm" else [out, Value([None]), Value([None]), Value([None])]


@rule("native_group_norm")
def _group_norm(walk: Walk, node: fx.Node) -> list[Value]:
    data, groups = walk.value(node.args[0]), int(node.args[6])  # type: ignore[arg-type]
    channels = data.dims[1]
    for parameter in node.args[1:3]:
        if isinstance(parameter, fx.Node):
            channels = walk.meet(channels, walk.value(parameter).dims[0], "normalised with fixed statistics")
    if channels is not None:
        blocks = channels.reshape(groups, -1)
        if groups == 1:
            walk.atoms.freeze(
                channels, "normalised over all channels (one group): removing any would move the rest"
            )
        else:
            # A norm's group goes as a whole: its statistics stay what they were.
            walk.atoms.join(np.repeat(blocks[:, 0], blocks.shape[1]), channels)
    return [Value([data.dims[0], channels, *data.dims[2:]]), Value([None, None]), Value([None, None])]


@rule("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def _layer_norm(walk: Walk, node: fx.Node) -> Value | list[Value]:
    data = walk.value(node.args[0])
    width = len(node.args[1])  # type: ignore[arg-type]
    reason = "normalised over this width (layer norm): removing a channel would move the rest"
    normalised = range(len(data.dims) - width, len(data.dims))
    walk.freeze(data, reason, list(normalised))
    for parameter in node.args[2:4]:
        if isinstance(parameter, fx.Node):
            value = walk.value(parameter)
            for axis, dim in zip(normalised, value.dims, strict=True):
                walk.meet(data.dims[axis], dim, reason)
            walk.freeze(value, reason)
    out = Value(list(data.dims))
    return [out, fixed(node)[1], fixed(node)[1]] if isinstance(node.meta["val"], (tuple, list)) else out  # type: ignore[index]


@rule("embedding")
def _embedding(walk: Walk, node: fx.Node) -> Value:
    table = walk.value(node.args[0])
    walk.freeze(table, "rows of an embedding are a vocabulary", [0])
    lead: list[Dim] = [None] * (len(shape_of(node)) - 1)
    return Value([*lead, table.dims[1]])


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d",
      "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d",
      "adaptive_avg_pool2d", "max_pool1d", "max_pool2d", "upsample_nearest1d", "upsample_nearest2d",
      "upsample_nearest3d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "upsample_linear1d",
      "upsample_trilinear3d", "_upsample_nearest_exact2d", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
      "replication_pad2d", "grid_sampler_2d")  # fmt: skip
def _spatial(walk: Walk, node: fx.Node) -> Value | list[Value]:
    """Works inside each channel; the last one to three dimensions are space."""
    data = walk.value(node.args[0])
    # An unbatched image has its channels first; the batched case has a batch before them.
    rank = 3 if "3d" in operation(node) else 1 if "1d" in operation(node) else 2
    lead = len(data.dims) - rank
    out = Value([*data.dims[:lead], *[None] * rank])
    walk.freeze(data, "pooled over", list(range(lead, len(data.dims))))
    return [out, Value(list(out.dims))] if isinstance(node.meta["val"], (tuple, list)) else out


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "norm", "linalg_vector_norm", "logsumexp",
      "argmax", "argmin", "prod", "any", "all", "median", "topk", "sort", "cumsum", "_softmax", "_log_softmax",
      "_safe_softmax", "softmax", "log_softmax")  # fmt: skip
def _reduction(walk: Walk, node: fx.Node) -> Value | list[Value]:
    """Over fixed dimensions (space, time) channels pass through; over channels it would change the rest."""
    data, name = walk.value(node.args[0]), operation(node)
    rank = len(data.dims)
    position = 2 if name in {"norm", "linalg_vector_norm", "topk"} else 1
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    if name in {"max", "min", "sort", "median"} and len(node.args) < 2:
        given = None if name != "sort" else -1
    if isinstance(given, int):
        given = [given]
    axes = range(rank) if not given else [int(a) % max(rank, 1) for a in given]  # type: ignore[union-attr, arg-type]
    walk.freeze(data, f"reduced over by {name}", list(axes))
    out = list(data.dims)
    for axis in axes:
        out[axis] = None
    kept = (
        shape_of(node)
        if not isinstance(node.meta["val"], (tuple, list))
        else tuple(node.meta["val"][0].shape)
    )
    if len(kept) != rank:
        out = [dim for axis, dim in enumerate(out) if axis not in axes]
    if isinstance(node.meta["val"], (tuple, list)):
        return [Value(list(out)) for _ in node.meta["val"]]
    return Value(out)


@rule("constant_pad_nd")
def _pad(walk: Walk, node: fx.Node) -> Value:
    data, pads = walk.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    dims = list(data.dims)
    for back in range(len(pads) // 2):
        before, after = int(pads[2 * back]), int(pads[2 * back + 1])  # type: ignore[arg-type]
        axis = len(dims) - 1 - back
        dim = dims[axis]
        if dim is None or (before == 0 and after == 0):
            continue
        if before < 0 or after < 0:
            walk.atoms.freeze(dim, "cropped by a negative padding")
            dims[axis] = None
            continue
        edges = walk.atoms.new(before + after)
        walk.atoms.freeze(edges, "padded with constant channels")
        dims[axis] = np.concatenate([edges[:before], dim, edges[before:]])
    return Value(dims)


@rule("cat")
def _cat(walk: Walk, node: fx.Node) -> Value:
    nodes = [n for n in node.args[0] if math.prod(shape_of(n)) > 0]  # type: ignore[union-attr]
    rank = len(shape_of(node))
    axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank  # type: ignore[arg-type]
    values = [walk.value(n) for n in nodes]
    dims: list[Dim] = []
    for d in range(rank):
        parts = [v.dims[d] for v in values]
        if d != axis:
            dim = parts[0]
            for other in parts[1:]:
                dim = walk.meet(dim, other, "concatenated with a tensor of fixed size")
            dims.append(dim)
        elif all(p is None for p in parts):
            dims.append(None)
        else:
            pieces = []
            for part, n in zip(parts, nodes, strict=True):
                if part is None:
                    part = walk.atoms.new(shape_of(n)[d])
                    walk.atoms.freeze(part, "concatenated fixed channels")
                pieces.append(part)
            dims.append(np.concatenate(pieces))
    return Value(dims)


@rule("stack")
def _stack(walk: Walk, node: fx.Node) -> Value:
    values = [walk.value(n) for n in node.args[0]]  # type: ignore[union-attr]
    dims = list(values[0].dims)
    for other in values[1:]:
        dims = [
            walk.meet(a, b, "stacked with a tensor of fixed size")
            for a, b in zip(dims, other.dims, strict=True)
        ]
    axis = int(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))  # type: ignore[arg-type]
    dims.insert(axis, None)
    return Value(dims)


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
def _split(walk: Walk, node: fx.Node) -> list[Value]:
    data = walk.value(node.args[0])
    axis = int(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)) % len(data.dims)  # type: ignore[arg-type]
    sizes = [int(v.shape[axis]) for v in node.meta["val"]]
    ends = np.cumsum(sizes).tolist()
    dim = data.dims[axis]
    parts = [None if dim is None else dim[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if dim is not None and len(set(sizes)) == 1:
        # Equal parts are usually computed from the width (chunk): each loses the same indices, so they stay equal.
        for part in parts[1:]:
            walk.atoms.join(parts[0], part)  # type: ignore[arg-type]
    return [Value([*data.dims[:axis], part, *data.dims[axis + 1 :]]) for part in parts]


@rule("glu")
def _glu(walk: Walk, node: fx.Node) -> Value:
    """Two equal halves, value and gate: a channel goes with its gate."""
    data = walk.value(node.args[0])
    axis = int(node.args[1] if len(node.args) > 1 else -1) % len(data.dims)  # type: ignore[arg-type]
    out = list(data.dims)
    dim = out[axis]
    if dim is not None:
        half = len(dim) // 2
        walk.atoms.join(dim[:half], dim[half:])
        out[axis] = dim[:half]
    return Value(out)


@rule("slice")
def _slice(walk: Walk, node: fx.Node) -> Value:
    data = walk.value(node.args[0])
    axis = int(node.args[1] if len(node.args) > 1 else 0) % len(data.dims)  # type: ignore[arg-type]
    dim = data.dims[axis]
    out = list(data.dims)
    if dim is not None:
        start, end, step = ([*node.args[2:5], None, None, None][i] for i in range(3))
        part = dim[slice(start, end, step)]  # type: ignore[misc]
        siblings = [n for n in node.args[0].users if operation(n) == "slice" and n is not node]  # type: ignore[union-attr]
        twins = [n for n in siblings if (n.args[1] if len(n.args) > 1 else 0) == axis]
        sizes = {shape_of(n)[axis] for n in twins} | {len(part)}
        if len(part) < len(dim) and len(sizes) == 1 and len(part) * (len(twins) + 1) == len(dim):
            walk.atoms.join(dim[: len(part)], part)
        out[axis] = part
    value = Value(out)
    if dim is None or len(out[axis]) == len(dim):  # type: ignore[arg-type]
        value.parameter, value.axes = data.parameter, data.axes
    return value


@rule("select", "unbind")
def _select(walk: Walk, node: fx.Node) -> Value | list[Value]:
    data = walk.value(node.args[0])
    axis = int(node.args[1] if len(node.args) > 1 else 0) % len(data.dims)  # type: ignore[arg-type]
    walk.freeze(data, "one index is picked by number", [axis])
    rest = [dim for index, dim in enumerate(data.dims) if index != axis]
    if operation(node) == "unbind":
        return [Value(list(rest)) for _ in node.meta["val"]]
    return Value(rest)


@rule("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "numpy_T", "movedim")
def _rearrange(walk: Walk, node: fx.Node) -> Value:
    data, name = walk.value(node.args[0]), operation(node)
    rank = len(data.dims)
    shape = shape_of(node.args[0])
    order: list[int | None]
    if name == "permute":
        order = [int(a) % rank for a in node.args[1]]  # type: ignore[union-attr, arg-type]
    elif name == "t" or name == "numpy_T":
        order = list(reversed(range(rank)))
    elif name == "transpose":
        a, b = (int(x) % rank for x in node.args[1:3])  # type: ignore[arg-type]
        order = list(range(rank))
        order[a], order[b] = b, a
    elif name == "unsqueeze":
        order = list(range(rank))
        order.insert(int(node.args[1]) % (rank + 1), None)  # type: ignore[arg-type]
    elif name == "squeeze":
        given = node.args[1] if len(node.args) > 1 else None
        chosen = range(rank) if given is None else [given] if isinstance(given, int) else given
        gone = {int(a) % rank for a in chosen if shape[int(a) % rank] == 1}  # type: ignore[union-attr, arg-type]
        order = [axis for axis in range(rank) if axis not in gone]
    elif name == "expand":
        extra = len(shape_of(node)) - rank
        order = [
            a - extra if a >= extra and shape[a - extra] == size else None
            for a, size in enumerate(shape_of(node))
        ]
    else:
        walk.freeze(data, f"operation {name} is not known to the dependency graph")
        return Value([None] * len(shape_of(node)))
    dims = [None if axis is None else data.dims[axis] for axis in order]
    axes: list[int | None] | None = None
    if data.axes is not None:
        axes = [None if axis is None else data.axes[axis] for axis in order]
    return Value(dims, data.parameter, axes)


@rule("repeat")
def _repeat(walk: Walk, node: fx.Node) -> Value:
    data, counts = walk.value(node.args[0]), [int(c) for c in node.args[1]]  # type: ignore[union-attr, arg-type]
    dims = [None] * (len(counts) - len(data.dims)) + data.dims
    return Value(
        [None if dim is None else np.tile(dim, count) for dim, count in zip(dims, counts, strict=True)]
    )


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten")
def _view(walk: Walk, node: fx.Node) -> Value:
    data = walk.value(node.args[0])
    source, target = shape_of(node.args[0]), shape_of(node)
    if source == target:
        return data
    return Value(couple_view(walk.atoms, data.dims, source, target, node))


@rule("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(walk: Walk, node: fx.Node) -> Value:
    data, factor = walk.value(node.args[0]), int(node.args[1])  # type: ignore[arg-type]
    channels = data.dims[-3]
    lead = list(data.dims[:-3])
    if channels is None:
        return Value([*lead, None, None, None])
    if operation(node) == "pixel_unshuffle":
        return Value([*lead, np.repeat(channels, factor * factor), None, None])
    blocks = channels.reshape(-1, factor * factor)
    walk.atoms.join(np.repeat(blocks[:, 0], factor * factor), channels)
    return Value([*lead, blocks[:, 0], None, None])


@rule("index")
def _index(walk: Walk, node: fx.Node) -> Value:
    data, indices = walk.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    used = [axis for axis, index in enumerate(indices) if index is not None]
    walk.freeze(data, "picked by index", used)
    rank = len(shape_of(node))
    if len(used) == 1:
        axis = used[0]
        width = rank - (len(data.dims) - 1)
        return Value([*data.dims[:axis], *[None] * width, *data.dims[axis + 1 :]])
    walk.freeze(data, "picked by several indices")
    return Value([None] * rank)
