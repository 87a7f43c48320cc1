"""Small integers at their true width: 1 to 7 bits in a dense little-endian byte string, 8 bits as plain bytes."""

from __future__ import annotations

from math import lcm

import torch

from lwplugin.errors import ModelError


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` integers of ``bits`` bits take when packed."""
    return count if bits == 8 else (count * bits + 7) // 8


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed integers in [-2^(bits-1), 2^(bits-1)) → flat tensor: int8 for 8 bits, else dense uint8.

    Raises ModelError when a value does not fit.
    """
    flat = values.detach().reshape(-1).to(torch.int16)
    bound = 2 ** (bits - 1)
    if flat.numel() and (int(flat.min()) < -bound or int(flat.max()) >= bound):
        raise ModelError(
            f"An integer weight does not fit in {bits} bits", got=f"[{int(flat.min())}, {int(flat.max())}]"
        )
    return flat.to(torch.int8) if bits == 8 else pack_codes((flat + bound).to(torch.uint8), bits)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Inverse of `pack`: flat int8 tensor with ``count`` values."""
    _check_length(packed, bits, count)
    if bits == 8:
        return packed.to(torch.int8)
    return (unpack_codes(packed, bits, count).to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned integers in [0, 2^bits) → flat uint8 tensor. Raises ModelError when a value does not fit."""
    flat = codes.detach().reshape(-1).to(torch.uint8)
    if flat.numel() and int(flat.max()) >= 2**bits:
        raise ModelError(f"A code does not fit in {bits} bits", got=int(flat.max()))
    if bits == 8:
        return flat
    values, size = _block(bits)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % values)).view(-1, values)
    words = torch.zeros(len(padded), dtype=torch.int64, device=flat.device)
    for place in range(values):
        words |= padded[:, place].to(torch.int64) << (place * bits)
    made = torch.stack([(words >> (8 * place)) & 255 for place in range(size)], 1).to(torch.uint8)
    return made.reshape(-1)[: packed_bytes(flat.numel(), bits)].clone()


def unpack_codes(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Inverse of `pack_codes`: flat uint8 tensor with ``count`` values."""
    _check_length(packed, bits, count)
    if bits == 8:
        return packed
    values, size = _block(bits)
    padded = torch.nn.functional.pad(packed, (0, -packed.numel() % size)).view(-1, size)
    if size == 1:
        parts = [(padded[:, 0] >> (place * bits)) & (2**bits - 1) for place in range(values)]
    else:
        words = torch.zeros(len(padded), dtype=torch.int64, device=packed.device)
        for place in range(size):
            words |= padded[:, place].to(torch.int64) << (8 * place)
        parts = [((words >> (place * bits)) & (2**bits - 1)).to(torch.uint8) for place in range(values)]
    return torch.stack(parts, 1).reshape(-1)[:count]


def _block(bits: int) -> tuple[int, int]:
    """The smallest run of whole bytes: how many values it holds, and its bytes."""
    width = lcm(bits, 8)
    return width // bits, width // 8


def _check_length(packed: torch.Tensor, bits: int, count: int) -> None:
    if packed.numel() != packed_bytes(count, bits):
        raise ModelError(
            f"Packed weights of {count} values at {bits} bits take {packed_bytes(count, bits)} bytes",
            got=packed.numel(),
        )
