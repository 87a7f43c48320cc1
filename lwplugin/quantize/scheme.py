"""How real numbers become integers: ranges, scales, zero points, and what this machine's kernels need."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from lwplugin.errors import MethodError

ReduceRange = Literal["auto", "true", "false"] | bool

# u8 times s8, summed in pairs into 16 bits (vpmaddubsw): 2 * 255 * 64 still fits, 65 does not.
REDUCED_WEIGHT_LIMIT = 64


@dataclass(frozen=True)
class AffineGrid:
    """An affine integer grid for a tensor: real = scale * (integer - zero_point), low <= integer <= high."""

    scale: float
    zero_point: int
    low: int
    high: int

    @classmethod
    def of_range(cls, lo: float, hi: float, *, bits: int = 8) -> AffineGrid:
        """The unsigned asymmetric grid that covers [lo, hi]; zero is always represented exactly."""
        low, high = 0, 2**bits - 1
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        scale = _float32(max((hi - lo) / (high - low), 1e-12))
        zero_point = int(min(max(round(low - lo / scale), low), high))
        return cls(scale=scale, zero_point=zero_point, low=low, high=high)

    @classmethod
    def symmetric(cls, lo: float, hi: float, *, bits: int = 8) -> AffineGrid:
        """The signed symmetric grid (zero point 0) that covers [lo, hi]."""
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = _float32(max(lo / low, hi / high, 1e-12))
        return cls(scale=scale, zero_point=0, low=low, high=high)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Round ``x`` to the grid, in float."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.low, self.high)


def around_zero(lo: float, hi: float, *, bits: int = 8) -> tuple[float, float]:
    """The range whose unsigned grid is the symmetric one of [lo, hi], its zero point in the middle.

    A range without negative values stays: its zero point is at the end.
    """
    if lo >= 0.0:
        return lo, hi
    grid = AffineGrid.symmetric(lo, hi, bits=bits)
    return grid.scale * grid.low, grid.scale * grid.high


def dynamically_rounded(x: torch.Tensor, bits: int = 8, *, alone: bool = False) -> torch.Tensor:
    """``x`` rounded to the grid of its own range, one for the whole tensor: ONNX's DynamicQuantizeLinear.

    ``alone``: every example has a range of its own, as where each is asked for by itself.
    """
    if alone and x.ndim > 2:
        return torch.stack([dynamically_rounded(example, bits) for example in x])
    levels = 2**bits - 1
    lo, hi = (bound.float() for bound in torch.aminmax(x.detach()))
    lo, hi = lo.clamp_max(0), hi.clamp_min(0)
    scale = ((hi - lo) / levels).clamp_min(1e-12)
    zero = (-lo / scale).round().clamp(0, levels)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero.to(torch.int32), 0, levels)


def weight_limit(bits: int, *, reduced: bool = False) -> int:
    """Largest magnitude of a symmetric integer weight: 127 for 8 bits, 64 where 8-bit kernels saturate."""
    if not 2 <= bits <= 8:
        raise MethodError("Weights can have 2 to 8 bits", got=bits, do="choose weight_bits between 2 and 8")
    limit = int(2 ** (bits - 1) - 1)
    return min(limit, REDUCED_WEIGHT_LIMIT) if reduced else limit


def needs_reduced_range(choice: ReduceRange) -> bool:
    """Whether 8-bit weights must leave one bit free for the accumulators of this machine's kernels.

    ``auto`` answers yes on x86 without VNNI, where products of two pairs are added in saturating 16 bits.
    """
    if choice == "auto":
        return not has_dot_product_kernels()
    return choice is True or choice == "true"


@cache
def has_dot_product_kernels() -> bool:
    """True where 8-bit products accumulate in 32 bits (x86 VNNI or AMX, ARM); unknown x86 counts as not."""
    if platform.machine().lower() not in {"x86_64", "amd64", "i686", "i386"}:
        return True
    return bool(cpu_flags() & {"avx_vnni", "avx512_vnni", "amx_int8"})


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of the first CPU as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def sqnr_db(reference: torch.Tensor, quantized: torch.Tensor) -> float:
    """Signal to quantization noise in decibels; 200.0 where there is no noise at all."""
    wanted, got = reference.detach().double(), quantized.detach().double()
    return decibels(float(wanted.square().sum()), float((wanted - got).square().sum()))


def decibels(signal: float, noise: float) -> float:
    """Ratio of two energies in decibels, kept within ±200."""
    if noise <= 0.0:
        return 200.0
    if signal <= 0.0:
        return -200.0
    return min(max(10.0 * math.log10(signal / noise), -200.0), 200.0)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
