"""Quantized layers: packed integer weights with scales, and the activation ranges decided at calibration.

They compute in float what the integer kernels compute: the input is rounded to its grid, the weight is the
dequantized one. Exporters read the integers, scales and ranges from here and decide nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.layers import register_layer
from lwplugin.quantize.packing import pack, packed_bytes, unpack
from lwplugin.quantize.scheme import AffineGrid, dynamically_rounded
from lwplugin.quantize.weights import dequantize

Range = tuple[float, float]


class QuantLayer(nn.Module):
    """What all quantized layers share; ``weight_shape`` is [out, …] as the float layer has it.

    Buffers: ``qweight`` (int8 for 8 bits, dense uint8 below), ``scale`` float32 [out, groups], ``bias``
    float32 [out] or None, ``input_range`` and ``output_range`` float32 [2]. ``activation_bits`` None leaves
    activations in float (weight-only) and the ranges unused.
    """

    qweight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None
    input_range: torch.Tensor
    output_range: torch.Tensor

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        *,
        bias: bool,
        weight_bits: int = 8,
        activation_bits: int | None = 8,
        group_size: int | None = None,
    ) -> None:
        super().__init__()
        row = math.prod(weight_shape[1:])
        if group_size is not None and row % group_size:
            raise MethodError(
                "A weight row must be whole groups",
                got=f"{row} inputs, groups of {group_size}",
                do="choose a divisor",
            )
        self.weight_shape = tuple(weight_shape)
        self.weight_bits = weight_bits
        self.activation_bits = activation_bits
        self.group_size = group_size
        count = math.prod(weight_shape)
        storage = torch.int8 if weight_bits == 8 else torch.uint8
        self.register_buffer("qweight", torch.zeros(packed_bytes(count, weight_bits), dtype=storage))
        self.register_buffer("scale", torch.ones(weight_shape[0], row // (group_size or row) if row else 1))
        self.register_buffer("bias", torch.zeros(weight_shape[0]) if bias else None)
        self.register_buffer("input_range", torch.zeros(2))
        self.register_buffer("output_range", torch.zeros(2))

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weight, float32 in its usual shape."""
        return dequantize(self.integers(), self.scale)

    @property
    def packed_params(self) -> int:
        """Weights and biases the layer holds, whatever their width; what a cost counts as its parameters."""
        return math.prod(self.weight_shape) + (0 if self.bias is None else self.bias.numel())

    @property
    def effective_weight(self) -> torch.Tensor:
        """What the input as it comes is multiplied by: the dequantized weight."""
        return self.weight

    def integers(self) -> torch.Tensor:
        """The integer weight, int8 in its usual shape."""
        return unpack(self.qweight, self.weight_bits, math.prod(self.weight_shape)).reshape(self.weight_shape)

    @torch.no_grad()
    def set_weight(self, integers: torch.Tensor, scale: torch.Tensor) -> None:
        """Store integers (weight's shape) and scales [out, groups]."""
        self.qweight.copy_(pack(integers, self.weight_bits))
        self.scale.copy_(scale)

    @torch.no_grad()
    def set_ranges(self, inputs: Range, outputs: Range) -> None:
        """Store the activation ranges (lo, hi)."""
        self.input_range.copy_(torch.tensor(inputs))
        self.output_range.copy_(torch.tensor(outputs))

    def input_grid(self) -> AffineGrid | None:
        """The grid the input is rounded to; None for weight-only layers."""
        if self.activation_bits is None:
            return None
        lo, hi = self.input_range.tolist()
        return AffineGrid.of_range(lo, hi, bits=self.activation_bits)

    def rounded_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` on the input grid."""
        grid = self.input_grid()
        return x if grid is None else grid.fake_quantize(x)

    def to_float(self) -> nn.Module:
        """The float layer with the dequantized weight: what exporters without integers write."""
        raise MethodError("Not a layer by itself", got=type(self).__name__)

    def quantization_args(self) -> dict[str, Any]:
        """The constructor arguments all quantized layers share."""
        return {
            "bias": self.bias is not None,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "group_size": self.group_size,
        }

    def extra_repr(self) -> str:
        """Shape and widths."""
        return f"{self.weight_shape}, weight_bits={self.weight_bits}, activation_bits={self.activation_bits}"


class QuantLinear(QuantLayer):
    """nn.Linear with integer weights.

    ``dynamic``: the input's grid is that of the values at hand, one for the whole tensor, instead of ``input_range``.
    ``smoothed``: the input is multiplied by ``input_gain``, float32 [in], before it is rounded; ``input_range`` is
    that of the product, and the stored weight is for it.
    ``alone``, which is not stored: examples of a batch do not share a dynamic grid, as where each comes by itself.
    """

    input_gain: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_bits: int = 8,
        activation_bits: int | None = 8,
        group_size: int | None = None,
        dynamic: bool = False,
        smoothed: bool = False,
    ) -> None:
        super().__init__(
            (out_features, in_features),
            bias=bias,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            group_size=group_size,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.dynamic = dynamic
        self.alone = False
        self.register_buffer("input_gain", torch.ones(in_features) if smoothed else None)

    @property
    def effective_weight(self) -> torch.Tensor:
        """The dequantized weight for the input as it comes."""
        return self.weight if self.input_gain is None else self.weight * self.input_gain

    def rounded_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, times the gain, on the input grid."""
        if self.input_gain is not None:
            x = x * self.input_gain
        if not self.dynamic or self.activation_bits is None:
            return super().rounded_input(x)
        return dynamically_rounded(x, self.activation_bits, alone=self.alone)

    def quantization_args(self) -> dict[str, Any]:
        """With ``dynamic`` and ``smoothed``, where they are on."""
        on = {"dynamic": self.dynamic, "smoothed": self.input_gain is not None}
        return {**super().quantization_args(), **{name: True for name, value in on.items() if value}}

    @torch.no_grad()
    def to_float(self) -> nn.Linear:
        """nn.Linear with the dequantized weight."""
        made = filled(nn.Linear(self.in_features, self.out_features, self.bias is not None), self)
        made.weight.copy_(self.effective_weight)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] → […, out]."""
        return F.linear(self.rounded_input(x), self.weight, self.bias)


_CONVOLVE: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class ConvGeometry:
    """How a convolution lies over its ``spatial`` dimensions, zero padding only; attributes named as torch's."""

    spatial: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int

    def set_geometry(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        padding: int | tuple[int, ...] | str,
        dilation: int | tuple[int, ...],
        groups: int,
    ) -> None:
        """Keep the constructor's arguments, one number for each dimension."""
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self.each(kernel_size)
        self.stride = self.each(stride)
        self.padding = padding if isinstance(padding, str) else self.each(padding)
        self.dilation = self.each(dilation)
        self.groups = groups

    def convolved(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[n, in, …] → [n, out, …]."""
        return _CONVOLVE[self.spatial](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @classmethod
    def each(cls, value: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
        """One number for each spatial dimension."""
        return (value,) * cls.spatial if isinstance(value, int) else tuple(value)


class _QuantConv(QuantLayer, ConvGeometry):
    """Convolution with integer weights; ``kind`` is torch's."""

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
        weight_bits: int = 8,
        activation_bits: int | None = 8,
        group_size: int | None = None,
    ) -> None:
        super().__init__(
            (out_channels, in_channels // groups, *self.each(kernel_size)),
            bias=bias,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            group_size=group_size,
        )
        self.set_geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)

    def to_float(self) -> nn.Module:
        """Torch's layer with the dequantized weight."""
        return filled(self.kind(**conv_args(self), bias=self.bias is not None), self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, in, …] → [n, out, …]."""
        return self.convolved(self.rounded_input(x), self.weight, self.bias)


class QuantConv1d(_QuantConv):
    """nn.Conv1d with integer weights."""

    kind, spatial = nn.Conv1d, 1


class QuantConv2d(_QuantConv):
    """nn.Conv2d with integer weights."""

    kind, spatial = nn.Conv2d, 2


class QuantConv3d(_QuantConv):
    """nn.Conv3d with integer weights."""

    kind, spatial = nn.Conv3d, 3


QUANTIZABLE: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
}


def quantized_like(
    layer: nn.Module,
    *,
    weight_bits: int = 8,
    activation_bits: int | None = 8,
    group_size: int | None = None,
    smoothed: bool = False,
) -> QuantLayer:
    """An empty quantized layer of the same shape, its bias copied; exactly the types in ``QUANTIZABLE``.

    ``smoothed`` counts for linear layers only.
    """
    widths: dict[str, Any] = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "group_size": group_size,
    }
    made: QuantLayer
    if type(layer) is nn.Linear:
        made = QuantLinear(
            layer.in_features, layer.out_features, layer.bias is not None, **widths, smoothed=smoothed
        )
    elif type(layer) in QUANTIZABLE and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        made = QUANTIZABLE[type(layer)](**conv_args(layer), bias=layer.bias is not None, **widths)
    else:
        raise MethodError(
            "This layer type has no quantized form", got=type(layer).__name__, do="leave it in float"
        )
    if made.bias is not None:
        with torch.no_grad():
            made.bias.copy_(torch.as_tensor(layer.bias))
    return made.to(next(layer.parameters()).device).train(layer.training)


_F = TypeVar("_F", bound=nn.Module)


@torch.no_grad()
def filled(layer: _F, source: Any) -> _F:
    """The float ``layer`` with the decoded weight, the bias, the device and the mode of ``source``."""
    weight = source.weight
    layer.to(weight.device).train(source.training).requires_grad_(False)
    layer.get_parameter("weight").copy_(weight)
    if source.bias is not None:
        layer.get_parameter("bias").copy_(source.bias)
    return layer


def conv_args(layer: Any) -> dict[str, Any]:
    """The shape arguments of a convolution, float, quantized or packed, as JSON values."""
    padding, more = layer.padding, getattr(layer, "output_padding", ())
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": padding if isinstance(padding, str) else list(padding),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
        **({"output_padding": list(more)} if any(more) else {}),
    }


def quantized_args(layer: nn.Module) -> dict[str, Any]:
    """Constructor arguments of a quantized layer, as the bundle records them."""
    if isinstance(layer, QuantLinear):
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            **layer.quantization_args(),
        }
    if isinstance(layer, _QuantConv):
        return {**conv_args(layer), **layer.quantization_args()}
    raise MethodError("Not a quantized layer", got=type(layer).__name__)


for _layer in QUANTIZABLE.values():
    register_layer(_layer, quantized_args)
