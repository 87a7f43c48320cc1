"""Layers whose weight is stored packed and decoded to float when they run; activations stay in float.

``PackedLinear``, ``PackedConv1d``, ``PackedConv2d`` and ``PackedEmbedding`` differ from torch's layers in one
thing only: where the weight comes from (`encodings.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.layers import register_layer
from lwplugin.quantize.encodings import Encoding, Half, encoding_of
from lwplugin.quantize.layers import ConvGeometry, conv_args, filled


class PackedLayer(nn.Module):
    """What packed layers share: the encoding's tensors as buffers, a float32 bias, the decoded ``weight``."""

    bias: Tensor | None

    def __init__(self, weight_shape: tuple[int, ...], encoding: Mapping[str, Any], *, bias: bool) -> None:
        super().__init__()
        self.weight_shape = tuple(weight_shape)
        self.encoding: Encoding = encoding_of(encoding)
        for name, tensor in self.encoding.tensors(self.weight_shape).items():
            self.register_buffer(name, tensor)
        self.register_buffer("bias", torch.zeros(weight_shape[0]) if bias else None)

    @property
    def stored(self) -> dict[str, Tensor]:
        """The encoding's tensors by name."""
        return {
            name: tensor for name, tensor in self._buffers.items() if tensor is not None and name != "bias"
        }

    @property
    def weight(self) -> Tensor:
        """The decoded weight, float32 in its usual shape."""
        return self.encoding.decode(self.stored, self.weight_shape)

    @property
    def packed_params(self) -> int:
        """Weights and biases the layer holds, whatever their width; what a cost counts as its parameters."""
        return math.prod(self.weight_shape) + (0 if self.bias is None else self.bias.numel())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a weight with its share of scales and tables."""
        return 8 * sum(tensor.nbytes for tensor in self.stored.values()) / math.prod(self.weight_shape)

    @torch.no_grad()
    def store(self, **tensors: Tensor) -> None:
        """Fill the encoding's tensors by name."""
        for name, tensor in tensors.items():
            self.get_buffer(name).copy_(tensor)

    def to_float(self) -> nn.Module:
        """The float layer with the decoded weight: what exporters write that know no packing."""
        raise NotImplementedError

    def args(self) -> dict[str, Any]:
        """Constructor arguments, as the bundle records them."""
        raise NotImplementedError

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias in the type they are multiplied in."""
        if isinstance(self.encoding, Half) and self.encoding.native:
            dtype = self.encoding.torch_dtype
            bias = None if self.bias is None else self.bias.to(dtype)
            return x.to(dtype), self.stored["numbers"], bias
        return x, self.weight, self.bias

    def extra_repr(self) -> str:
        """Shape and encoding."""
        return f"{self.weight_shape}, {self.encoding}"


class PackedLinear(PackedLayer):
    """nn.Linear with a packed weight."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, encoding: Mapping[str, Any]
    ) -> None:
        super().__init__((out_features, in_features), encoding, bias=bias)
        self.in_features = in_features
        self.out_features = out_features

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "encoding": self.encoding.spec(),
        }

    def to_float(self) -> nn.Linear:
        """nn.Linear with the decoded weight."""
        return filled(nn.Linear(self.in_features, self.out_features, self.bias is not None), self)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        return F.linear(*self._operands(x)).to(x.dtype)


class _PackedConv(PackedLayer, ConvGeometry):
    """Convolution with a packed weight."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        encoding: Mapping[str, Any],
    ) -> None:
        shape = (out_channels, in_channels // groups, *self.each(kernel_size))
        super().__init__(shape, encoding, bias=bias)
        self.set_geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**conv_args(self), "bias": self.bias is not None, "encoding": self.encoding.spec()}


class PackedConv1d(_PackedConv):
    """nn.Conv1d with a packed weight."""

    spatial = 1

    def to_float(self) -> nn.Conv1d:
        """nn.Conv1d with the decoded weight."""
        return filled(nn.Conv1d(**conv_args(self), bias=self.bias is not None), self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, length] → [n, out, length']."""
        return F.conv1d(*self._operands(x), *self.geometry()).to(x.dtype)


class PackedConv2d(_PackedConv):
    """nn.Conv2d with a packed weight."""

    spatial = 2

    def to_float(self) -> nn.Conv2d:
        """nn.Conv2d with the decoded weight."""
        return filled(nn.Conv2d(**conv_args(self), bias=self.bias is not None), self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, height, width] → [n, out, height', width']."""
        return F.conv2d(*self._operands(x), *self.geometry()).to(x.dtype)


class PackedEmbedding(PackedLayer):
    """nn.Embedding with a packed table; answers float32."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        encoding: Mapping[str, Any],
    ) -> None:
        super().__init__((num_embeddings, embedding_dim), encoding, bias=False)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "encoding": self.encoding.spec(),
        }

    def to_float(self) -> nn.Embedding:
        """nn.Embedding with the decoded table."""
        return filled(nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx), self)

    def forward(self, indices: Tensor) -> Tensor:
        """Integers of any shape → […, embedding_dim]."""
        return F.embedding(indices, self.weight)


PACKABLE: dict[type[nn.Module], type[PackedLayer]] = {
    nn.Linear: PackedLinear,
    nn.Conv1d: PackedConv1d,
    nn.Conv2d: PackedConv2d,
    nn.Embedding: PackedEmbedding,
}


def packed_like(layer: Any, encoding: Encoding) -> PackedLayer:
    """An empty packed layer of the same shape, its bias copied; exactly the types in ``PACKABLE``."""
    spec = encoding.spec()
    bias = getattr(layer, "bias", None)
    made: PackedLayer
    if type(layer) is nn.Linear:
        made = PackedLinear(layer.in_features, layer.out_features, bias is not None, encoding=spec)
    elif type(layer) is nn.Embedding:
        made = PackedEmbedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, encoding=spec)
    elif type(layer) in PACKABLE:
        conv: Any = PACKABLE[type(layer)]
        made = conv(**conv_args(layer), bias=bias is not None, encoding=spec)
    else:
        raise MethodError("This layer type has no packed form", got=type(layer).__name__, do="skip it")
    if bias is not None:
        made.store(bias=bias.detach())
    return made.to(layer.weight.device).train(layer.training)


for _layer in PACKABLE.values():
    register_layer(_layer, lambda layer: layer.args())
