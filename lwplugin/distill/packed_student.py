"""Students whose weights are packed already: unpacked so that they learn, and packed again in the same form.

Every packed layer trains as a float layer whose weight is what its encoding can say (straight-through, 1308.3432), so
any loss reaches it; scales and ranges that exporters go by stay as `quantize` decided them, those of signs and the
tables of codebooks learn.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwplugin.quantize.encodings import Codebook, Groups, Half, Signs
from lwplugin.quantize.layers import QuantLayer
from lwplugin.quantize.packed import PackedLayer
from lwplugin.quantize.packing import pack_codes, unpack_codes
from lwplugin.quantize.straight_through import round_through, sign_through
from lwplugin.quantize.weights import grouped, round_weight

Packed = dict[str, "QuantLayer | PackedLayer"]
"""Dotted name → the packed layer as it was."""


def unpacked(module: nn.Module) -> Packed:
    """Put a trainable layer in the place of every packed one; returns what stood there."""
    found: Packed = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, QuantLayer | PackedLayer)
    }
    for name, layer in found.items():
        module.set_submodule(name, _trainable(layer))
    return found


@torch.no_grad()
def packed_again(module: nn.Module, packed: Packed) -> None:
    """Undo ``unpacked`` with what was learnt."""
    for name, layer in packed.items():
        trained: Any = module.get_submodule(name)
        trained.parametrizations.weight[0].store(layer, trained.parametrizations.weight.original)
        if layer.bias is not None:
            layer.bias.copy_(trained.bias)
        module.set_submodule(name, layer)


def _trainable(layer: QuantLayer | PackedLayer) -> nn.Module:
    made: Any = layer.to_float().requires_grad_(True)
    with torch.no_grad():
        made.weight.copy_(layer.weight)  # of the input as it is rounded, after any gain
    if isinstance(layer, QuantLayer):
        made.register_forward_pre_hook(lambda _, args: (layer.rounded_input(args[0]), *args[1:]))
        stand_in: nn.Module = _Integers(layer)
    else:
        stand_in = _STAND_INS[type(layer.encoding)](layer)
    parametrize.register_parametrization(made, "weight", stand_in, unsafe=True)
    return made


class _Integers(nn.Module):
    """Symmetric integers with fixed scales; as many levels as are in use, so that kernels do not overflow."""

    scale: Tensor

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        self.register_buffer("scale", layer.scale.clone())
        # The largest level in use, as 7-bit weights on CPUs that saturate must stay 7 bits wide.
        self.limit = max(1, int(layer.integers().to(torch.int16).abs().max()))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight; gradients pass where it is not clipped."""
        rows = grouped(weight, weight[0].numel() // self.scale.shape[1])
        step = self.scale.unsqueeze(-1)
        return (round_through(rows / step).clamp(-self.limit, self.limit) * step).reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The float weight behind it."""
        return weight

    def store(self, layer: QuantLayer, weight: Tensor) -> None:
        """Into the packed layer."""
        layer.set_weight(round_weight(weight, self.scale, self.limit), self.scale)


class _GroupCodes(nn.Module):
    """Codes of asymmetric groups with fixed scales and zero points."""

    scale: Tensor
    zero: Tensor

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.encoding = cast(Any, layer.encoding)
        self.register_buffer("scale", layer.stored["scale"].float())
        self.register_buffer("zero", self.encoding.zeros(layer.stored, layer.weight_shape).float())

    def _codes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = weight[0].numel()
        of = torch.arange(row, device=weight.device) // self.encoding.group_size
        scale, zero = self.scale[:, of], self.zero[:, of]
        codes = round_through(weight.reshape(len(weight), -1) / scale) + zero
        return codes.clamp(0, 2**self.encoding.width - 1), scale, zero

    def forward(self, weight: Tensor) -> Tensor:
        """The decoded weight; gradients pass where it is not clipped."""
        codes, scale, zero = self._codes(weight)
        return ((codes - zero) * scale).reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The float weight behind it."""
        return weight

    def store(self, layer: PackedLayer, weight: Tensor) -> None:
        """Into the packed layer; scale and zero points stay."""
        layer.store(codes=pack_codes(self._codes(weight)[0].to(torch.uint8), self.encoding.width))


class _SignCodes(nn.Module):
    """Signs whose two values a row learn too."""

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        rows = (-1, *[1] * (len(layer.weight_shape) - 1))
        self.scale = nn.Parameter(layer.stored["scale"].clone().view(rows))
        self.shift = nn.Parameter(layer.stored["shift"].clone().view(rows))

    def forward(self, leaning: Tensor) -> Tensor:
        """The two-valued weight of what leans to one side or the other."""
        return sign_through(leaning) * self.scale + self.shift

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Near the border on the side each weight is on, as nothing is left of how far it was: all may change sides."""
        return torch.where(weight >= self.shift, 0.05, -0.05)

    def store(self, layer: PackedLayer, leaning: Tensor) -> None:
        """Into the packed layer."""
        layer.store(
            codes=pack_codes((leaning >= 0).to(torch.uint8), 1),
            scale=self.scale.reshape(-1),
            shift=self.shift.reshape(-1),
        )


class _TableValues(nn.Module):
    """Shared values that learn; which weight shares which stays."""

    codes: Tensor

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.encoding = cast(Any, layer.encoding)
        self.shape = layer.weight_shape
        codes = unpack_codes(layer.stored["codes"], self.encoding.width, layer.weight.numel())
        self.register_buffer("codes", codes.to(torch.int64).view(self.encoding.tables, -1))
        self.register_buffer("start", layer.stored["table"].float(), persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        """Every weight looked up."""
        return table.gather(1, self.codes).reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The table itself: it is what is trained."""
        return self.get_buffer("start").clone()

    def store(self, layer: PackedLayer, table: Tensor) -> None:
        """Into the packed layer, float16."""
        layer.store(table=table)


class _HalfNumbers(nn.Module):
    """Numbers of 16 bits, trained in 32."""

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.dtype = layer.stored["numbers"].dtype

    def forward(self, weight: Tensor) -> Tensor:
        """Rounded to 16 bits; gradients pass."""
        return weight + (weight.to(self.dtype).float() - weight).detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The float weight behind it."""
        return weight

    def store(self, layer: PackedLayer, weight: Tensor) -> None:
        """Into the packed layer."""
        layer.store(numbers=weight)


_STAND_INS: dict[type, type[nn.Module]] = {
    Groups: _GroupCodes,
    Signs: _SignCodes,
    Codebook: _TableValues,
    Half: _HalfNumbers,
}
