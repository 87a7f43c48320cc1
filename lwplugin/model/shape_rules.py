"""Rules for operations that rearrange, join, take apart or reduce dimensions."""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from lwplugin.model.reshape import couple_view, shape_of
from lwplugin.model.walk import Dim, Value, Walk, operation, pointwise, rule


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


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def _packed_sequence(walk: Walk, node: fx.Node) -> list[Value]:
    """[examples, time, …] → [steps of all examples, …], and back."""
    data, packs = walk.value(node.args[0]), operation(node) == "_pack_padded_sequence"
    lead, rest = (data.dims[:2], data.dims[2:]) if packs else (data.dims[:1], data.dims[1:])
    walk.freeze(data, "a dimension of examples or time", list(range(len(lead))))
    return [Value([*[None] * (1 if packs else 2), *rest]), Value([None])]


@rule("index_select")
def _index_select(walk: Walk, node: fx.Node) -> Value:
    data = walk.value(node.args[0])
    axis = int(node.args[1]) % len(data.dims)  # type: ignore[arg-type]
    walk.freeze(data, "picked by index", [axis])
    return Value([None if index == axis else dim for index, dim in enumerate(data.dims)])


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
