"""Rules for operations with weights or a meaning of their own for channels: products, norms, look-ups, pooling."""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from lwplugin.model.reshape import shape_of
from lwplugin.model.walk import Contraction, Dim, Value, Walk, fixed, operation, rule


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
