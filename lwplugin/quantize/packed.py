"""Layers whose weight is stored packed and decoded to float when they run; activations stay in float.

They differ from torch's layers in one thing only: where the weight comes from (`encodings.py`). It is stored output by
output, that of a transposed convolution too (`model/weight_layout.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.layers import register_layer
from lwplugin.model.weight_layout import RECURRENT, Layout
from lwplugin.quantize.encodings import Encoding, Half, encoding_of
from lwplugin.quantize.layers import QUANTIZABLE, ConvGeometry, conv_args, filled
from lwplugin.quantize.recurrent import Matrix


class PackedLayer(nn.Module):
    """What packed layers share: the encoding's tensors as buffers, a float32 bias, the decoded ``weight``.

    ``weight_shape`` is that of the weight output by output, [out, …].
    """

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
        return self.layout.weight(self.encoding.decode(self.stored, self.weight_shape))

    @property
    def layout(self) -> Layout:
        """How the usual shape lies to ``weight_shape``, which is output by output."""
        return Layout()

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
            return x.to(dtype), self.layout.weight(self.stored["numbers"]), bias
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


class PackedMatrix(PackedLayer):
    """A packed matrix of a recurrent layer, which reads its ``weight``."""

    def __init__(self, in_features: int, out_features: int, *, encoding: Mapping[str, Any]) -> None:
        super().__init__((out_features, in_features), encoding, bias=False)

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        rows, columns = self.weight_shape
        return {"in_features": columns, "out_features": rows, "encoding": self.encoding.spec()}

    def to_float(self) -> Matrix:
        """The decoded matrix."""
        return filled(Matrix(*reversed(self.weight_shape)), self)


class _PackedConv(PackedLayer, ConvGeometry):
    """Convolution with a packed weight; ``kind`` is torch's."""

    kind: Callable[..., nn.Module]

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

    def to_float(self) -> nn.Module:
        """Torch's layer with the decoded weight."""
        return filled(self.kind(**conv_args(self), bias=self.bias is not None), self)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, …] → [n, out, …]."""
        return self.convolved(*self._operands(x)).to(x.dtype)


class PackedConv1d(_PackedConv):
    """nn.Conv1d with a packed weight."""

    kind, spatial = nn.Conv1d, 1


class PackedConv2d(_PackedConv):
    """nn.Conv2d with a packed weight."""

    kind, spatial = nn.Conv2d, 2


class PackedConv3d(_PackedConv):
    """nn.Conv3d with a packed weight."""

    kind, spatial = nn.Conv3d, 3


class _PackedConvTranspose(_PackedConv):
    """Transposed convolution with a packed weight."""

    def __init__(self, *args: Any, output_padding: int | tuple[int, ...] = 0, **named: Any) -> None:
        super().__init__(*args, **named)
        self.output_padding = self.each(output_padding)

    @property
    def layout(self) -> Layout:
        """By input."""
        return Layout(by_input=True, groups=self.groups)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in, …] → [n, out, …]."""
        spread = _SPREAD[self.spatial]
        return spread(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class PackedConvTranspose1d(_PackedConvTranspose):
    """nn.ConvTranspose1d with a packed weight."""

    kind, spatial = nn.ConvTranspose1d, 1


class PackedConvTranspose2d(_PackedConvTranspose):
    """nn.ConvTranspose2d with a packed weight."""

    kind, spatial = nn.ConvTranspose2d, 2


class PackedConvTranspose3d(_PackedConvTranspose):
    """nn.ConvTranspose3d with a packed weight."""

    kind, spatial = nn.ConvTranspose3d, 3


_SPREAD: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


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
    nn.Conv3d: PackedConv3d,
    nn.ConvTranspose1d: PackedConvTranspose1d,
    nn.ConvTranspose2d: PackedConvTranspose2d,
    nn.ConvTranspose3d: PackedConvTranspose3d,
    Matrix: PackedMatrix,
    nn.Embedding: PackedEmbedding,
}


PACKED_KINDS = (*(kind for kind in PACKABLE if kind is not Matrix), *RECURRENT)
"""Layers of a model that can be packed, those in parts too."""
WITHOUT_INTEGERS = tuple(kind for kind in PACKED_KINDS if kind not in (*QUANTIZABLE, nn.Embedding))
"""Kinds that no runtime here multiplies in integers: fewer bits make a smaller file, and arithmetic is float."""
PACKED_CONVOLUTIONS = tuple(made for made in PACKABLE.values() if issubclass(made, _PackedConv))


def packed_like(layer: Any, encoding: Encoding) -> PackedLayer:
    """An empty packed layer of the same shape, its bias copied; exactly the types in ``PACKABLE``."""
    spec = encoding.spec()
    bias = getattr(layer, "bias", None)
    made: PackedLayer
    if type(layer) is nn.Linear:
        made = PackedLinear(layer.in_features, layer.out_features, bias is not None, encoding=spec)
    elif type(layer) is Matrix:
        made = PackedMatrix(layer.in_features, layer.out_features, encoding=spec)
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
